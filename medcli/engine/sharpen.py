"""Unsharp masking of a restored image: it adds a share of the difference to its blurred self.

Chen, Noisy Visual Training (MSc thesis, University of Birmingham), section 7.5.

Departs: the low-pass is a Gaussian of sigma 1 over 5 x 5 pixels whose sum is 1. The thesis has a Laplacian of
Gaussian, whose sum is 0: taken literally, all images would become brighter by the amount.
Departs: the amount is fixed. Fitting it to the noisy image puts noise back, because the restored image depends on that
noise: for non-local means the fit gave 4 to 6, where the best PSNR is at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from medcli.engine.tiling import Floats

AMOUNT, MOST = 0.2, 2.0  # of the thesis; largest
REACH, SIGMA = 2, 1.0  # pixels
DARK = 1e-4  # value below which colours keep their ratio to it no longer


def sharpened(
    bands: Iterable[tuple[int, Floats]], height: int, amount: float = AMOUNT, *, by_value: bool = True
) -> Iterator[tuple[int, Floats]]:
    """The bands of a restored image, sharpened; they lag two rows. Flat areas and the mean do not change.

    bands: (first row, (rows, W, C) float32 in [0, 1]) from top to bottom, each row once. amount: 0 changes nothing.
    by_value: whether colours are sharpened in V = max(R, G, B) of HSV, so that hue and saturation stay; otherwise each
    channel by itself, as gray images are.
    """
    held, start, done = np.empty(0, np.float32), 0, 0  # rows from `start`; those before `done` are neighbours only
    for top, band in bands:
        held = np.concatenate((held, band)) if len(held) else band.copy()
        end = top + len(band)
        ready = end if end == height else end - REACH
        if ready <= done:
            continue
        above, below = min(REACH, done - start), min(REACH, end - ready)
        window = held[done - above - start : ready + below - start]
        yield done, _sharp(window, amount, by_value)[above : len(window) - below]
        done = ready
        keep = max(done - REACH, start)
        held, start = held[keep - start :].copy(), keep


def _sharp(rows: Floats, amount: float, by_value: bool) -> Floats:
    """(h, W, C) -> same shape; beyond its borders the image is repeated."""
    share = np.float32(amount)
    if rows.shape[2] == 1 or not by_value:
        result: Floats = rows + share * (rows - _blurred(rows))
        return result
    value = rows.max(2, keepdims=True)
    sharp = value + share * (value - _blurred(value))
    sharp = np.minimum(sharp, value.clip(min=1))  # beyond white, channels would be clipped and the hue would change
    dark = np.float32(DARK)
    coloured: Floats = np.where(value > dark, rows * (sharp / value.clip(min=dark)).clip(min=0), rows + sharp - value)
    return coloured


def _blurred(rows: Floats) -> Floats:
    taps = np.exp(-0.5 * (np.arange(-REACH, REACH + 1, dtype=np.float32) / SIGMA) ** 2)
    taps /= taps.sum()
    blurred = cv2.sepFilter2D(rows, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32).reshape(rows.shape)
