"""Arrays to network floats and back, window by window, in a range of values of `medcli.images.values`.

Pixels that are no data (NaN, infinity, a value that says so), and those far outside the range of the image, are
shown to the network as their surroundings would have them, and come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medcli.engine.tiling import Span
from medcli.errors import InputError, ModelError
from medcli.images.filling import BLOCK, REACH, block_colours, with_holes_filled
from medcli.images.values import TYPES, Floats, Mask, ValueRange, missing

Pixels = npt.NDArray[Any]

_ROWS_AT_ONCE = 32  # a piece of a band that stays in the cache while it is scaled, blended and rounded


@dataclass(frozen=True)
class Canvas:
    """An image as it is shown to a network. pixels: (H, W, C) in one of `TYPES`; values: what is 0 and 1 there.

    nodata: pixels whose channels are all of this value mean nothing. deep: a colour for each block, (h, w, C) float32
    as the network sees it; None where every pixel is shown. passed_over: how many pixels are not.
    """

    pixels: Pixels
    values: ValueRange
    nodata: float | None = None
    deep: Floats | None = None
    passed_over: int = 0

    def prepared(self) -> Canvas:
        """The same, with what it takes to fill what cannot be shown; needs no copy of the image."""
        if self.nodata is None and self.values.holds(self.pixels.dtype):
            return self
        passed_over = 0
        for top in range(0, len(self.pixels), _ROWS_AT_ONCE):
            passed_over += int(np.count_nonzero(self.seen(self.pixels[top : top + _ROWS_AT_ONCE])[1]))
        height, width = self.pixels.shape[:2]
        if passed_over in (0, height * width):
            return replace(self, passed_over=passed_over)
        strips = (self.seen(self.pixels[top : top + BLOCK]) for top in range(0, len(self.pixels), BLOCK))
        deep = block_colours((unit, ~hole) for unit, hole in strips)
        return replace(self, deep=deep, passed_over=passed_over)

    @property
    def is_void(self) -> bool:
        """Whether no pixel at all can be shown."""
        height, width = self.pixels.shape[:2]
        return bool(self.passed_over == height * width)

    def seen(self, window: Pixels) -> tuple[Floats, Mask]:
        """(h, w, C) of the image as the network sees it, and (h, w): where it must not."""
        unit = self.values.to_unit(window)
        hole = self.values.far_outside(unit)
        lost = missing(window, self.nodata)
        return unit, hole if lost is None else hole | lost


def as_canvas(pixels: Pixels, channels: int) -> Pixels:
    """(H, W, C) view of `pixels`, (H, W) or (H, W, C), for a network with `channels`; C is that number, or 1 (gray).

    Raises InputError for an array that is no image, ModelError for one that does not fit the network.
    """
    if pixels.dtype.name not in TYPES:
        raise InputError(f"Pixels of type {pixels.dtype.name} are not known here.", f"Give {', '.join(TYPES)}.")
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise InputError(
            f"An array of shape {pixels.shape} is no image.",
            "Give (height, width) or (height, width, channels), none of them 0; of a stack, one page at a time.",
        )
    canvas: Pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    found = canvas.shape[2]
    if found not in (1, channels):
        hint = "Choose a model with as many channels, or denoise the channels one by one as gray images."
        if found in (2, 4):
            hint = "An alpha channel is not a colour: leave it out (pixels[..., :-1]) and put it back afterwards."
        raise ModelError(f"The image has {found} channels, but the model was made for {channels}.", hint)
    return canvas


def is_eight_bit(pixels: Pixels) -> bool:
    return bool(pixels.dtype == np.uint8)


def read_tile(canvas: Canvas, rows: Span, columns: Span) -> Floats:
    """(rows, columns, C) float32; beyond the border the image is mirrored."""
    if canvas.deep is None:
        return canvas.values.to_unit(_window(canvas.pixels, rows, columns))
    return _filled(canvas, canvas.deep, rows, columns)


def write_rows(restored: Floats, canvas: Canvas, rows: slice, target: Pixels, strength: float) -> None:
    """Blend `restored`, (rows, W, C) float32, with those rows of the canvas into `target`, of the same shape.

    What was not shown stays. Integers are rounded and stop at the ends of their type.
    """
    for top in range(0, len(restored), _ROWS_AT_ONCE):
        piece = slice(top, top + _ROWS_AT_ONCE)
        source = canvas.pixels[rows][piece]
        unit, hole = canvas.seen(source) if canvas.deep is not None else (canvas.values.to_unit(source), None)
        with np.errstate(invalid="ignore"):
            result = canvas.values.changed(source, restored[piece] - unit, strength)
        target[piece] = result
        if hole is not None:
            new = missing(result, canvas.nodata)  # a number that means "no data" must not come from anywhere else
            np.copyto(target[piece], source, where=(hole if new is None else hole | new)[..., None])


def reflected(span: Span, length: int) -> npt.NDArray[np.intp]:
    """Indices of `span` in a side of `length` pixels that is mirrored at its ends without repeating them."""
    period = max(1, 2 * (length - 1))
    indices = np.arange(span.start, span.stop) % period
    return np.where(indices < length, indices, period - indices)


def _window(pixels: Pixels, rows: Span, columns: Span) -> Pixels:
    height, width = pixels.shape[:2]
    if min(rows.start, columns.start) >= 0 and rows.stop <= height and columns.stop <= width:
        window: Pixels = pixels[rows.start : rows.stop, columns.start : columns.stop]
        return window
    down = reflected(rows, height)
    first = int(down.min())
    mirrored: Pixels = pixels[first : int(down.max()) + 1][np.ix_(down - first, reflected(columns, width))]
    return mirrored


def _filled(canvas: Canvas, deep: Floats, rows: Span, columns: Span) -> Floats:
    """The window with its holes filled as in the whole image, whatever its borders cut through."""
    wide = [Span(span.start - REACH, span.stop + REACH) for span in (rows, columns)]
    unit, hole = canvas.seen(_window(canvas.pixels, *wide))
    inner = slice(REACH, -REACH), slice(REACH, -REACH)
    if not hole[inner].any():
        return np.ascontiguousarray(unit[inner])
    down, along = (reflected(span, side) // BLOCK for span, side in zip(wide, canvas.pixels.shape, strict=False))
    return np.ascontiguousarray(with_holes_filled(unit, hole, deep[np.ix_(down, along)])[inner])
