"""Images cut into square blocks, to find out what the noise is like where nothing else is to be seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_NOISE = 0.25 / 255  # less is a clipped, painted or smoothed surface
TERMS = 6  # of a surface of second degree


def channels(image: NDArray[np.float32]) -> Iterable[NDArray[np.float32]]:
    """(H, W) or (H, W, C) -> each channel (H, W)."""
    return np.moveaxis(image, 2, 0) if image.ndim == 3 else image[None]


def blocks(channel: NDArray[Any], side: int) -> Floats:
    """(H, W) -> (N, side, side), side by side, without the rest at the right and below."""
    rows, columns = (length // side for length in channel.shape)
    cut = channel[: rows * side, : columns * side].reshape(rows, side, columns, side)
    found: Floats = cut.swapaxes(1, 2).reshape(-1, side, side).astype(np.float64)
    return found


def unclipped(found: Floats) -> Floats:
    """Those of (N, side, side) that touch neither 0 nor 1, where the image ends there.

    If a block holds values beyond an end, as in a range that percentiles chose, nothing was clipped at that end.
    """
    if not len(found):
        return found
    above = (found.min((1, 2)) > 0) | (found.min() < 0)
    below = (found.max((1, 2)) < 1) | (found.max() > 1)
    kept: Floats = found[above & below]
    return kept


def surfaces(found: Floats) -> Floats:
    """The surface of second degree nearest to each of (N, side, side)."""
    side = found.shape[1]
    down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    powers = np.stack([np.ones_like(down), down, right, down * right, down**2, right**2]).reshape(TERMS, -1)
    basis = np.linalg.qr(powers.T)[0]
    flat = found.reshape(len(found), side**2)
    smooth: Floats = (flat @ basis @ basis.T).reshape(found.shape)
    return smooth
