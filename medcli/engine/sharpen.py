"""Unsharp masking of a restored image: it adds a share of the difference to its blurred self.

Chen, Noisy Visual Training (MSc thesis, University of Birmingham), section 7.5.

Departs: the low-pass is a Gaussian of sigma 1 over 5 x 5 pixels whose sum is 1. The thesis has a Laplacian of
Gaussian, whose sum is 0: taken literally, all images would become brighter by the amount.
Departs: the amount is fixed. Fitting it to the noisy image puts noise back, because the restored image depends on that
noise: for non-local means the fit gave 4 to 6, where the best PSNR is at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

AMOUNT, MOST = 0.2, 2.0  # of the thesis; largest
REACH, SIGMA = 2, 1.0  # pixels
DARK = 1e-4  # value below which colours keep their ratio to it no longer


def sharpened(
    bands: Iterable[tuple[int, Tensor]], height: int, amount: float = AMOUNT, *, by_value: bool = True
) -> Iterator[tuple[int, Tensor]]:
    """The bands of a restored image, sharpened; they lag two rows. Flat areas and the mean do not change.

    bands: (first row, (rows, W, C) float32 in [0, 1]) from top to bottom, each row once. amount: 0 changes nothing.
    by_value: whether colours are sharpened in V = max(R, G, B) of HSV, so that hue and saturation stay; otherwise each
    channel by itself, as gray images are.
    """
    held, start, done = torch.empty(0), 0, 0  # rows from `start`, of which those before `done` are only neighbours
    for top, band in bands:
        held = band.clone() if not len(held) else torch.cat((held, band))
        end = top + len(band)
        ready = end if end == height else end - REACH
        if ready <= done:
            continue
        above, below = min(REACH, done - start), min(REACH, end - ready)
        window = held[done - above - start : ready + below - start]
        yield done, _sharp(window, amount, by_value)[above : len(window) - below]
        done = ready
        keep = max(done - REACH, start)
        held, start = held[keep - start :].clone(), keep


def _sharp(rows: Tensor, amount: float, by_value: bool) -> Tensor:
    """(h, W, C) -> same shape; beyond its borders the image is repeated."""
    if rows.shape[2] == 1 or not by_value:
        return rows + amount * (rows - _blurred(rows))
    value = rows.amax(2, keepdim=True)
    sharp = value + amount * (value - _blurred(value))
    sharp = torch.minimum(sharp, value.clamp(min=1))  # beyond white, channels would be clipped and the hue would change
    return torch.where(value > DARK, rows * (sharp / value.clamp(min=DARK)).clamp(min=0), rows + sharp - value)


def _blurred(rows: Tensor) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-REACH, REACH + 1) / SIGMA) ** 2)
    planes = rows.permute(2, 0, 1)[:, None]
    padded = F.pad(planes, (REACH,) * 4, mode="replicate")
    along = F.conv2d(padded, (taps / taps.sum()).view(1, 1, 1, -1))
    return F.conv2d(along, (taps / taps.sum()).view(1, 1, -1, 1))[:, 0].permute(1, 2, 0)
