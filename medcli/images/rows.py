"""Pixels that are not all in memory: read from a file when they are needed, or made one band after another.

They behave like an array of (H, W) or (H, W, C) that is cut into rows: `pixels[top:bottom]` is an array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

ALL = slice(None)
LARGE = 32_000_000  # pixels, from which on an image is not held in memory as a whole
ROWS_BEHIND, ROWS_AHEAD = 256, 2048  # of the latest request: what lags behind the network, and what it has reached


class Rows(ABC):
    """shape: (H, W) or (H, W, C)."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.ndim, self.size = len(shape), prod(shape)
        self.nbytes = self.size * self.dtype.itemsize

    @abstractmethod
    def rows(self, start: int, stop: int, columns: slice = ALL) -> Array:
        """(stop - start, columns, ...) of the pixels."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """`[top:bottom]` and `[top:bottom, left:right]` are arrays; `[..., channels]` and `[..., None]` are `Rows`."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            return _Part(self, others[0])
        start, stop, step = first.indices(len(self))
        columns, *others = others or [ALL]
        rest = (slice(None, None, step), ALL, *others)
        return self.rows(start, stop, columns)[rest]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return self.rows(0, len(self)).astype(self.dtype if dtype is None else dtype, copy=False)


def rows_in(pixels: object) -> Rows | None:
    """The pixels, where they are not an array in memory."""
    return pixels if isinstance(pixels, Rows) else None


class _Part(Rows):
    """The same channels, or a further axis, of each pixel."""

    def __init__(self, whole: Rows, key: slice | None) -> None:
        sample = np.empty((1, 1, *whole.shape[2:]), whole.dtype)[..., key]
        super().__init__((*whole.shape[:2], *sample.shape[2:]), whole.dtype)
        self._whole, self._key = whole, key

    def rows(self, start: int, stop: int, columns: slice = ALL) -> Array:
        part: Array = self._whole.rows(start, stop, columns)[..., self._key]
        return part


class Produced(Rows):
    """Rows as they are made. bands: arrays of some rows each, from top to bottom. Each row can be taken once."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, bands: Iterator[Array]) -> None:
        super().__init__(shape, dtype)
        self._bands, self._position = bands, 0
        self._rest = np.empty((0, *shape[1:]), self.dtype)

    def rows(self, start: int, stop: int, columns: slice = ALL) -> Array:
        assert start == self._position
        parts, count = [self._rest], len(self._rest)
        while count < stop - start:
            parts.append(next(self._bands).copy())
            count += len(parts[-1])
        held = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._rest, self._position = held[stop - start :], stop
        return held[: stop - start, columns]


class Decoded(Rows):
    """Rows of a file, decoded in blocks of which those about the latest request are kept.

    heights: rows of each block, the last one perhaps fewer.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, heights: int) -> None:
        super().__init__(shape, dtype)
        self._heights = heights
        self._blocks: dict[int, Array] = {}

    @abstractmethod
    def block(self, number: int) -> Array:
        """(rows, ...) of one block. Raises InputError where the file is damaged."""

    def rows(self, start: int, stop: int, columns: slice = ALL) -> Array:
        first, last = start // self._heights, max(start, stop - 1) // self._heights
        kept = range((start - ROWS_BEHIND) // self._heights, (stop + ROWS_AHEAD) // self._heights + 1)
        for number in [number for number in self._blocks if number not in kept]:
            del self._blocks[number]
        for number in range(first, last + 1):
            if number not in self._blocks:
                self._blocks[number] = self.block(number)
        blocks = [self._blocks[number][:, columns] for number in range(first, last + 1)]
        inside = slice(start - first * self._heights, stop - first * self._heights)
        return blocks[0][inside] if len(blocks) == 1 else np.concatenate(blocks)[inside]
