"""Plausible values where there are none: a network would smear what lies there into the pixels beside it.

Near pixels that are known, a hole takes their mean, the nearer the more; deep inside it, colours of the neighbourhood
by push-pull, which needs no more than one colour per block. So an image of any size is filled window by window, and a
window gets the same values wherever it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.images.values import ValueRange, missing

Array = NDArray[Any]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

BLOCK = 8  # deep inside, a hole needs no finer colour than the mean of a block of this side
REACH = 4  # pixels: so far a hole is filled by the pixels beside it
NEARNESS = 1.5  # pixels, the deviation of the weights of those


def block_colours(strips: Iterable[tuple[Array, Mask]]) -> Floats:
    """The colour of each block of BLOCK x BLOCK pixels: (ceil(H / BLOCK), ceil(W / BLOCK)[, C]).

    strips: the image in rows of blocks, (BLOCK, W[, C]) and what is known of each, (BLOCK, W). Blocks of which
    nothing is known take the colours around them; the image must have a known pixel.
    """
    sums, counts = [], []
    for values, known in strips:
        columns = range(0, values.shape[1], BLOCK)
        colour = np.where(broadcast(known, values), values, 0).sum(axis=0, dtype=np.float64)
        sums.append(np.add.reduceat(colour, columns, axis=0))
        counts.append(np.add.reduceat(known.sum(axis=0), columns))
    return _spread(np.array(sums, np.float32), np.array(counts, np.float32))


def with_holes_filled(values: Floats, hole: Mask, deep: Floats) -> Floats:
    """(H, W, C) with `hole`, (H, W), filled; values there may be anything. deep: same shape, for what lies far inside.

    Within REACH of the border it depends on what lies beyond.
    """
    size = (2 * REACH + 1, 2 * REACH + 1)
    known = np.float32(1) - hole
    clean = np.where(hole[..., None], np.float32(0), values)
    sums = cv2.GaussianBlur(clean, size, NEARNESS, borderType=cv2.BORDER_REFLECT_101).reshape(values.shape)
    weights = cv2.GaussianBlur(known, size, NEARNESS, borderType=cv2.BORDER_REFLECT_101)[..., None]
    near = sums / np.maximum(weights, np.float32(1e-6))
    estimate = np.where(weights > 1e-3, near, deep)
    result: Floats = np.where(hole[..., None], estimate, values)
    return result


def unit_filled(pixels: Array, values: ValueRange, nodata: float | None = None) -> Floats:
    """(H, W[, C]) as a network is shown it, in one piece: float32 in which the range is [0, 1], without holes.

    An image without anything to be shown is 0 all over.
    """
    unit = values.to_unit(pixels)
    lost, hole = missing(pixels, nodata), values.far_outside(unit)
    hole = hole if lost is None else hole | lost
    if not hole.any():
        return unit
    if hole.all():
        return np.zeros_like(unit)
    layers = unit.reshape(*hole.shape, -1)
    tops = range(0, len(layers), BLOCK)
    colours = block_colours((layers[top : top + BLOCK], ~hole[top : top + BLOCK]) for top in tops)
    down, along = (np.arange(side) // BLOCK for side in hole.shape)
    return with_holes_filled(layers, hole, colours[np.ix_(down, along)]).reshape(unit.shape)


def broadcast(mask: Array, pixels: Array) -> Array:
    """(H, W) as it is for gray, (H, W, 1) for colour."""
    return mask if pixels.ndim == 2 else mask[..., None]


def _spread(sums: Floats, counts: Floats) -> Floats:
    """Push-pull: means where something was counted; elsewhere the answer to the same question at half resolution."""
    known = counts > 0
    means: Floats = np.asarray(sums / broadcast(np.where(known, counts, 1), sums), np.float32)
    if known.all():
        return means
    height, width = counts.shape
    half = (max(1, width // 2), max(1, height // 2))
    small_sums, small_counts = (
        np.asarray(cv2.resize(level, half, interpolation=cv2.INTER_AREA), np.float32) for level in (sums, counts)
    )
    small_sums = small_sums.reshape(*small_counts.shape, *sums.shape[2:])  # OpenCV drops a channel axis of length 1
    coarse = cv2.resize(_spread(small_sums, small_counts), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(broadcast(known, sums), means, np.reshape(coarse, means.shape))
