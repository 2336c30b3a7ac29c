"""JPEG: segments are read and written here; OpenCV codes the pixels (Pillow decodes CMYK)."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from medcli.errors import OutputError
from medcli.images import exif
from medcli.images.picture import Metadata, Page, Picture
from medcli.images.pillow import opened_as, page_of
from medcli.images.raster import as_bgr, from_bgr
from medcli.images.source import Source

DEFAULT_QUALITY = 95
SOI, EOI, SOS, DQT, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xFE
APP0, APP1, APP2, APP11, APP12, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xEC, 0xEE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ICC = b"ICC_PROFILE\0"
MULTI_PICTURE = b"MPF\0"
ROOM = 65533  # bytes of content in one segment
SAMPLING = {
    (1, 1): ("4:4:4", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    (2, 1): ("4:2:2", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    (2, 2): ("4:2:0", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    (1, 2): ("4:4:0", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    (4, 1): ("4:1:1", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
}
CODES = dict(SAMPLING.values())

Tables = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Segment:
    marker: int
    content: bytes


@dataclass(frozen=True)
class Frame:
    bits: int
    height: int
    width: int
    factors: tuple[tuple[int, int], ...]  # across and down, for each component


def decode(source: Source) -> Picture:
    """A `Picture` of one page, bit for bit what libjpeg gives. Raises InputError for a damaged file."""
    data = source.content()
    parts = list(segments(data))
    frame = _frame(parts, source)
    source.admit(frame.width, frame.height)
    if not _complete(data, parts):
        raise source.damaged(f"it breaks off after {len(data)} bytes")
    picture = Picture([], "jpeg", _metadata(parts, frame))
    if len(frame.factors) == 4:
        meta = picture.metadata
        page, lines = page_of(opened_as("JpegImagePlugin:JpegImageFile", data, source), source, meta.icc)
        meta.icc = meta.subsampling = None  # both describe the inks
        picture.remark(*lines)
    else:
        page = _pixels(data, frame, source)
    if any(part.marker == APP2 and part.content.startswith(MULTI_PICTURE) for part in parts):
        picture.remark("Only the first picture in the file is kept; others, such as a gain map, are dropped.")
    picture.pages.append(page)
    return picture


def segments(data: bytes) -> Iterator[Segment]:
    """The segments up to and including the start of the first scan; the walk ends quietly where the data does."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            return
        yield Segment(marker, data[at + 4 : at + 2 + length])
        if marker == SOS:
            return
        at += 2 + length


def _frame(parts: list[Segment], source: Source) -> Frame:
    found = next((part.content for part in parts if part.marker in FRAMES), b"")
    if len(found) < 6 or len(found) < 6 + 3 * found[5]:
        raise source.damaged("its header is incomplete")
    bits, height, width, count = struct.unpack(">BHHB", found[:6])
    if bits != 8:
        raise source.unfit(f"it is a JPEG of {bits} bits", "Convert it to a 16-bit PNG or TIFF first.")
    if count not in (1, 3, 4):
        raise source.unfit(f"it has {count} components", "Convert it to gray or RGB first.")
    factors = tuple((found[at] >> 4, found[at] & 15) for at in range(7, 7 + 3 * count, 3))
    return Frame(bits, height, width, factors)


def _complete(data: bytes, parts: list[Segment]) -> bool:
    """Whether the end marker follows the first scan: libjpeg would paint a missing rest gray and only warn."""
    if not parts or parts[-1].marker != SOS:
        return False
    return data.find(bytes((0xFF, EOI)), data.index(parts[-1].content)) >= 0


def _pixels(data: bytes, frame: Frame, source: Source) -> Page:
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # this flag leaves orientation alone
    except cv2.error:
        array = None
    if array is None or array.shape[:2] != (frame.height, frame.width):
        raise source.damaged("its pixels cannot be unpacked")
    return from_bgr(array)


