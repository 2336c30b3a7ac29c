"""The index (MPF, CIPA DC-007) of a JPEG that holds further images behind its own, such as previews or a gain map."""

from __future__ import annotations

import struct

from medcli.images import exif

MARK = b"MPF\0"
ENTRIES = 0xB002  # 16 bytes for each image: attributes, size, offset from the index's own header, two numbers


def relative(content: bytes, start: int, end: int) -> bytes:
    """The index `content`, whose header lies at `start` in the file, with offsets that count from `end`.

    end: position behind the first image. Raises struct.error where the index is broken.
    """
    return _shifted(content, start - end, 0)


def absolute(content: bytes, start: int, end: int) -> bytes:
    """What `relative` gave, for a file where the header is to lie at `start` and the first image to end at `end`."""
    return _shifted(content, end - start, end)


def _shifted(content: bytes, by: int, first_size: int) -> bytes:
    """With the first image's size, and every offset but that of the first image, which is 0 wherever it lies."""
    block, mark, entries, count = _entries(content)
    result = bytearray(block)
    struct.pack_into(f"{mark}I", result, entries + 4, first_size)
    for at in range(entries + 16 + 8, entries + 16 * count, 16):
        (offset,) = struct.unpack_from(f"{mark}I", block, at)
        struct.pack_into(f"{mark}I", result, at, (offset + by) % 2**32)
    return MARK + bytes(result)


def _entries(content: bytes) -> tuple[bytes, str, int, int]:
    """The block behind the mark, its byte order, where in it the list of images starts, and their number."""
    block = content.removeprefix(MARK)
    mark = exif.order(block)
    found = [] if mark is None else [each for each in exif.main_directory(block, mark) if each.tag == ENTRIES]
    if mark is None or not found or found[0].size < 16:
        raise struct.error("no list of images")
    at, count = exif.value(block, found[0], mark), found[0].size // 16
    if at + 16 * count > len(block):
        raise struct.error("the list of images is cut short")
    return block, mark, at, count
