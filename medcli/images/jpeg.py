"""JPEG: segments are read and written here; Pillow codes the pixels, and is shown only what codes them."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from medcli.images import exif, multi_picture, thumbnail
from medcli.images.decoded_image import DecodedImage, Metadata
from medcli.images.pillow import load, opened_as, page_of
from medcli.images.source import ImageBytes

DEFAULT_QUALITY = 95
SOI, EOI, SOS, DQT, DRI, COM, TEM = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE, 0x01
APP0, APP1, APP2, APP11, APP12, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xEC, 0xEE
START, END = b"\xff\xd8", b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither stuffing, padding nor a restart inside a scan
FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)  # the last is JPEG-LS
ARITHMETIC = frozenset(range(0xC9, 0xD0))
CODING = frozenset((*range(0xC0, 0xD0), SOS, DQT, DRI, APP14))
JFIF, JFXX = b"JFIF\0", b"JFXX\0"  # JFXX: a thumbnail alone
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ICC = b"ICC_PROFILE\0"
ROOM = 65533  # bytes of content in one segment
SEGMENTS = 1 << 16  # more are taken for damage
BLOCKS_PER_BYTE = 8  # Huffman codes have one bit at least, and each block of 8x8 pixels has one
# (1, 2) and (4, 1) are beyond the encoder: the chroma of what is written is as fine, or finer
SAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:4", (4, 1): "4:2:2"}
TRAILER = b"trailer"  # kind of a native block: all that follows the image's end

Tables = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Segment:
    marker: int
    content: bytes
    start: int  # position of the marker in the file


@dataclass(frozen=True)
class FrameHeader:
    marker: int
    height: int
    width: int
    factors: tuple[tuple[int, int], ...]  # across and down, for each component


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page, bit for bit what libjpeg gives. Raises InputError for a damaged file."""
    data = source.content()
    parts, end = segments(data, source)
    frame = _frame(parts, source)
    most = source.most_pixels(len(data)) if frame.marker in ARITHMETIC else 64 * BLOCKS_PER_BYTE * len(data)
    source.admit(frame.width, frame.height, most=most)
    meta, lines = _metadata(parts, frame, data, end)
    image = DecodedImage([], "jpeg", meta)
    stream = _coding(data, parts, end)
    pillow_image = _opened(stream + END, source)
    meta.quantization = _tables(pillow_image)
    page, converted = page_of(pillow_image, source, meta.icc)
    if end is None:
        _expect_all(stream, pillow_image, source)
        lines.append("The end marker is missing.")
    if len(frame.factors) == 4:
        meta.icc = meta.subsampling = None  # both describe the inks
        meta.quantization = ()
    image.remark(*converted, *lines)
    image.pages.append(page)
    return image


def segments(data: bytes, source: ImageBytes) -> tuple[list[Segment], int | None]:
    """All segments up to the end marker, and the position behind it; None where there is none.

    Bytes that belong to no segment are passed over, as libjpeg does.
    """
    parts: list[Segment] = []
    at = len(START)
    while found := MARKER.search(data, at):
        start, marker = found.start(), data[found.start() + 1]
        if marker == EOI:
            return parts, found.end()
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (SOI, TEM):
            stop = found.end()
        elif stop < start + 4 or stop > len(data):
            break
        else:
            parts.append(Segment(marker, data[start + 4 : stop], start))
        if len(parts) > SEGMENTS:
            raise source.damaged(f"it has more than {SEGMENTS} segments")
        at = stop
    if all(part.marker != SOS for part in parts):
        raise source.damaged(f"it breaks off after {len(data)} bytes")
    return parts, None


