"""Checks of a TIFF before a library reads it: no file may take more time or memory than its size allows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import ceil
from typing import BinaryIO

from tifffile import TiffPage

from medcli.images.exif import SIZES
from medcli.images.source import ImageBytes
from medcli.images.tiff_tags import PACKING

WIDTH, MOST_TAGS, PLANES, OLD_JPEG = 256, 4096, 2, 6
WIDE_SIZES = {**SIZES, 16: 8, 17: 8, 18: 8}  # with the 64-bit types of BigTIFF
TILE_BYTES = 1 << 26  # a tile may take so much, however small the image is
# Bytes that one byte can unpack to: none (4: shared colour of YCbCr), CCITT, LZW, PackBits, LZMA, Zstandard, Deflate.
# Image codecs have no bound.
RATIOS = {1: 4, **dict.fromkeys((2, 3, 4), 1 << 16), 5: 3000, 32773: 64, 34925: 1 << 13, 34926: 1 << 16, 50000: 1 << 16}
RATIOS |= dict.fromkeys((8, 32946, 50013), 1100)


@dataclass
class Form:
    """How TIFF and BigTIFF spell numbers, as struct reads them."""

    number: str
    entry: str
    link: str
    inline: int  # bytes of a value that lie in the entry itself
    first: int  # where the link to the first directory lies


def _form(head: bytes) -> Form:
    mark = "<" if head[:2] == b"II" else ">"
    if b"+" in head[2:4]:
        return Form(f"{mark}Q", f"{mark}HHQQ", f"{mark}Q", 8, 8)
    return Form(f"{mark}H", f"{mark}HHII", f"{mark}I", 4, 4)


def chain(source: ImageBytes) -> tuple[int, list[str]]:
    """How many directories follow one another, and notes on what is broken but can be done without.

    Raises InputError where the chain leads back to itself, where directories or tags overlap one another, which makes a
    short file as long to read as one wants, and where a tag that says how the pixels are packed cannot be read.
    """
    stream = source.stream
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(16)
    form = _form(head)
    seen: set[int] = set()
    lost: list[str] = []
    taken = 0
    try:
        (at,) = struct.unpack_from(form.link, head, form.first)
        while at:
            if at in seen:
                raise source.damaged("its chain of directories leads back to itself")
            tags = _directory(stream, at, form)
            if all(tag != WIDTH for tag, *_ in tags):
                raise struct.error("no directory of an image")
            seen.add(at)
            taken += len(tags) * struct.calcsize(form.entry)
            lost += _checked(tags, size, form, source)
            if taken > size:
                raise source.damaged("its directories overlap")
            (at,) = struct.unpack(form.link, stream.read(form.inline))
    except (struct.error, OverflowError, OSError):
        lost.append(f"The pointer to what follows page {len(seen)} is broken: further pages, if any, are lost.")
    return len(seen), lost


def _directory(stream: BinaryIO, at: int, form: Form) -> list[tuple[int, int, int, int]]:
    """(tag, type, count, value) of each entry. Raises struct.error where no directory can be."""
    stream.seek(at)
    (count,) = struct.unpack(form.number, stream.read(struct.calcsize(form.number)))
    length = struct.calcsize(form.entry) * count
    body = stream.read(length) if count <= MOST_TAGS else b""
    if len(body) < max(1, length):
        raise struct.error("the directory is cut short")
    return list(struct.iter_unpack(form.entry, body))


def _checked(tags: list[tuple[int, int, int, int]], size: int, form: Form, source: ImageBytes) -> list[str]:
    lost, total = [], 0
    for code, kind, count, place in tags:
        length = WIDE_SIZES.get(kind, 0) * count
        inside = length <= form.inline or place + length <= size  # an inline value is no place
        total += length if inside else 0
        if not inside or kind not in WIDE_SIZES:
            if code in PACKING:
                raise source.damaged(f"its tag {code}, which says how pixels are packed, cannot be read")
            lost.append(f"Tag {code} cannot be read: dropped.")
    if total > 2 * size:
        raise source.damaged("its tags overlap")
    return lost


def admit(pages: list[TiffPage], source: ImageBytes) -> None:
    """Raises InputError where pages are too large, cut short, or larger than their data can unpack to."""
    total = sum(_pixels(page) * (page.samplesperpixel if page.samplesperpixel > 4 else 1) for page in pages)
    size = source.stream.seek(0, 2)
    for page in pages:
        source.admit(page.imagewidth, page.imagelength, total)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if max((at + length for at, length in segments), default=size + 1) > size:
            raise source.damaged(f"it breaks off after {size} bytes")
        packed = sum(length for _, length in set(segments))
        if packed > 2 * size:
            raise source.damaged("its strips overlap")
        _admit_bytes(page, segments, source)


def _segments(page: TiffPage) -> int:
    """Strips or tiles that the size of the page calls for."""
    planes = page.samplesperpixel if page.planarconfig == PLANES else 1
    if page.is_tiled:
        across, down = ceil(page.imagewidth / page.tilewidth), ceil(page.imagelength / page.tilelength)
        return planes * across * down * ceil(page.imagedepth / page.tiledepth)
    return planes * int(page.imagedepth) * ceil(page.imagelength / page.rowsperstrip)


def _pixels(page: TiffPage) -> int:
    return int(page.imagewidth * page.imagelength * page.imagedepth)


def _admit_bytes(page: TiffPage, segments: list[tuple[int, int]], source: ImageBytes) -> None:
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    expected = _pixels(page) * page.samplesperpixel * bits // 8
    sparse = sum(not length for _, length in segments)  # left out, where all is background
    ratio = RATIOS.get(int(page.compression))
    held = sum(length for _, length in segments)
    too_much = expected * (len(segments) - sparse) > (held * (ratio or 0) + 1024) * len(segments)
    if not held or (ratio and too_much):
        raise source.damaged(f"{held} bytes cannot hold {page.imagewidth}x{page.imagelength} pixels")
    tile = page.tilewidth * page.tilelength * page.tiledepth * page.samplesperpixel * bits // 8
    missing = _segments(page) - len(segments)
    if missing > 0 and page.compression != OLD_JPEG:
        raise source.damaged(f"it lacks {missing:,} of its {missing + len(segments):,} strips or tiles")
    if page.is_tiled and tile > max(TILE_BYTES, 4 * expected):
        raise source.damaged(f"its tiles of {page.tilewidth}x{page.tilelength} pixels do not fit the image")
