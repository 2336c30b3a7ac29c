"""Colour that nobody sees: a guard against what lies under alpha 0.

Editors leave anything under full transparency, often black or a removed background. A network would smear it into the
visible pixels beside it, so it is replaced by colours of the neighbourhood before the network and put back afterwards.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

BLOCK = 8  # hidden pixels need no finer colour than the mean of a block of this side


def fill_hidden(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels with plausible colour under alpha 0.

    pixels: (H, W) or (H, W, C); alpha: (H, W). Returns `pixels` itself where nothing is hidden, else a copy in which
    each hidden pixel has the mean colour of the visible ones around it; all hidden: unchanged.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    colours = _spread(*_block_means(pixels, ~hidden))
    filled: Pixels = pixels.copy()
    for top in range(0, len(pixels), BLOCK):  # by bands, so that no float copy of the whole picture is made
        band = slice(top, top + BLOCK)
        if hidden[band].any():
            row = np.repeat(colours[top // BLOCK], BLOCK, axis=0)[: pixels.shape[1]]
            filled[band] = np.where(_broadcast(hidden[band], pixels), row.astype(pixels.dtype), pixels[band])
    return filled


def restore_hidden(restored: Pixels, original: Pixels, alpha: Pixels) -> Pixels:
    """The network's answer where something is visible, the original bytes under alpha 0. Shapes as in fill_hidden."""
    hidden = alpha == 0
    return np.where(_broadcast(hidden, original), original, restored) if hidden.any() else restored


def _broadcast(mask: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """(H, W) as it is for gray, (H, W, 1) for colour."""
    return mask if pixels.ndim == 2 else mask[..., None]


def _block_means(pixels: Pixels, visible: NDArray[np.bool_]) -> tuple[Pixels, Pixels]:
    """Sums of visible colour (h, w[, C]) and counts of visible pixels (h, w) per block, h = ceil(H / BLOCK)."""
    sums, counts = [], []
    columns = range(0, pixels.shape[1], BLOCK)
    for top in range(0, len(pixels), BLOCK):
        shown = visible[top : top + BLOCK]
        colour = np.where(_broadcast(shown, pixels), pixels[top : top + BLOCK], 0).sum(axis=0, dtype=np.float64)
        sums.append(np.add.reduceat(colour, columns, axis=0))
        counts.append(np.add.reduceat(shown.sum(axis=0), columns))
    return np.array(sums, np.float32), np.array(counts, np.float32)


def _spread(sums: Pixels, counts: Pixels) -> Pixels:
    """Push-pull: means where something was counted; elsewhere the answer to the same question at half resolution."""
    known = counts > 0
    means: Pixels = sums / _broadcast(np.where(known, counts, 1), sums)
    if known.all():
        return means
    height, width = counts.shape
    half = (max(1, width // 2), max(1, height // 2))
    small_sums, small_counts = (cv2.resize(level, half, interpolation=cv2.INTER_AREA) for level in (sums, counts))
    small_sums = small_sums.reshape(*small_counts.shape, *sums.shape[2:])  # OpenCV drops a channel axis of length 1
    coarse = cv2.resize(_spread(small_sums, small_counts), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(_broadcast(known, sums), means, np.reshape(coarse, means.shape))