def _frame(parts: list[Segment], source: ImageBytes) -> FrameHeader:
    found = next((part for part in parts if part.marker in FRAMES), Segment(0, b"", 0))
    head = found.content
    if len(head) < 6 or len(head) < 6 + 3 * head[5]:
        raise source.damaged("its header is incomplete")
    bits, height, width, count = struct.unpack(">BHHB", head[:6])
    if bits != 8:
        raise source.unfit(f"it is a JPEG of {bits} bits", "Convert it to a 16-bit PNG or TIFF first.")
    if found.marker in LOSSLESS:
        raise source.unfit("it is a lossless JPEG", "Convert it to PNG or TIFF first, for instance with ImageJ.")
    if count not in (1, 3, 4):
        raise source.unfit(f"it has {count} components", "Convert it to gray or RGB first.")
    return FrameHeader(
        found.marker, height, width, tuple((head[at] >> 4, head[at] & 15) for at in range(7, 7 + 3 * count, 3))
    )


def _coding(data: bytes, parts: list[Segment], end: int | None) -> bytes:
    """The image without its end marker and all that does not code pixels, so that nothing else is interpreted."""
    stops = [part.start for part in parts[1:]] + [len(data) if end is None else end - len(END)]
    pieces = [START]
    for part, stop in zip(parts, stops, strict=True):
        if part.marker in CODING or (part.marker == APP0 and part.content.startswith(JFIF)):
            scan = part.marker == SOS
            pieces.append(data[part.start : stop if scan else part.start + 4 + len(part.content)])
    return b"".join(pieces)


def _opened(data: bytes, source: ImageBytes) -> JpegImageFile:
    return cast(JpegImageFile, opened_as("JpegImagePlugin:JpegImageFile", data, source))


def _expect_all(stream: bytes, pillow_image: Image.Image, source: ImageBytes) -> None:
    """Refuses an image that breaks off: what stands behind the whole of it cannot change any pixel."""
    for filler in (b"\xaa", b"\x55", b"\xe3"):
        other = _opened(stream.removesuffix(b"\xff") + filler * 4096 + END, source)
        load(other, source)
        if other.tobytes() != pillow_image.tobytes():
            raise source.damaged(f"it breaks off after {len(stream)} bytes of pixels")


def _tables(pillow_image: JpegImageFile) -> Tables:
    """The quantization tables of the components, in their order. Steps above 255 need a kind of JPEG few can read."""
    held = [pillow_image.quantization.get(layer[3], []) for layer in cast(Sequence[Any], pillow_image.layer)]
    found = tuple(tuple(min(255, step) for step in table) for table in held if len(table) == 64)
    if len(found) < len(held):
        return ()
    return found[:2] if found[1:2] == found[2:] else found


