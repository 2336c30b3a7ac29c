"""BMP: Pillow reads it; it is simple enough to be written here, row by row."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from medcli.errors import OutputError
from medcli.images.picture import Metadata, Page, Picture
from medcli.images.pillow import opened_as, page_of
from medcli.images.raster import bands, colour, interleaved
from medcli.images.source import Source

METRE = 39.3701  # inches, with the digits that other programs use
PLAIN, MASKED = 0, 3  # how pixels are coded
GRAYS = b"".join(bytes((level, level, level, 0)) for level in range(256))
MASKS = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)


def decode(source: Source) -> Picture:
    """A `Picture` of one page. Raises InputError for a damaged file."""
    image = opened_as("BmpImagePlugin:BmpImageFile", None, source)
    source.admit(*image.size)
    page, lines = page_of(image, source)
    dpi = image.info.get("dpi")
    meta = Metadata(dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(dpi) else None)
    return Picture([page], "bmp", meta, lines)


def encode(picture: Picture, stream: BinaryIO, quality: int | None) -> None:
    """Write one uint8 page: 8 bits gray, 24 bits RGB, or 32 bits with alpha. Raises OutputError beyond 4 GB."""
    page = picture.pages[0]
    if page.alpha is not None:
        page = Page(colour(page.pixels), page.alpha)
    height, width = page.pixels.shape[:2]
    bits = 8 if page.pixels.ndim == 2 else 24 if page.alpha is None else 32
    stride = (width * bits // 8 + 3) // 4 * 4
    extra = {8: GRAYS, 24: b"", 32: MASKS}[bits]
    start = 14 + 40 + len(extra)
    if start + stride * height >= 2**32:
        raise OutputError("The picture is too large for BMP.", "Write PNG or TIFF.")
    density = [round(value * METRE) for value in picture.metadata.dpi or (0, 0)]
    coding, info = (MASKED, 40 + len(extra)) if bits == 32 else (PLAIN, 40)
    stream.write(struct.pack("<2sIII", b"BM", start + stride * height, 0, start))
    stream.write(struct.pack("<IiiHHIIiiII", info, width, height, 1, bits, coding, stride * height, *density, 0, 0))
    stream.write(extra)
    _put_rows(page, stream, stride)


def _put_rows(page: Page, stream: BinaryIO, stride: int) -> None:
    """Rows from the bottom up, blue first, each padded to `stride` bytes."""
    order = [2, 1, 0, 3][: 3 if page.alpha is None else 4]
    for rows in reversed(list(bands(page.pixels))):
        block = interleaved(page, rows)
        block = (block if block.ndim == 2 else block[:, :, order])[::-1].reshape(len(block), -1)
        padded = np.zeros((len(block), stride), np.uint8)
        padded[:, : block.shape[1]] = block
        stream.write(padded.data)
