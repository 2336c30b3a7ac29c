"""How far noise is correlated, from noisy images alone, and the stride of sub-images that pulls it apart.

Where an image is flat, what is left after a smooth surface is taken off is noise. Its autocorrelation is measured in
the flattest blocks of each brightness, and the median over them passes by the blocks in which there was texture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcli.data.crops import as_unit
from medcli.data.flat_blocks import LEAST_NOISE, Floats, blocks, channels, surfaces, unclipped
from medcli.errors import InputError

SIDE, LAGS = 24, 8  # of a block; largest distance that is looked at
FLAT_SHARE, TONES = 0.05, 4
TOLERANCE = 0.1


@dataclass(frozen=True)
class Correlation:
    """lags: (2, LAGS + 1), the correlation of the noise at 0, 1, 2 ... pixels along columns and along rows.

    sigma: standard deviation of the noise in the blocks that were measured, in grey levels of 255. blocks: how many.
    """

    lags: Floats
    sigma: float
    blocks: int

    def stride(self, tolerance: float = TOLERANCE) -> int:
        """The smallest pd at which the pixels of a sub-image share no more than `tolerance` with each other.

        At most LAGS, also where more would be needed. Below zero twice as much is allowed: the surface that is taken
        off takes some of a long correlation with it, and leaves that much less than nothing.
        """
        strides = (s for s in range(1, LAGS) if _within(self.lags[:, s::s], tolerance))
        return next(strides, LAGS)


def _within(lags: Floats, tolerance: float) -> bool:
    return bool(((lags <= tolerance) & (lags >= -2 * tolerance)).all())


def correlated(white: Tensor, lags: Floats) -> Tensor:
    """White noise (..., H, W) with a correlation like `Correlation.lags`, and its variance as before.

    The correlation of two pixels is the product of those along columns and rows. Opposite borders are neighbours.
    """
    down, along = (_spectrum(each, side) for each, side in zip(lags, white.shape[-2:], strict=True))
    power = torch.outer(down, along).to(white)
    noise: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * (power / power.mean()).sqrt()).real
    return noise


def _spectrum(lags: Floats, side: int) -> Tensor:
    """(side,) power at each frequency; what no noise can have is left out."""
    covariance = torch.zeros(side)
    covariance[: len(lags)] = torch.from_numpy(lags).float()
    covariance[-len(lags) + 1 :] = covariance[1 : len(lags)].flip(0)
    power: Tensor = torch.fft.fft(covariance).real.clamp(min=0)
    return power


def noise_correlation(images: Iterable[NDArray[Any]]) -> Correlation:
    """Measures images (H, W) or (H, W, C) of any depth; each counts by its flat blocks.

    Raises InputError where none has a block of 24 x 24 pixels that is flat and noisy.
    """
    found = [
        _measured(_flattest(unclipped(blocks(channel, SIDE))))
        for image in images
        for channel in channels(as_unit(image))
    ]
    variances, lags = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else (np.zeros(0),) * 2
    if not len(variances):
        raise InputError(
            "The noise cannot be measured: no image has a flat part of 24 x 24 pixels with noise in it.",
            "Give larger images, or say how far its correlation reaches: --pd 1 for none, 5 for a phone's.",
        )
    return Correlation(np.median(lags, axis=0), 255 * float(np.sqrt(np.median(variances))), len(variances))


def _flattest(found: Floats) -> Floats:
    """The residuals of the twentieth of the blocks, tone by tone, in which they are smallest."""
    residuals = found - surfaces(found)
    deviations = residuals.std((1, 2))
    order = np.argsort(found.mean((1, 2)), kind="stable")
    order = order[deviations[order] > LEAST_NOISE]
    tones = np.array_split(order, TONES)
    chosen = [tone[np.argsort(deviations[tone], kind="stable")][: -int(-FLAT_SHARE * len(tone) // 1)] for tone in tones]
    flattest: Floats = residuals[np.concatenate(chosen)]
    return flattest


def _measured(residuals: Floats) -> tuple[Floats, Floats]:
    """(N, SIDE, SIDE) -> variances (N,) and correlations (N, 2, LAGS + 1), along columns and along rows."""
    variances = residuals.var((1, 2))
    turned = residuals.swapaxes(1, 2)
    products = [
        [(way[:, : SIDE - lag] * way[:, lag:]).mean((1, 2)) for lag in range(LAGS + 1)] for way in (residuals, turned)
    ]
    return variances, np.moveaxis(np.array(products), 2, 0) / variances[:, None, None]
