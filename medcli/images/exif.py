"""EXIF as a block of bytes with the structure of a small TIFF. It is changed in place and never taken apart,
because the makers' own notes in it hold offsets that only the maker can move.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from medcli.images.decoded_image import ByteOrder

PREFIX = b"Exif\0\0"
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
WIDTH, HEIGHT, ORIENTATION = 0xA002, 0xA003, 0x0112
THUMBNAIL_AT, THUMBNAIL_SIZE = 0x0201, 0x0202
MAKER_NOTE, PADDING = 0x927C, 0xEA1C
COMPRESSION, JPEG_CODE = 0x0103, 6
RESOLUTIONS = (0x011A, 0x011B)
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SHORT, LONG, RATIONAL = 3, 4, 5
MAIN_TAGS = (271, 272, ORIENTATION, 305, 306, 315, 33432)  # maker, model, software, date, artist, copyright

Tag = tuple[int, int, int, bytes]  # number, type, count, value as it lies in the file


@dataclass(frozen=True)
class IfdEntry:
    """One tag: its number, type, count, and where its value field lies."""

    tag: int
    kind: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Bytes of the value; up to 4 they lie in the field itself, else the field holds their offset."""
        return SIZES.get(self.kind, 0) * self.count


def order(block: bytes | bytearray) -> ByteOrder | None:
    """The byte order as struct writes it, or None where the block is no EXIF."""
    marks: dict[bytes, ByteOrder] = {b"II*\0": "<", b"MM\0*": ">"}
    return marks.get(bytes(block[:4])) if len(block) >= 14 else None


def directory(block: bytes | bytearray, at: int, mark: ByteOrder) -> tuple[list[IfdEntry], int]:
    """The entries of the directory at `at`, and where its link to the next lies. Raises struct.error if cut short."""
    (count,) = struct.unpack_from(f"{mark}H", block, at)
    starts = range(at + 2, at + 2 + 12 * count, 12)
    fields = [(*struct.unpack_from(f"{mark}HHI", block, start), start + 8) for start in starts]
    return [IfdEntry(tag, kind, number, place) for tag, kind, number, place in fields], at + 2 + 12 * count


def value(block: bytes | bytearray, entry: IfdEntry, mark: ByteOrder) -> int:
    """The value of an entry of one SHORT or LONG, or the offset that a longer one holds."""
    code = "H" if entry.kind == SHORT and entry.count == 1 else "I"
    return int(struct.unpack_from(mark + code, block, entry.at)[0])


def main_directory(block: bytes | bytearray, mark: ByteOrder) -> list[IfdEntry]:
    """The entries of the first directory."""
    return directory(block, value(block, IfdEntry(0, LONG, 1, 4), mark), mark)[0]


def values(stream: BinaryIO, at: int, mark: ByteOrder) -> list[Tag]:
    """The tags of the directory at `at` in a file, with their bytes. Raises struct.error where it is cut short."""
    stream.seek(at)
    (count,) = struct.unpack(f"{mark}H", stream.read(2))
    body = stream.read(12 * count)
    if len(body) < 12 * count:
        raise struct.error("the directory is cut short")
    fields = list(struct.iter_unpack(f"{mark}HHI4s", body))
    found = []
    for tag, kind, number, raw in fields:
        size = SIZES.get(kind, 0) * number
        if size > 4:
            stream.seek(*struct.unpack(f"{mark}I", raw))
            raw = stream.read(size)
        if len(raw) < size:
            raise struct.error(f"tag {tag} is cut short")
        if size:
            found.append((tag, kind, number, raw[:size]))
    return found


def gathered(stream: BinaryIO, mark: ByteOrder, main: Container[int]) -> bytes | None:
    """An EXIF block made of what a TIFF has in its first directory, of the tags in `main`, and below it."""
    stream.seek(4)
    (first,) = struct.unpack(f"{mark}I", stream.read(4))
    tags = values(stream, first, mark)
    kept = [each for each in tags if each[0] in main]
    body = bytearray(8)  # the header, filled in below
    links = [_gather(stream, body, each, mark) for each in tags if each[0] in (EXIF_IFD, GPS_IFD)]
    if not kept and not links:
        return None
    top = len(body)
    body += _packed(kept + links, top, mark)
    body[:8] = struct.pack(f"{mark}2sHI", b"II" if mark == "<" else b"MM", 42, top)
    return bytes(body)


