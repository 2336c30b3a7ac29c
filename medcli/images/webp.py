"""WebP: the container is read and written here; OpenCV and Pillow code the pixels."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import cv2
from PIL import Image

from medcli.errors import OutputError
from medcli.images import exif, thumbnail
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.raster import as_bgr, colour, from_bgr, interleaved, unpacked
from medcli.images.source import ImageBytes
from medcli.images.vp8 import estimated_quality

DEFAULT_QUALITY = 95
HAS_ICC, HAS_ALPHA, HAS_EXIF, HAS_XMP = 0x20, 0x10, 0x08, 0x04
KINDS = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "}
CHUNKS = 1 << 16  # more are passed over
PIXELS_PER_BYTE = 2048  # the modes of 16x16 pixels take 1.6 bits at least

Chunk = tuple[bytes, bytes]


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one RGB page, alpha included. Raises InputError for a damaged file."""
    data = source.content()
    end = int.from_bytes(data[4:8], "little") + 8
    if len(data) < 20 or end > len(data):
        raise source.damaged(f"it breaks off after {len(data)} bytes")
    listed = chunks(data[:end])
    width, height = _size(listed, source)
    held = dict(reversed(listed))  # the first of a kind counts
    frame = dict(reversed(chunks(held[b"ANMF"], 16))) if b"ANMF" in held else held
    packed = len(frame.get(b"VP8L") or frame.get(b"VP8 ", b""))
    lossy = listed[0][0] == b"VP8 "
    source.admit(width, height, most=PIXELS_PER_BYTE * packed if lossy else source.most_pixels(packed))
    meta = Metadata(icc=held.get(b"ICCP"), xmp=held.get(b"XMP "), lossless=b"VP8L" in frame)
    if b"EXIF" in held:
        meta.exif, meta.thumbnail = exif.tidied(held[b"EXIF"], width, height), thumbnail.size_of(held[b"EXIF"])
    meta.quality = estimated_quality(frame.get(b"VP8 ", b""))
    image = DecodedImage([_pixels(data[:end], width, height, source)], "webp", meta)
    if not meta.lossless and meta.quality is None:
        image.remark(f"The quality of the file is unknown: {DEFAULT_QUALITY} is used unless one is given.")
    if b"ANIM" in held:
        image.remark("Only the first frame of the animation is kept.")
    if others := sorted(kind.decode("ascii", "replace").strip() for kind in held.keys() - KINDS):
        image.remark(f"Chunks that are unknown were dropped: {', '.join(others)}.")
    if data[end:].strip(b"\0"):
        image.remark(f"{len(data) - end} bytes behind the end of the image were dropped.")
    return image


def chunks(data: bytes, at: int = 12) -> list[Chunk]:
    """(kind, content) of every chunk in the file, or in a frame of an animation, from position `at` on."""
    found: list[Chunk] = []
    while at + 8 <= len(data) and len(found) < CHUNKS:
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def _size(listed: list[Chunk], source: ImageBytes) -> tuple[int, int]:
    kind, content = listed[0] if listed else (b"", b"")
    if kind == b"VP8X" and len(content) >= 10:
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if kind == b"VP8 " and len(content) >= 10:
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(content) >= 5:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise source.damaged("its header is incomplete")


def _pixels(data: bytes, width: int, height: int, source: ImageBytes) -> Page:
    array = unpacked(data)
    if array is None or array.shape[:2] != (height, width):
        raise source.damaged("its pixels cannot be unpacked")
    return from_bgr(array)


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one uint8 page: lossless where the source was, in the source's quality, or in the one given.

    Raises OutputError where the encoder gives up.
    """
    meta, page = image.metadata, image.pages[0]
    page = Page(colour(page.pixels), page.alpha)
    coded = (
        _lossless(page)
        if meta.lossless and quality is None
        else _lossy(page, quality or meta.quality or DEFAULT_QUALITY)
    )
    _assemble(stream, [each for each in chunks(coded) if each[0] != b"VP8X"], page, meta)


def _lossless(page: Page) -> bytes:
    """Through Pillow: OpenCV's encoder changes the colours under full transparency."""
    packed = io.BytesIO()
    Image.fromarray(interleaved(page, slice(None))).save(
        packed, "webp", lossless=True, exact=True, quality=40, method=2
    )
    return packed.getvalue()


def _lossy(page: Page, quality: int) -> bytes:
    """Through OpenCV, which needs no four-byte copy of the image."""
    with as_bgr(page) as array:
        done, coded = cv2.imencode(".webp", array, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise OutputError("The image cannot be coded as WebP.", "Write PNG or TIFF.")
    return bytes(coded)


def _assemble(stream: BinaryIO, pixels: list[Chunk], page: Page, meta: Metadata) -> None:
    height, width = page.pixels.shape[:2]
    flags = (HAS_ICC if meta.icc else 0) | (HAS_EXIF if meta.exif else 0) | (HAS_XMP if meta.xmp else 0)
    flags |= HAS_ALPHA if page.alpha is not None else 0
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = [(b"VP8X", bytes((flags, 0, 0, 0)) + sides)] if flags else []
    parts += [(b"ICCP", meta.icc)] if meta.icc else []
    parts += pixels
    parts += [(b"EXIF", meta.exif)] if meta.exif else []
    parts += [(b"XMP ", meta.xmp)] if meta.xmp else []
    total = 4 + sum(8 + len(content) + len(content) % 2 for _, content in parts)
    stream.write(struct.pack("<4sI4s", b"RIFF", total, b"WEBP"))
    for kind, content in parts:
        stream.write(struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2))
