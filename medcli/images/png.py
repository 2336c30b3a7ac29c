"""PNG: 8 and 16 bit, gray or RGB, with or without alpha. Chunks are read and written here; OpenCV inflates the pixels.

The encoder streams: it filters a band of rows, deflates it and lets it go, so that it needs no memory to speak of.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from medcli.images import exif, thumbnail
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.pillow import opened_as, page_of
from medcli.images.png_rows import PngRows
from medcli.images.raster import Array, bands, from_bgr, interleaved, unpacked
from medcli.images.rows import LARGE
from medcli.images.source import ImageBytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
KEPT_CHUNKS = frozenset(  # colour; and scale and position, which hold for other pixels as well
    (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi", b"oFFs", b"pCAL", b"sCAL", b"sTER")
)
ANIMATION = frozenset((b"acTL", b"fcTL", b"fdAT"))
OF_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"tIME", b"sBIT", b"hIST", b"sPLT"))  # what they say is over
END = b"\0\0\0\0IEND\xaeB`\x82"
UNREADABLE = "its pixels cannot be unpacked"
DEFLATE = 1032  # bytes that one byte can stand for, at most
CHUNKS = 1 << 18  # more are taken for damage
AVERAGE = 3  # the filter: with run lengths alone it packs photographs tighter, and faster, than libpng's choice
PROFILE_LIMIT = 1 << 26  # bytes a compressed profile or text may grow to


@dataclass(frozen=True)
class Chunk:
    kind: bytes
    start: int  # position of the whole chunk in the file
    stop: int

    def content(self, data: bytes) -> bytes:
        return data[self.start + 8 : self.stop - 4]


@dataclass(frozen=True)
class Header:
    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def palette(self) -> bool:
        return self.colour == PALETTE


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page. Raises InputError for a damaged file."""
    data = source.mapped()
    head = _header(data, source)
    source.admit(head.width, head.height)
    listed, end = chunks(data, source)
    pixels = [each for each in listed if each.kind == b"IDAT"]
    packed = sum(each.stop - each.start - 12 for each in pixels)
    most = DEFLATE * (packed + 1) * 8 // (head.bits * CHANNELS[head.colour])
    source.admit(head.width, head.height, most=most)
    others = [each for each in listed if each.kind != b"IDAT"]
    meta, lines = _metadata(data, others, head)
    image = DecodedImage([], "png", meta)
    image.remark(*lines)
    key = next((each.content(data) for each in others if each.kind == b"tRNS"), None)
    if source.path is not None and key is None and _streams(head):
        shape = (head.height, head.width) if head.colour == GRAY else (head.height, head.width, 3)
        parts = [(each.start + 8, each.stop - each.start - 12) for each in pixels]
        rows = PngRows(source.path, source.name, shape, head.bits, parts)
        image.pages.append(Page(cast(Array, rows)))
        image.remark(*_trailing(data, end))
        return image
    shown = [others[0], *(each for each in others if head.palette and each.kind in (b"PLTE", b"tRNS"))]
    # the decoders see the pixels alone: nothing else can trip them, or make them talk
    plain = b"".join((SIGNATURE, *(data[each.start : each.stop] for each in shown + pixels), END))
    page, converted = _pixels(plain, data, pixels, head, source, meta.icc)
    image.remark(*converted)
    if key is not None and not head.palette and page.alpha is None:
        if len(key) != (2 if page.pixels.ndim == 2 else 6):
            raise source.damaged("its transparent colour is cut short")
        page.alpha = _keyed(page.pixels, key, head)
        image.remark("The transparent colour became an alpha channel.")
    image.remark(*_trailing(data, end))
    image.pages.append(page)
    return image


def _streams(head: Header) -> bool:
    """Whether the image is large, and of a kind that needs no conversion and comes row by row."""
    plain = head.colour in (GRAY, RGB) and head.bits >= 8 and not head.interlaced
    return plain and head.width * head.height >= LARGE


def _trailing(data: bytes, end: int) -> list[str]:
    dropped = f"{len(data) - end} bytes behind the end of the image were dropped."
    return [dropped] if data[end:].strip(b"\0") else []


