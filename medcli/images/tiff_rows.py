"""Rows of a large TIFF, read strip by strip or tile by tile when they are needed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from tifffile import TiffFileError, TiffPage

from medcli.errors import InputError, ran_out
from medcli.images.rows import LARGE, Array, Decoded
from medcli.images.source import ImageBytes

BLACK_IS_ZERO, RGB, CONTIGUOUS = 1, 2, 1
SAMPLES = {BLACK_IS_ZERO: 1, RGB: 3}  # by photometric interpretation; all else is decoded as a whole
DTYPES = {"uint8": 8, "uint16": 16}  # and their bits
PACKED = (1, 5, 8, 32946, 32773, 34925, 50000)  # none, LZW, Deflate, PackBits, LZMA, Zstandard
BLOCK, LARGEST_STRIP = 64, 64 << 20  # rows that are decoded together at least; bytes of a strip, unpacked
DAMAGE = (TiffFileError, struct.error, ValueError, LookupError, TypeError, OSError, RuntimeError)


def rows_of(page: TiffPage, source: ImageBytes) -> TiffRows | None:
    """None for a page that is small, of a kind that needs to be converted, or a single packed strip."""
    if source.path is None or page.imagewidth * page.imagelength < LARGE:
        return None
    plain = SAMPLES.get(page.photometric) == page.samplesperpixel and page.planarconfig == CONTIGUOUS
    whole = DTYPES.get(str(page.dtype)) == page.bitspersample and page.imagedepth == 1
    if not (plain and whole and int(page.compression) in PACKED and all(page.databytecounts)):
        return None
    height = page.tilelength if page.is_tiled else page.rowsperstrip
    if not page.is_contiguous and height * page.imagewidth * page.samplesperpixel > LARGEST_STRIP:
        return None
    return TiffRows(page, source.path, source.name)


class TiffRows(Decoded):
    """Rows of one page. The file is opened for each block alone, so that nothing keeps it from being replaced."""

    def __init__(self, page: TiffPage, path: Path, name: str) -> None:
        width, samples = page.imagewidth, page.samplesperpixel
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        self._lead = 1 if page.is_contiguous else max(1, BLOCK // height)  # rows of segments in a block
        shape = (page.imagelength, width) if samples == 1 else (page.imagelength, width, samples)
        super().__init__(shape, str(page.dtype), BLOCK if page.is_contiguous else self._lead * height)
        self._across = -(-width // page.tilewidth) if page.is_tiled else 1
        self._page, self._path, self._name, self._samples = page, path, name, samples

    def block(self, number: int) -> Array:
        top = number * self._heights
        result = np.empty((min(self._heights, len(self) - top), self.shape[1], self._samples), self.dtype)
        try:
            if self._page.is_contiguous:
                self._read(top, result)
            else:
                self._decode(number, top, result)
        except DAMAGE as error:
            if ran_out(error):
                raise MemoryError from None
            problem = f"{self._name} is damaged: its pixels cannot be unpacked."
            raise InputError(problem, "Copy it again from its origin, or repair it.") from None
        return result.reshape(-1, *self.shape[1:])

    def _read(self, top: int, result: Array) -> None:
        order = self.dtype.newbyteorder(self._page.parent.byteorder)
        offset = self._page.dataoffsets[0] + top * result[0].nbytes
        found = np.fromfile(self._path, order, result.size, offset=offset)
        result[...] = found.reshape(result.shape)

    def _decode(self, number: int, top: int, result: Array) -> None:
        page, first = self._page, number * self._lead * self._across
        with self._path.open("rb") as file:
            for segment in range(first, min(first + self._lead * self._across, len(page.dataoffsets))):
                file.seek(page.dataoffsets[segment])
                data = file.read(page.databytecounts[segment])
                pixels, (_, _, row, column, _), _ = page.decode(data, segment)
                assert pixels is not None  # as it has bytes
                target = result[row - top :, column:]  # tiles may reach beyond the image
                height, width = min(len(target), pixels.shape[1]), min(target.shape[1], pixels.shape[2])
                target[:height, :width] = pixels[0, :height, :width]
