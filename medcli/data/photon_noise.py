"""Gain, offset, read noise and correlation of Poisson-Gaussian noise, from one image or a time series.

One image: its second differences in both directions hold hardly anything but noise where it is smooth. Their variance
over small blocks is a line over the blocks' means (Foi et al., Practical Poissonian-Gaussian noise modeling, IEEE TIP
2008). Of each brightness, the blocks are taken whose smoothed content varies least; the choice does not look at the
differences, so it does not favour blocks in which the noise happens to be weak. Correlated noise has little of itself
in second differences: there the line is scaled by how much more is left of flat blocks when a smooth surface is taken
off.

A time series of a scene that does not move: differences of neighbouring frames hold nothing but noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.data.flat_blocks import TERMS, Floats, blocks, surfaces
from medcli.errors import InputError
from medcli.vst import PhotonNoise

SIDE, WIDE_SIDE = 8, 16  # of blocks for the variance, and for the correlation
BINS, WIDE_BINS = 24, 6  # of brightness
FLAT_SHARE, WIDE_FLAT_SHARE = 0.2, 0.1
LAGS = 3
QUANTILE = 0.25  # over flat blocks: structure that is left in some of them correlates
SELECTED = 1.75  # mean of the lowest tenth of a normal variate: how much weaker noise is in the flattest blocks
CORRELATED = 0.12  # of neighbours: above it the surface decides, below it the second differences
MOST_EXTREME = 0.05  # share of a block's pixels that may have the image's darkest or brightest value
ROUNDS = 12  # of the weighted fit
OUTLIER = 2.0  # variance of a block over that of the line
LEAST_BLOCKS = 24
DARK = 0.5  # per cent of the blocks that are as dark as the offset
SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0]) / 6**0.5


@dataclass(frozen=True)
class MeasuredNoise:
    """noise: in the image's values. lags: correlation at 1, 2 and 3 pixels, the mean of rows and columns.

    offset and read of `noise` are what the darkest part of the image shows. If it holds light, both are too large, and
    the transform that follows from them is the same.
    """

    noise: PhotonNoise
    lags: tuple[float, ...]

    @property
    def correlated(self) -> bool:
        """Whether neighbouring pixels share so much of their noise that independence is no longer a good model."""
        return self.lags[0] > CORRELATED


def photon_noise(image: NDArray[Any]) -> MeasuredNoise:
    """From one gray image (H, W) of any type. Raises InputError where it is too small, or shows no noise."""
    values = _finite(image)
    means, variances = _smooth_blocks(values)
    gain, floor = _line(means, variances)
    lags, coarseness = _correlation(values)
    if lags[0] > CORRELATED:
        gain, floor = gain * coarseness, floor * coarseness
    return MeasuredNoise(_split(gain, floor, float(np.percentile(means, DARK))), lags)


def photon_noise_of_series(frames: Sequence[NDArray[Any]]) -> MeasuredNoise:
    """From two or more gray frames (H, W) of a scene that does not move, of equal shape. Raises InputError."""
    if len(frames) < 2:
        raise InputError("A time series has two frames or more.", "Measure a single image by itself.")
    pairs = [(_finite(first), _finite(second)) for first, second in pairwise(frames)]
    noise = [blocks((second - first) / 2**0.5, SIDE) for first, second in pairs]
    below = [blocks((first + second) / 2, SIDE).mean((1, 2)) for first, second in pairs]
    means, variances = (
        np.concatenate(below),
        np.concatenate([each.var((1, 2)) for each in noise]) * SIDE**2 / (SIDE**2 - 1),
    )
    gain, floor = _line(means, variances)
    lags = _lags(np.concatenate([blocks((second - first) / 2**0.5, WIDE_SIDE) for first, second in pairs]))
    return MeasuredNoise(_split(gain, floor, float(np.percentile(means, DARK))), lags)


def _finite(image: NDArray[Any]) -> Floats:
    if image.ndim != 2 or min(image.shape) < WIDE_SIDE:
        raise InputError(
            f"The noise of an image of shape {image.shape} cannot be measured.",
            f"It must be gray and have {WIDE_SIDE} pixels or more on each side.",
        )
    values = image.astype(np.float64)
    bad = ~np.isfinite(values)
    return np.where(bad, np.median(values[~bad]) if not bad.all() else 0.0, values) if bad.any() else values


def _smooth_blocks(values: Floats) -> tuple[Floats, Floats]:
    """(N,) means and variances of the noise of the smoothest blocks of each brightness."""
    noise = cv2.sepFilter2D(values, -1, SECOND_DIFFERENCE, SECOND_DIFFERENCE)
    smoothed = blocks(cv2.GaussianBlur(values, (0, 0), 1.2), SIDE).var((1, 2))
    whole = blocks(values, SIDE)
    inside = _shares_of_extremes(whole, values) < MOST_EXTREME
    means, variances = whole.mean((1, 2))[inside], np.square(blocks(noise, SIDE)).mean((1, 2))[inside]
    chosen = _flattest(means, smoothed[inside], BINS, FLAT_SHARE)
    if len(chosen) < LEAST_BLOCKS or not np.median(variances[chosen]):
        raise InputError("The noise cannot be measured: the image has too few smooth parts with noise in them.")
    return means[chosen], variances[chosen]


def _line(means: Floats, variances: Floats) -> tuple[float, float]:
    """(gain, variance at 0) of the line nearest to the blocks, each weighted by how well it knows its variance.

    A negative gain is that of noise which does not depend on the signal: it becomes a gain near 0.
    """
    typical = float(np.median(variances))
    expected, terms = np.full_like(variances, typical), np.stack([means, np.ones_like(means)], 1)
    gain = floor = 0.0
    for step in range(ROUNDS):
        kept = (variances < OUTLIER * expected) | (step < ROUNDS // 3)  # the first lines are still far off
        roots = kept / np.maximum(expected, 1e-3 * typical)
        gain, floor = np.linalg.lstsq(terms * roots[:, None], variances * roots, rcond=None)[0]
        expected = np.maximum(gain * means + floor, 0.05 * typical)
    least = 1e-3 * typical / max(float(np.ptp(means)), typical**0.5)
    if gain < least:
        middle, level = np.average(np.stack([means, variances]), axis=1, weights=roots**2)
        gain, floor = least, level - least * middle
    return float(gain), float(floor)


def _correlation(values: Floats) -> tuple[tuple[float, ...], float]:
    """Correlations of flat blocks, and their variance over that of second differences."""
    whole = blocks(values, WIDE_SIDE)
    differences = blocks(cv2.sepFilter2D(values, -1, SECOND_DIFFERENCE, SECOND_DIFFERENCE), WIDE_SIDE)
    inside = _shares_of_extremes(whole, values) < MOST_EXTREME
    if not inside.any():
        return (0.0,) * LAGS, 1.0
    residuals = (whole - surfaces(whole))[inside]
    variances = np.square(residuals).sum((1, 2)) / (WIDE_SIDE**2 - TERMS)
    chosen = _flattest(whole[inside].mean((1, 2)), variances, WIDE_BINS, WIDE_FLAT_SHARE)
    weak = np.square(differences[inside][chosen]).mean((1, 2))
    coarseness = np.median(variances[chosen] / np.maximum(weak, 1e-12 + 1e-6 * variances[chosen]))
    lags = _lags(residuals[chosen])
    shared = (1 + 2 * np.square(lags).sum()) ** 2  # so many pixels of a block count as one
    return lags, float(coarseness) / (1 - SELECTED * (2 * shared / WIDE_SIDE**2) ** 0.5)


def _lags(residuals: Floats) -> tuple[float, ...]:
    """(N, side, side) -> the correlation at 1 to LAGS pixels."""
    power = np.maximum(np.square(residuals).mean((1, 2)), 1e-12)
    found = []
    for lag in range(1, LAGS + 1):
        along = (residuals[:, :, lag:] * residuals[:, :, :-lag]).mean((1, 2))
        down = (residuals[:, lag:] * residuals[:, :-lag]).mean((1, 2))
        found.append(float(np.quantile((along + down) / 2 / power, QUANTILE)))
    return tuple(found)


def _flattest(means: Floats, deviations: Floats, bins: int, share: float) -> NDArray[np.intp]:
    """Indices of the share of the blocks, brightness by brightness, whose `deviations` are smallest."""
    parts = np.array_split(np.argsort(means, kind="stable"), bins)
    ranked = [part[np.argsort(deviations[part], kind="stable")] for part in parts]
    return np.concatenate([part[: max(4, round(share * len(part)))] for part in ranked])


def _shares_of_extremes(found: Floats, values: Floats) -> Floats:
    shares: Floats = ((found <= values.min()) | (found >= values.max())).mean((1, 2))
    return shares


def _split(gain: float, floor: float, darkest: float) -> PhotonNoise:
    """The variance at 0 as offset and read noise: the darkest part has no light, or less than none is impossible."""
    offset = max(darkest, -floor / gain)
    return PhotonNoise(gain, offset, max(floor + gain * offset, 0.0) ** 0.5)