def _header(data: bytes, source: ImageBytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise source.damaged("its header is incomplete")
    head = Header(*struct.unpack(">IIBBxx?", data[16:29]))
    if head.colour not in CHANNELS or head.bits not in (1, 2, 4, 8, 16):
        raise source.damaged("its header is not valid")
    return head


def chunks(data: bytes, source: ImageBytes) -> tuple[list[Chunk], int]:
    """Every chunk before the end, each with its checksum tested, and the position behind the end.

    Raises InputError where one is short or wrong.
    """
    view, at, found = memoryview(data), len(SIGNATURE), list[Chunk]()
    while at + 12 <= len(data) and len(found) < CHUNKS:
        length, kind = struct.unpack(">I4s", view[at : at + 8])
        stop = at + 12 + length
        if stop > len(data):
            break
        if zlib.crc32(view[at + 4 : stop - 4]) != int.from_bytes(view[stop - 4 : stop], "big"):
            raise source.damaged(f"the checksum of a chunk at byte {at} is wrong")
        if kind == b"IEND":
            return found, stop
        found.append(Chunk(kind, at, stop))
        at = stop
    raise source.damaged(f"it breaks off after {len(data)} bytes")


def _pixels(
    plain: bytes, data: bytes, pixels: list[Chunk], head: Header, source: ImageBytes, icc: bytes | None
) -> tuple[Page, list[str]]:
    if head.bits <= 8:
        page, lines = page_of(opened_as("PngImagePlugin:PngImageFile", plain, source), source, icc)
        return page, lines or ([f"{head.bits}-bit gray was converted to 8-bit gray."] if head.bits < 8 else [])
    _expect_sound(data, pixels, head, source)
    array = unpacked(plain)  # Pillow has no 16-bit colour
    if array is None or array.shape[:2] != (head.height, head.width):
        raise source.damaged(UNREADABLE)
    if head.colour == GRAY_ALPHA and array.ndim == 3:  # OpenCV spreads gray over three channels
        return Page(np.ascontiguousarray(array[:, :, 0]), np.ascontiguousarray(array[:, :, -1])), []
    return from_bgr(array), []


def _expect_sound(data: bytes, pixels: list[Chunk], head: Header, source: ImageBytes) -> None:
    """Inflates the pixels, a piece at a time, because libpng prints what it finds wrong with them."""
    inflater, found = zlib.decompressobj(), 0
    try:
        for chunk in pixels:
            rest = chunk.content(data)
            while rest and not inflater.eof:
                found += len(inflater.decompress(rest, 1 << 20))
                rest = inflater.unconsumed_tail
        found += len(inflater.flush())
    except zlib.error:
        raise source.damaged(UNREADABLE) from None
    filters = 0 if head.interlaced else head.height
    if not inflater.eof or found < head.width * head.height * head.bits * CHANNELS[head.colour] // 8 + filters:
        raise source.damaged(UNREADABLE)


def _keyed(pixels: Array, key: bytes, head: Header) -> Array:
    """Alpha that is 0 where a pixel has the transparent colour."""
    value = np.array(struct.unpack(f">{len(key) // 2}H", key)) * (255 // (2**head.bits - 1) if head.bits < 8 else 1)
    hit = pixels == value[0] if pixels.ndim == 2 else (pixels == value).all(axis=2)
    return np.where(hit, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def _metadata(data: bytes, listed: list[Chunk], head: Header) -> tuple[Metadata, list[str]]:
    """What the chunks carry, and notes. A chunk that is unknown is kept where the PNG rules call it safe to copy."""
    meta, native, dropped, lines = Metadata(), [], list[str](), list[str]()
    for chunk in listed:
        content = chunk.content(data)
        if chunk.kind == b"iCCP":
            meta.icc = _inflated(content.partition(b"\0")[2][1:])
            lines += [] if meta.icc else ["The colour profile could not be read: dropped."]
        elif chunk.kind == b"eXIf":
            meta.exif, meta.thumbnail = exif.tidied(content, head.width, head.height), thumbnail.size_of(content)
        elif chunk.kind == b"iTXt" and content.startswith(XMP_KEYWORD + b"\0"):
            meta.xmp = _international_text(content)
        elif chunk.kind in KEPT_CHUNKS or chunk.kind[3:].islower():
            native.append((chunk.kind, content))
        elif chunk.kind in ANIMATION:
            lines.append("Only the first frame of the animation is kept.")
        elif chunk.kind not in OF_PIXELS:
            dropped.append(chunk.kind.decode("ascii", "replace"))
        if chunk.kind == b"pHYs" and len(content) == 9:
            across, down, unit = struct.unpack(">IIB", content)
            meta.dpi = (across * 0.0254, down * 0.0254) if unit == 1 and across and down else None
    meta.native = tuple(native)
    if dropped:
        lines.append(f"Chunks that belong to the old pixels were dropped: {', '.join(dict.fromkeys(dropped))}.")
    return meta, lines


def _inflated(packed: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(packed, PROFILE_LIMIT)
    except zlib.error:
        return None


def _international_text(content: bytes) -> bytes | None:
    rest = content[len(XMP_KEYWORD) + 1 :]
    text = rest[2:].split(b"\0", 2)[-1]
    return _inflated(text) if rest[:1] == b"\1" else text


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one page, uint8 or uint16, with its metadata. `quality` means nothing to a lossless format."""
    page = image.pages[0]
    height, width = page.pixels.shape[:2]
    colour = {(2, False): GRAY, (2, True): GRAY_ALPHA, (3, False): RGB, (3, True): RGBA}
    kind = colour[page.pixels.ndim, page.alpha is not None]
    stream.write(SIGNATURE)
    head = struct.pack(">IIBBBBB", width, height, page.pixels.dtype.itemsize * 8, kind, 0, 0, 0)
    for chunk in ((b"IHDR", head), *_carried(image.metadata)):
        _put(stream, *chunk)
    for packed in _packed(page):
        _put(stream, b"IDAT", packed)
    _put(stream, b"IEND", b"")


def _put(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    stream.write(struct.pack(">I4s", len(content), kind))
    stream.write(content)
    stream.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _carried(meta: Metadata) -> Iterator[tuple[bytes, bytes]]:
    if meta.icc:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(meta.icc)
    yield from meta.native
    if meta.dpi and not any(kind == b"pHYs" for kind, _ in meta.native):
        yield b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in meta.dpi), 1)
    if meta.exif:
        yield b"eXIf", meta.exif
    if meta.xmp:
        yield b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + meta.xmp


def _packed(page: Page) -> Iterator[bytes]:
    """The zlib stream of all rows, band by band. Run lengths reach back one byte, so bands pack alone, side by side."""
    checksum, waiting = 1, deque[Future[bytes]]()
    yield b"\x78\x01"
    with ThreadPoolExecutor(2, "med-deflate") as pool:
        for rows in _filtered(page):
            checksum = zlib.adler32(rows.data, checksum)
            waiting.append(pool.submit(_deflated, rows))
            if len(waiting) > 3:  # no more bands in memory than the two threads need
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
    yield b"\x03\x00" + struct.pack(">I", checksum)  # an empty last block


def _deflated(rows: NDArray[np.uint8]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return packer.compress(rows.data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _filtered(page: Page) -> Iterator[NDArray[np.uint8]]:
    """Bands of rows, each row led by its filter's number: every byte less the mean of its left and upper neighbours."""
    above: NDArray[np.uint8] | None = None
    for rows in bands(page.pixels):
        block = interleaved(page, rows)
        step = block.dtype.itemsize * (1 if block.ndim == 2 else block.shape[2])
        raw = block.astype(block.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(len(block), -1)
        up, left = np.zeros_like(raw), np.zeros_like(raw)
        up[1:], left[:, step:] = raw[:-1], raw[:, :-step]
        if above is not None:
            up[0] = above
        above = raw[-1].copy()
        lines = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
        lines[:, 0] = AVERAGE
        lines[:, 1:] = raw - ((left & up) + ((left ^ up) >> 1))
        yield lines