def joined(blocks: Mapping[int, bytes | None], mark: ByteOrder, main: Container[int]) -> bytes:
    """An EXIF block out of one for the first directory (key 0) and others for those below it, by the tags of the links.

    Raises struct.error where one is broken.
    """
    body, links = bytearray(8), []
    for link, block in blocks.items():
        if link and block:
            stream = io.BytesIO(block)
            first = struct.unpack(f"{mark}I", block[4:8])[0]
            links.append(_gather(stream, body, (link, LONG, 1, struct.pack(f"{mark}I", first)), mark))
    first = struct.unpack(f"{mark}I", (blocks[0] or b"")[4:8])[0]
    kept = [each for each in values(io.BytesIO(blocks[0] or b""), first, mark) if each[0] in main]
    top = len(body)
    body += _packed(kept + links, top, mark)
    body[:8] = struct.pack(f"{mark}2sHI", b"II" if mark == "<" else b"MM", 42, top)
    return bytes(body)


def _gather(stream: BinaryIO, body: bytearray, link: Tag, mark: ByteOrder) -> Tag:
    """Append the directory that `link` points at, after those below it, and give the link to its new place."""
    tags = values(stream, struct.unpack(f"{mark}I", link[3])[0], mark)
    tags = [_gather(stream, body, each, mark) if each[0] == INTEROP_IFD != link[0] else each for each in tags]
    at = len(body)
    body += _packed(tags, at, mark)
    return link[0], LONG, 1, struct.pack(f"{mark}I", at)


def _packed(tags: list[Tag], at: int, mark: ByteOrder) -> bytes:
    """A directory for the place `at`, longer values behind it."""
    heap_at = at + 2 + 12 * len(tags) + 4
    fields, heap = bytearray(struct.pack(f"{mark}H", len(tags))), bytearray()
    for tag, kind, count, raw in sorted(tags):
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{mark}I", heap_at + len(heap))
        fields += struct.pack(f"{mark}HHI4s", tag, kind, count, place)
        heap += raw + b"\0" * (len(raw) % 2) if len(raw) > 4 else b""
    return bytes(fields + b"\0\0\0\0" + heap)


def orientation(block: bytes | None) -> int:
    """The orientation tag, 1 to 8; 1 where there is none."""
    mark = order(block) if block else None
    if not block or mark is None:
        return 1
    try:
        found = [value(block, entry, mark) for entry in main_directory(block, mark) if entry.tag == ORIENTATION]
    except struct.error:
        return 1
    return found[0] if found and 1 <= found[0] <= 8 else 1


def upright(block: bytes) -> bytes:
    """`block` with the orientation 1, for pixels that are stored upright."""
    return with_orientation(block, 1)


def with_orientation(block: bytes, turn: int) -> bytes:
    """`block` with the orientation `turn`, where it has one."""
    mark, result = order(block), bytearray(block)
    if mark is None:
        return block
    try:
        for entry in main_directory(block, mark):
            if entry.tag == ORIENTATION and entry.count == 1:
                struct.pack_into(mark + ("H" if entry.kind == SHORT else "I"), result, entry.at, turn)
    except struct.error:
        return block
    return bytes(result)


def without_maker_note(block: bytes) -> bytes:
    """`block` in which the maker's note is marked as padding."""
    mark, result = order(block), bytearray(block)
    if mark is None:
        return block
    try:
        for entry in _within(result, main_directory(block, mark), EXIF_IFD, mark):
            if entry.tag == MAKER_NOTE:
                struct.pack_into(f"{mark}H", result, entry.at - 8, PADDING)
    except struct.error:
        return block
    return bytes(result)


def tidied(block: bytes, width: int, height: int) -> bytes:
    """`block` without its thumbnail, which would show the old pixels, and with the true width and height.

    A block that cannot be understood comes back as it is.
    """
    block = block.removeprefix(PREFIX)
    mark = order(block)
    if mark is None:
        return block
    result = bytearray(block)
    try:
        first = value(result, IfdEntry(0, LONG, 1, 4), mark)
        entries, link = directory(result, first, mark)
        _unlink_thumbnail(result, link, mark)
        for entry in _within(result, entries, EXIF_IFD, mark):
            if entry.tag in (WIDTH, HEIGHT) and entry.kind in (SHORT, LONG) and entry.count == 1:
                true = width if entry.tag == WIDTH else height
                if entry.kind == LONG or true < 65536:
                    struct.pack_into(mark + ("H" if entry.kind == SHORT else "I"), result, entry.at, true)
    except struct.error:
        return block
    return bytes(result)