def _metadata(parts: list[Segment], frame: FrameHeader, data: bytes, end: int | None) -> tuple[Metadata, list[str]]:
    """What the file carries, and notes."""
    meta, native, profile, lines = Metadata(), [], {}, list[str]()
    trailer = b"" if end is None else data[end:]
    for part in parts:
        head = part.content
        if part.marker == APP1 and head.startswith(exif.PREFIX):
            if meta.exif is None:
                meta.exif, meta.thumbnail = exif.tidied(head, frame.width, frame.height), thumbnail.size_of(head)
        elif part.marker == APP1 and head.startswith(XMP):
            meta.xmp = head[len(XMP) :]
        elif part.marker == APP2 and head.startswith(ICC) and len(head) > 14:
            profile[head[12]] = head[14:]
        elif part.marker == APP2 and head.startswith(multi_picture.MARK):
            native += _index(part, end or len(data), lines)
        elif part.marker == APP0 and head.startswith(JFIF) and len(head) >= 14:
            native.append((bytes((APP0,)), head[:12] + b"\0\0"))  # without the thumbnail
            meta.dpi = _density(head)
            if head[12] * head[13]:
                lines.append("The thumbnail of the JFIF header was dropped.")
        elif part.marker == APP0 and head.startswith(JFXX):
            lines.append("The thumbnail of the JFIF header was dropped.")
        elif part.marker == APP11:
            lines.append("Signatures or other data about the old pixels (APP11) were dropped.")
        elif _worth_keeping(part):
            native.append((bytes((part.marker,)), head))
    meta.icc = b"".join(profile[index] for index in sorted(profile)) or None
    meta.native = (*native, (TRAILER, trailer)) if trailer else tuple(native)
    if len(frame.factors) == 3:
        ratio = tuple(most // max(1, least) for most, least in zip(*frame.factors[:2], strict=True))
        meta.subsampling = SAMPLING.get((ratio[0], ratio[1]), SAMPLING[1, 1])
    return meta, lines + _further(trailer)


def _index(part: Segment, end: int, lines: list[str]) -> list[tuple[bytes, bytes]]:
    try:
        content = multi_picture.relative(part.content, part.start + 4 + len(multi_picture.MARK), end)
    except struct.error:
        lines.append("The index of further images could not be read: dropped.")
        return []
    return [(bytes((APP2,)), content)]


def _further(trailer: bytes) -> list[str]:
    if trailer.lstrip(b"\0").startswith(START):
        return ["The file holds further images (previews, a gain map): they are not denoised."]
    return ["The file holds a video: it is not denoised."] if b"ftyp" in trailer[: 1 << 12] else []


def _worth_keeping(part: Segment) -> bool:
    """Comments and applications' segments, but not those that describe the old coding (Adobe's, and its quality)."""
    if part.marker == APP12 and part.content.startswith(b"Ducky"):
        return False
    return part.marker == COM or (APP0 < part.marker <= 0xEF and part.marker != APP14)


def _density(head: bytes) -> tuple[float, float] | None:
    unit, across, down = struct.unpack(">BHH", head[7:12])
    scale = {1: 1.0, 2: 2.54}.get(unit)
    return (across * scale, down * scale) if scale and across and down else None


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one uint8 page without alpha, with the quantization tables of the source unless `quality` is given."""
    coded = _coded(image, quality)
    own_head = 4 + int.from_bytes(coded[4:6], "big")  # the encoder's start and JFIF segments
    parts = list(_carried(image))
    end = len(START) + sum(4 + len(content) for _, content in parts) + len(coded) - own_head
    stream.write(START)
    at = len(START)
    for marker, content in parts:
        if marker == APP2 and content.startswith(multi_picture.MARK):
            content = multi_picture.absolute(content, at + 4 + len(multi_picture.MARK), end)
        stream.write(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
        at += 4 + len(content)
    stream.write(coded[own_head:])
    stream.write(dict(image.metadata.native).get(TRAILER, b""))


def _coded(image: DecodedImage, quality: int | None) -> memoryview:
    meta, pixels = image.metadata, image.pages[0].pixels
    options: dict[str, Any] = {"quality": quality or DEFAULT_QUALITY}
    if meta.quantization and quality is None:
        options = {"qtables": meta.quantization[: 1 if pixels.ndim == 2 else 3]}
    sampling = meta.subsampling or ("4:4:4" if (quality or DEFAULT_QUALITY) >= 90 else "4:2:0")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "jpeg", subsampling=sampling, **options)
    return buffer.getbuffer()


def _carried(image: DecodedImage) -> Iterator[tuple[int, bytes]]:
    meta = image.metadata
    native = [(kind[0], content) for kind, content in meta.native if kind != TRAILER]
    yield from [each for each in native if each[0] == APP0] or [(APP0, _jfif(meta.dpi))]
    for block, prefix, word in ((meta.exif, exif.PREFIX, "EXIF"), (meta.xmp, XMP, "XMP")):
        if block and len(prefix + block) <= ROOM:
            yield APP1, prefix + block
        elif block:
            image.remark(f"The {word} of {len(block)} bytes does not fit into a JPEG: dropped.")
    pieces = [meta.icc[at : at + ROOM - 14] for at in range(0, len(meta.icc), ROOM - 14)] if meta.icc else []
    for index, piece in enumerate(pieces, 1):
        yield APP2, ICC + bytes((index, len(pieces))) + piece
    yield from (each for each in native if each[0] != APP0)


def _jfif(dpi: tuple[float, float] | None) -> bytes:
    unit, across, down = (1, *(max(1, round(value)) for value in dpi)) if dpi else (0, 1, 1)
    return JFIF + struct.pack(">BBBHHBB", 1, 1, unit, across, down, 0, 0)
