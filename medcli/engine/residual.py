"""What was removed from an image, as an image about mid-gray, and how much of it follows the picture.

The noise of a good result does not follow the picture: in each block of BLOCK x BLOCK pixels the residual is compared
with the fine structure of the result. A denoiser that blurs leaves both with a common pattern. Where the result has
less structure than CLEAR of what was removed, nothing is compared: there it is left-over noise that both share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.images.values import Floats, ValueRange, stored

Pixels = NDArray[Any]

BLOCK = 32  # pixels; 1024 of white noise correlate with anything by 0.03
BAND = 8 * BLOCK
FINE = 2.0  # sigma in pixels of the blur above which structure is fine
HALO = 8
CLEAR = 0.5  # deviation of the fine structure in that of the residual
FAINT = 0.1 / 255  # deviation of a residual that is hardly there
SOME, MUCH = (
    0.1,
    0.25,
)  # true noise has up to 0.02, the photo model up to 0.18, a blur of one pixel 0.22 to 0.57


@dataclass(frozen=True)
class RemovedStats:
    """sigma: standard deviation of the residual in grey levels of 255, over all channels.

    structure: share of the residual's energy that follows the fine structure of the result, 0 to 1.
    """

    sigma: float
    structure: float

    @property
    def words(self) -> str:
        verdict = "little" if self.structure < SOME else "some" if self.structure < MUCH else "much"
        return f"removed sigma {self.sigma:.2g}, {verdict} structure with it ({self.structure:.0%})"


def residual(before: Pixels, after: Pixels, values: ValueRange) -> Pixels:
    """The middle of `values` + before - after, in their dtype: (H, W) or (H, W, C). Integers stop at their ends."""
    middle = (values.low + values.high) / 2
    result = np.empty(before.shape, before.dtype)
    for top in range(0, len(before), BAND):
        rows = slice(top, top + BAND)
        with np.errstate(invalid="ignore", over="ignore"):
            result[rows] = stored(before[rows].astype(np.float64) - after[rows] + middle, before.dtype)
    return result


def removed_stats(pages: Iterable[tuple[Pixels, Pixels]], values: ValueRange) -> RemovedStats:
    """Of pages (before, after), (H, W) or (H, W, C) each; values that are not finite count nowhere."""
    squares, count, energies = 0.0, 0, np.zeros(2)
    for before, after in pages:
        for top in range(0, len(before), BAND):
            change, fine = _band(before, after, values, top)
            squares += float(np.square(change, dtype=np.float64).sum())
            count += change.size
            energies += _energies(change.mean(2), fine)
    return RemovedStats(255 * (squares / max(1, count)) ** 0.5, float(energies[0] / max(energies[1], 1e-12)))


def _band(before: Pixels, after: Pixels, values: ValueRange, top: int) -> tuple[Floats, Floats]:
    """(rows, W, C) before - after, and (rows, W) fine structure of the result, as the network sees values."""
    above, below = max(0, top - HALO), top + BAND + HALO
    shown = values.to_unit(after[above:below]).reshape(*after[above:below].shape[:2], -1)
    shown = np.nan_to_num(shown, nan=0.0, posinf=0.0, neginf=0.0)
    gray = shown.mean(2)
    fine = gray - cv2.GaussianBlur(gray, (2 * HALO + 1, 2 * HALO + 1), FINE, borderType=cv2.BORDER_REFLECT)
    inner = slice(top - above, top - above + BAND)
    noisy = values.to_unit(before[top : top + BAND]).reshape(shown[inner].shape)
    return np.nan_to_num(noisy, nan=0.0, posinf=0.0, neginf=0.0) - shown[inner], fine[inner]


def _energies(change: Floats, fine: Floats) -> NDArray[np.float64]:
    """Of the whole blocks that can be compared: energy of the residual that follows the structure, and all of it."""
    rows, columns = (side // BLOCK for side in change.shape)
    parts = []
    for plane in (change, fine):
        tiles = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
        flat = tiles.reshape(rows * columns, BLOCK * BLOCK).astype(np.float64)
        parts.append(flat - flat.mean(1, keepdims=True))
    removed, structure = ((part**2).mean(1) for part in parts)
    clear = (removed > FAINT**2) & (structure > CLEAR**2 * removed)
    followed = (parts[0] * parts[1]).mean(1)[clear] ** 2 / structure[clear]
    return np.array([followed.sum(), removed[clear].sum()])
