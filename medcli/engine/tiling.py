"""The grid of overlapping tiles, and how they are blended.

An image is cut into tiles of one size whose origins are multiples of the network's, so that its down-sampling grids
coincide with those of the whole image. Neighbours share an overlap. Going right and down, each tile fades in over
the tiles before it: at every pixel the weights are positive and sum to one, and where two tiles agree, the blend is
their value to the last bit. Inside the image, a tile is used only at a distance from its border:

    overlap >= 2 * context radius    the distance is the context radius, so only pixels with all their context are
                                     used, and the blend equals that of the whole image to float tolerance
    overlap <  2 * context radius    the distance is a quarter of the overlap, and the fade takes the middle half
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# A deep U-Net sees 200 pixels far, but what lies further than 32 moves it by a grey level at most: docs/benchmarks.md.
LARGEST_DEFAULT_OVERLAP = 64


@dataclass(frozen=True)
class Span:
    """Pixels `start` <= i < `stop` along one side of the image; `stop` may lie beyond its border."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Grid:
    """Tiles over an image of `height` x `width`: every one of `rows` crossed with every one of `columns`."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    context_radius: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def default_overlap(context_radius: int, multiple: int) -> int:
    """Pixels that neighbours share: twice the context radius makes tiles exact; more than 64 changes little."""
    return min(_round_up(2 * context_radius, multiple), _round_up(LARGEST_DEFAULT_OVERLAP, multiple))


def plan(height: int, width: int, *, tile: int, overlap: int, multiple: int, context_radius: int) -> Grid:
    """The fewest tiles with sides up to `tile` (0: one tile, the whole), made as small as that many can be."""
    rows, columns = (cut(side, tile, overlap, multiple) for side in (height, width))
    return Grid(height, width, rows, columns, context_radius)


def cut(length: int, tile: int, overlap: int, multiple: int) -> tuple[Span, ...]:
    """Spans of one size over `length` rounded up to `multiple`; neighbours share `overlap` or a little more."""
    cells, most, shared = -(-length // multiple), tile // multiple, -(-overlap // multiple)
    if tile == 0 or cells <= most:
        return (Span(0, cells * multiple),)
    if most <= shared:
        raise ValueError(f"a tile of {tile} leaves nothing beside an overlap of {overlap}, in steps of {multiple}")
    count = -(-(cells - shared) // (most - shared))
    size = -(-(cells + (count - 1) * shared) // count)
    starts = [index * (cells - size) // (count - 1) for index in range(count)]
    return tuple(Span(start * multiple, (start + size) * multiple) for start in starts)


def fade(shared: int, context_radius: int) -> Floats:
    """(shared,) weights of the later tile over the pixels shared with the earlier one: from 0 smoothly to 1."""
    unused = context_radius if shared >= 2 * context_radius else shared // 4
    room = max(0.5, shared - 2 * unused)  # without room, half a pixel makes the ramp a step
    ramp = ((np.arange(shared, dtype=np.float32) + np.float32(0.5 - unused)) / np.float32(room)).clip(0, 1)
    weights: Floats = ramp * ramp * (3 - 2 * ramp)
    return weights


def bands(grid: Grid, channels: int, tile_at: Callable[[Span, Span], Floats]) -> Iterator[tuple[int, Floats]]:
    """Finished rows from top to bottom, as (first row, (rows, width, channels) float32), each row once.

    `tile_at(rows, columns)` gives one tile, (rows.size, columns.size, channels) float32, row by row.
    A band lies in a buffer that the next one overwrites.
    """
    strip = np.empty((grid.rows[0].size, grid.columns[-1].stop, channels), np.float32)
    above = strip[:0]
    for rows, below in zip_longest(grid.rows, grid.rows[1:]):
        done = 0
        for columns in grid.columns:
            tile = tile_at(rows, columns)
            shared = done - columns.start
            _fade_in(strip[:, columns.start : done], tile[:, :shared], fade(shared, grid.context_radius)[:, None])
            strip[:, done : columns.stop] = tile[:, shared:]
            done = columns.stop
        _fade_in(above, strip[: len(above)], fade(len(above), grid.context_radius)[:, None, None])
        strip[: len(above)] = above
        finished = (below.start if below else rows.stop) - rows.start
        above = strip[finished:].copy()
        yield rows.start, strip[: min(finished, grid.height - rows.start), : grid.width]


def _fade_in(earlier: Floats, later: Floats, weights: Floats) -> None:
    """Blend in place, by the distance from the nearer of the two: where they agree, and at 0 and 1, exactly."""
    near = weights < 0.5
    difference = later - earlier
    difference *= np.where(near, weights, weights - 1)
    np.add(np.where(near, earlier, later), difference, out=earlier)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
