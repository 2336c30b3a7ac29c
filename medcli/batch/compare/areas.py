"""The parts of a picture on which denoisers differ most: fine detail, a flat surface, a dark place."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.errors import InputError

Floats = NDArray[np.float32]

SIDE = 512  # of an area, in pixels
WHOLE = 1024 * 1024  # pixels of a picture that is shown as a whole
CELL = 8  # pixels: areas are found on means of so many, in which noise hardly shows
SHARED = 0.25  # share of its pixels that an area may have in common with another


class Area(NamedTuple):
    """A part of a picture, in pixels as they are stored. name: why it was chosen; empty for all of it."""

    name: str
    left: int
    top: int
    width: int
    height: int

    def cut(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(H, W) or (H, W, C) -> (height, width[, C])."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def grown(self, margin: int, step: int, height: int, width: int) -> Area:
        """With so many pixels around it, as far as the picture reaches; it begins at multiples of `step`."""
        left, top = (max(0, start - margin) // step * step for start in (self.left, self.top))
        right, bottom = min(width, self.left + self.width + margin), min(height, self.top + self.height + margin)
        return Area(self.name, left, top, right - left, bottom - top)


def whole(height: int, width: int) -> Area:
    """All of a picture."""
    return Area("", 0, 0, width, height)


def parse_area(text: str, height: int, width: int) -> Area:
    """`X,Y,W,H` in pixels from the upper left corner. Raises InputError for others, and outside the picture."""
    try:
        left, top, w, h = map(int, text.split(","))
    except ValueError:
        raise InputError(f"'{text}' is no area of a picture.", "Give X,Y,W,H in pixels: 1200,340,512,512.") from None
    if not (0 <= left < left + w <= width and 0 <= top < top + h <= height):
        raise InputError(f"The area {text} is not inside the picture of {width}x{height} pixels.")
    return Area("crop", left, top, w, h)


def telling_areas(gray: Floats, side: int = SIDE) -> list[Area]:
    """Up to three areas of a picture (H, W) in [0, 1]: `detail`, `flat` and `dark`; the same ones each time.

    A picture of no more than WHOLE pixels is shown as a whole.
    """
    height, width = gray.shape
    if height * width <= WHOLE:
        return [whole(height, width)]
    means = cv2.resize(gray, (width // CELL, height // CELL), interpolation=cv2.INTER_AREA)
    rows, columns = (min(side // CELL, length) for length in means.shape)
    slopes = cv2.magnitude(cv2.Sobel(means, cv2.CV_32F, 1, 0), cv2.Sobel(means, cv2.CV_32F, 0, 1))
    structure, brightness, clipped = (
        _over_windows(values, rows, columns) for values in (slopes, means, (means <= 0.01) | (means >= 0.99))
    )
    costs = {
        "detail": clipped - structure,
        "flat": clipped + structure + 0.1 * abs(brightness - 0.5),
        "dark": clipped + brightness,
    }
    free, areas = np.ones(structure.shape, bool), []
    for name, cost in costs.items():
        if not free.any():
            break
        top, left = np.unravel_index(int(np.where(free, cost, np.inf).argmin()), cost.shape)
        areas.append(Area(name, int(left) * CELL, int(top) * CELL, min(side, width), min(side, height)))
        _reserve(free, int(top), int(left), rows, columns)
    return areas


def _over_windows(values: NDArray[np.generic], rows: int, columns: int) -> Floats:
    """The mean over each window of rows x columns that lies inside."""
    means = cv2.boxFilter(values.astype(np.float32), cv2.CV_32F, (columns, rows), anchor=(0, 0))
    inside = means[: values.shape[0] - rows + 1, : values.shape[1] - columns + 1]
    return inside.astype(np.float32, copy=False)


def _reserve(free: NDArray[np.bool_], top: int, left: int, rows: int, columns: int) -> None:
    """Marks the windows that share too much with the one at (top, left)."""
    down = np.clip(rows - abs(np.arange(free.shape[0]) - top), 0, None)
    along = np.clip(columns - abs(np.arange(free.shape[1]) - left), 0, None)
    free &= np.outer(down, along) <= SHARED * rows * columns
