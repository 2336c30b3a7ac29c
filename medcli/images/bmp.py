"""BMP: Pillow reads it; it is simple enough to be written here, row by row."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from medcli.errors import OutputError
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.pillow import opened_as, page_of
from medcli.images.raster import bands, colour, interleaved
from medcli.images.source import ImageBytes

METRE = 39.3701  # inches, with the digits that other programs use
PLAIN, MASKED = 0, 3  # how pixels are coded
GRAYS = b"".join(bytes((level, level, level, 0)) for level in range(256))
MASKS = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
SRGB, EMBEDDED, LINKED, CALIBRATED = b"BGRs", b"DEBM", b"KNIL", bytes(4)  # kinds of colour space
COLOURS_AT, PROFILE_AT = (
    56,
    112,
)  # in headers of 108 bytes and more, and of 124: the kind; place and size of the profile
PERCEPTUAL = 4  # how a profile is meant


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page. Raises InputError for a damaged file."""
    pillow_image = opened_as("BmpImagePlugin:BmpImageFile", None, source)
    source.admit(*pillow_image.size)
    icc, lines = _profile(source)
    page, converted = page_of(pillow_image, source, icc)
    dpi = pillow_image.info.get("dpi")
    meta = Metadata(icc=icc, dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(dpi) else None)
    return DecodedImage([page], "bmp", meta, converted + lines)


def _profile(source: ImageBytes) -> tuple[bytes | None, list[str]]:
    """The colour profile in a header of 124 bytes; a note on what cannot be kept of the others."""
    data = source.content()
    head = data[14 : 14 + 124]
    size = int.from_bytes(head[:4], "little")
    kind = head[COLOURS_AT : COLOURS_AT + 4] if size >= 108 else b""
    if kind == EMBEDDED and size == len(head) == 124:
        at, length = struct.unpack_from("<II", head, PROFILE_AT)
        if length and 14 + at + length <= len(data):
            return data[14 + at : 14 + at + length], []
    if kind in (EMBEDDED, LINKED) or (kind == CALIBRATED and any(head[60:108])):
        return None, ["The colour space in the header could not be kept: dropped."]
    return None, []


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one uint8 page: 8 bits gray, 24 bits RGB, or 32 bits with alpha. Raises OutputError beyond 4 GB."""
    page = image.pages[0]
    if page.alpha is not None:
        page = Page(colour(page.pixels), page.alpha)
    height, width = page.pixels.shape[:2]
    bits = 8 if page.pixels.ndim == 2 else 24 if page.alpha is None else 32
    stride = (width * bits // 8 + 3) // 4 * 4
    icc = image.metadata.icc or b""
    info = 124 if icc else 108 if bits == 32 else 40
    colours = GRAYS if bits == 8 else b""
    start = 14 + info + len(colours)
    total = start + stride * height + len(icc)
    if total >= 2**32:
        raise OutputError("The image is too large for BMP.", "Write PNG or TIFF.")
    density = [round(value * METRE) for value in image.metadata.dpi or (0, 0)]
    coding = MASKED if bits == 32 else PLAIN
    head = struct.pack("<IiiHHIIiiII", info, width, height, 1, bits, coding, stride * height, *density, 0, 0)
    head += (MASKS if bits == 32 else bytes(16)) + (EMBEDDED if icc else SRGB) + bytes(48)
    head += struct.pack("<IIII", PERCEPTUAL, total - len(icc) - 14, len(icc), 0)
    stream.write(struct.pack("<2sIII", b"BM", total, 0, start))
    stream.write(head[:info])
    stream.write(colours)
    _put_rows(page, stream, stride)
    stream.write(icc)


def _put_rows(page: Page, stream: BinaryIO, stride: int) -> None:
    """Rows from the bottom up, blue first, each padded to `stride` bytes."""
    order = [2, 1, 0, 3][: 3 if page.alpha is None else 4]
    for rows in reversed(list(bands(page.pixels))):
        block = interleaved(page, rows)
        block = (block if block.ndim == 2 else block[:, :, order])[::-1].reshape(len(block), -1)
        padded = np.zeros((len(block), stride), np.uint8)
        padded[:, : block.shape[1]] = block
        stream.write(padded.data)
