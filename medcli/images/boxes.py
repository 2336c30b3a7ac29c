"""The boxes of ISO base media files, which JPEG 2000, JPEG XL, HEIF and AVIF share: size, kind, content."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

FULL = {b"meta": 4}  # bytes before the first box inside, of boxes that hold boxes
MOST = 1 << 16  # more boxes are passed over


class Box(NamedTuple):
    """start, stop: position of the whole box in the file; content begins at `body`."""

    kind: bytes
    start: int
    body: int
    stop: int


def boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[Box]:
    """The boxes side by side from `at` on. Ends before one that is cut short."""
    stop = len(data) if stop is None else stop
    for _ in range(MOST):
        if at + 8 > stop:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1 and at + 16 <= stop:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        end = stop if size == 0 else at + size
        if end > stop or end < body:
            return
        yield Box(kind, at, body, end)
        at = end


def found(data: bytes, *path: bytes) -> list[bytes]:
    """Contents of all boxes at a path such as b"meta", b"iprp", b"ipco", b"colr"."""
    level = [(0, len(data))]
    for kind in path[:-1]:
        inside = (box for span in level for box in boxes(data, *span) if box.kind == kind)
        level = [(box.body + FULL.get(kind, 0), box.stop) for box in inside]
    last = (box for span in level for box in boxes(data, *span) if box.kind == path[-1])
    return [data[box.body : box.stop] for box in last]


def box(kind: bytes, content: bytes) -> bytes:
    """A box as bytes."""
    return struct.pack(">I4s", len(content) + 8, kind) + content