def enlarged(block: bytes, factor: int, width: int, height: int) -> bytes:
    """`block` for `factor` times as many pixels on each side, now width x height: resolutions grow with them."""
    result = bytearray(tidied(block, width, height))
    mark = order(result)
    if mark is None:
        return bytes(result)
    try:
        found = [entry for entry in main_directory(result, mark) if entry.tag in RESOLUTIONS and entry.count == 1]
        for at in {value(result, entry, mark) for entry in found if entry.kind == RATIONAL}:  # two may share a place
            struct.pack_into(f"{mark}II", result, at, *times(struct.unpack_from(f"{mark}II", result, at), factor))
    except struct.error:
        return tidied(block, width, height)
    return bytes(result)


def times(fraction: tuple[int, ...], factor: int) -> tuple[int, int]:
    """`factor` times a fraction, in terms that 32 bits hold."""
    above, below = fraction
    return (above * factor, below) if above * factor < 2**32 else (above, max(1, below // factor))


def _unlink_thumbnail(block: bytearray, link: int, mark: ByteOrder) -> None:
    (second,) = struct.unpack_from(f"{mark}I", block, link)
    if not second:
        return
    entries, _ = directory(block, second, mark)
    held = {entry.tag: value(block, entry, mark) for entry in entries}
    struct.pack_into(f"{mark}I", block, link, 0)
    start, stop = held.get(THUMBNAIL_AT, 0), held.get(THUMBNAIL_AT, 0) + held.get(THUMBNAIL_SIZE, 0)
    if 8 < start < stop <= len(block):
        block[start:stop] = bytes(stop - start)
        if stop == len(block):  # the usual place; cut, because nothing lies behind it
            del block[start:]


def thumbnail(block: bytes) -> bytes | None:
    """The content of the thumbnail, empty where it is no JPEG or cannot be found; None where there is none."""
    block = block.removeprefix(PREFIX)
    mark = order(block)
    if mark is None:
        return None
    try:
        _, link = directory(block, value(block, IfdEntry(0, LONG, 1, 4), mark), mark)
        (second,) = struct.unpack_from(f"{mark}I", block, link)
        if not second:
            return None
        held = {entry.tag: value(block, entry, mark) for entry in directory(block, second, mark)[0]}
    except struct.error:
        return None
    start = held.get(THUMBNAIL_AT, 0)
    return block[start : start + held.get(THUMBNAIL_SIZE, 0)]


def with_thumbnail(block: bytes, jpeg: bytes) -> bytes | None:
    """`block`, which has no thumbnail, with one behind all else; None where its directory cannot be understood."""
    mark = order(block)
    if mark is None:
        return None
    try:
        _, link = directory(block, value(block, IfdEntry(0, LONG, 1, 4), mark), mark)
        result = bytearray(block + b"\0" * (len(block) % 2))
        struct.pack_into(f"{mark}I", result, link, len(result))
    except struct.error:
        return None
    number = partial(struct.pack, f"{mark}I")
    entries = [
        (COMPRESSION, SHORT, 1, struct.pack(f"{mark}H", JPEG_CODE)),
        (THUMBNAIL_SIZE, LONG, 1, number(len(jpeg))),
    ]
    start = len(result) + 2 + 12 * (len(entries) + 1) + 4
    result += _packed([*entries, (THUMBNAIL_AT, LONG, 1, number(start))], len(result), mark)
    return bytes(result + jpeg)


def _within(block: bytes | bytearray, entries: list[IfdEntry], tag: int, mark: ByteOrder) -> list[IfdEntry]:
    found = [value(block, entry, mark) for entry in entries if entry.tag == tag]
    return directory(block, found[0], mark)[0] if found else []


def moved(block: bytes, base: int) -> tuple[bytes, dict[int, int]]:
    """`block` as it must be to lie at `base` in a TIFF, and where its EXIF and GPS directories are then.

    Raises struct.error where the block is broken.
    """
    mark = order(block)
    if mark is None:
        raise struct.error("no EXIF")
    result, places = bytearray(block), {}
    for entry in main_directory(block, mark):
        if entry.tag in (EXIF_IFD, GPS_IFD):
            at = value(block, entry, mark)
            places[entry.tag] = at + base
            for shifted in _offsets(block, at, mark):
                (old,) = struct.unpack_from(f"{mark}I", block, shifted)
                struct.pack_into(f"{mark}I", result, shifted, old + base)
    return bytes(result), places


def _offsets(block: bytes, at: int, mark: ByteOrder) -> Iterator[int]:
    """Positions in a directory, and in the one nested in it, that hold an offset."""
    for entry in directory(block, at, mark)[0]:
        if entry.size > 4 or entry.tag == INTEROP_IFD:
            yield entry.at
        if entry.tag == INTEROP_IFD:
            yield from _offsets(block, value(block, entry, mark), mark)
