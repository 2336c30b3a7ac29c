"""Rows of a large PNG, inflated as they are needed; OpenCV undoes the filters, some rows at a time.

A filter refers to the row above. So each block of rows becomes a small PNG of its own, with the last row of the block
before on top, as it is and not filtered.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medcli.errors import InputError
from medcli.images.raster import Array, swap_in_place, unpacked
from medcli.images.rows import Decoded

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB = 0, 2
BLOCK = 64  # rows
PIECE = 1 << 20  # bytes that are read, and inflated, at once


class PngRows(Decoded):
    """Of gray or RGB with 8 or 16 bits, not interlaced. It is decoded from top to bottom, anew for rows above.

    parts: (position, length) in the file of what the IDAT chunks hold.
    """

    def __init__(
        self, path: Path, name: str, shape: tuple[int, ...], bits: int, parts: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__(shape, f"uint{bits}", BLOCK)
        self._path, self._name, self._parts = path, name, parts
        self._rewind()

    def block(self, number: int) -> Array:
        if number < self._next:
            self._rewind()
        while True:
            rows = self._decoded()
            self._next += 1
            if self._next > number:
                return rows

    def _rewind(self) -> None:
        self._next, self._above, self._buffer = 0, b"", bytearray()
        self._inflated = self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        """The filtered rows, inflated. The file is opened for each piece, and not kept open."""
        inflater = zlib.decompressobj()
        for start, length in self._parts:
            for offset in range(0, length, PIECE):
                with self._path.open("rb") as file:
                    file.seek(start + offset)
                    packed = file.read(min(PIECE, length - offset))
                while packed and not inflater.eof:
                    yield inflater.decompress(packed, PIECE)
                    packed = inflater.unconsumed_tail
        yield inflater.flush()

    def _decoded(self) -> Array:
        """The next rows."""
        count = min(BLOCK, len(self) - self._next * BLOCK)
        stride = 1 + self.nbytes // len(self)
        try:
            while len(self._buffer) < count * stride:
                self._buffer += next(self._inflated)
        except (zlib.error, StopIteration):
            raise self._damaged() from None
        filtered = bytes(self._buffer[: count * stride])
        del self._buffer[: count * stride]
        above = b"\0" + self._above if self._above else b""
        array = unpacked(self._small_png(count + bool(above), above + filtered))
        if array is None or array.shape != (count + bool(above), *self.shape[1:]):
            raise self._damaged()
        if self.ndim == 3:
            swap_in_place(array)
        self._above = array[-1].astype(self.dtype.newbyteorder(">")).tobytes()
        return np.ascontiguousarray(array[-count:])

    def _small_png(self, height: int, filtered: bytes) -> bytes:
        colour = RGB if self.ndim == 3 else GRAY
        head = struct.pack(">IIBBBBB", self.shape[1], height, self.dtype.itemsize * 8, colour, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b""))
        return SIGNATURE + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
            for kind, content in chunks
        )

    def _damaged(self) -> InputError:
        problem = f"{self._name} is damaged: its pixels cannot be unpacked."
        return InputError(problem, "Copy it again from its origin, or repair it.")