def _metadata(parts: list[Segment], frame: Frame) -> Metadata:
    meta, native, profile = Metadata(), [], {}
    for part in parts:
        head = part.content
        if part.marker == APP1 and head.startswith(exif.PREFIX):
            meta.exif = meta.exif or exif.tidied(head, frame.width, frame.height)
        elif part.marker == APP1 and head.startswith(XMP):
            meta.xmp = head[len(XMP) :]
        elif part.marker == APP2 and head.startswith(ICC) and len(head) > 14:
            profile[head[12]] = head[14:]
        elif part.marker == APP0 and head.startswith(b"JFIF\0") and len(head) >= 14:
            native.append((bytes((APP0,)), head[:12] + b"\0\0"))  # without the thumbnail
            meta.dpi = _density(head)
        elif _worth_keeping(part):
            native.append((bytes((part.marker,)), head))
    meta.icc = b"".join(profile[index] for index in sorted(profile)) or None
    meta.native = tuple(native)
    meta.quality = estimated_quality(tables(parts))
    if len(frame.factors) == 3:
        ratio = tuple(most // max(1, least) for most, least in zip(*frame.factors[:2], strict=True))
        meta.subsampling = SAMPLING.get((ratio[0], ratio[1]), SAMPLING[1, 1])[0]
    return meta


def _worth_keeping(part: Segment) -> bool:
    """Comments and applications' segments, but not those that describe the old coding (11: signatures, gain maps)."""
    if part.marker == APP2 and part.content.startswith(MULTI_PICTURE):
        return False
    return part.marker == COM or (APP0 < part.marker <= 0xEF and part.marker not in (APP11, APP12, APP14))


def _density(head: bytes) -> tuple[float, float] | None:
    unit, across, down = struct.unpack(">BHH", head[7:12])
    scale = {1: 1.0, 2: 2.54}.get(unit)
    return (across * scale, down * scale) if scale and across and down else None


def tables(parts: list[Segment]) -> Tables:
    """The quantisation tables, the one for luma first, in zigzag order."""
    found: dict[int, tuple[int, ...]] = {}
    for part in parts:
        at = 0
        while part.marker == DQT and at < len(part.content):
            width = 2 if part.content[at] >> 4 else 1
            values = part.content[at + 1 : at + 1 + 64 * width]
            if len(values) < 64 * width:
                break
            found[part.content[at] & 15] = struct.unpack(">64" + ("H" if width == 2 else "B"), values)
            at += 1 + 64 * width
    return tuple(found[index] for index in sorted(found))


def estimated_quality(found: Tables) -> int | None:
    """The quality, 1 to 100, at which our encoder's tables come nearest to those found."""
    if not found:
        return None
    return min(range(100, 0, -1), key=lambda quality: _distance(found, _tables_at(quality)))


def _distance(found: Tables, own: Tables) -> int:
    return sum(abs(a - b) for one, other in zip(found, own, strict=False) for a, b in zip(one, other, strict=True))


@functools.cache
def _tables_at(quality: int) -> Tables:
    """Asked from the encoder that will be used, rather than computed from a formula that it may not follow."""
    _, coded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return tables(list(segments(coded.tobytes())))


def encode(picture: Picture, stream: BinaryIO, quality: int | None) -> None:
    """Write one uint8 page without alpha. Raises OutputError where the encoder gives up."""
    meta = picture.metadata
    quality = quality or meta.quality or DEFAULT_QUALITY
    sampling = meta.subsampling or ("4:4:4" if quality >= 90 else "4:2:0")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CODES[sampling]]
    with as_bgr(picture.pages[0]) as array:
        done, coded = cv2.imencode(".jpg", array, options)
    if not done:
        raise OutputError("The picture cannot be coded as JPEG.", "Write PNG or TIFF.")
    view = memoryview(coded.data)
    own_head = 2 + 2 + int.from_bytes(view[4:6], "big")  # the encoder's start and JFIF segments
    stream.write(view[:2])
    for marker, content in _carried(picture):
        stream.write(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    stream.write(view[own_head:])


def _carried(picture: Picture) -> Iterator[tuple[int, bytes]]:
    meta = picture.metadata
    native = [(kind[0], content) for kind, content in meta.native]
    yield from [each for each in native if each[0] == APP0] or [(APP0, _jfif(meta.dpi))]
    for block, prefix, word in ((meta.exif, exif.PREFIX, "EXIF"), (meta.xmp, XMP, "XMP")):
        if block and len(prefix + block) <= ROOM:
            yield APP1, prefix + block
        elif block:
            picture.remark(f"The {word} of {len(block)} bytes does not fit into a JPEG: dropped.")
    pieces = [meta.icc[at : at + ROOM - 14] for at in range(0, len(meta.icc), ROOM - 14)] if meta.icc else []
    for index, piece in enumerate(pieces, 1):
        yield APP2, ICC + bytes((index, len(pieces))) + piece
    yield from (each for each in native if each[0] != APP0)


def _jfif(dpi: tuple[float, float] | None) -> bytes:
    unit, across, down = (1, *(max(1, round(value)) for value in dpi)) if dpi else (0, 1, 1)
    return b"JFIF\0" + struct.pack(">BBBHHBB", 1, 1, unit, across, down, 0, 0)
