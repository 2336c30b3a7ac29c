"""Noise level at each brightness, estimated from noisy images alone, and the options of a noise model that follow.

A flat part of an image is a smooth surface plus noise. The same is measured on images with synthetic noise, so that
both can be compared without clean images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.data.crops import as_unit
from medcli.data.flat_blocks import LEAST_NOISE, TERMS, Floats, blocks, channels, surfaces, unclipped
from medcli.errors import InputError

SIDE = 16  # of a block, in pixels
FLAT_SHARE, TONES = 0.1, 8
CLEAN_OVER_NOISY, NOISY_OVER_NOISE = 2.0, 1.2
SMALLEST, LARGEST = 1.0, 60.0  # sigma of h on noisy images, in grey levels


@dataclass(frozen=True)
class NoiseSample:
    """Blocks of noise. tones: (N, SIDE, SIDE) brightness below it, about [0, 1]; noise: same shape and scale."""

    tones: Floats
    noise: Floats

    @property
    def sigma(self) -> float:
        """Standard deviation over all of it, in grey levels of 255."""
        return 255 * float(np.sqrt(np.mean(self.noise**2)))

    def edges(self, count: int = 10) -> Floats:
        """(count + 1,) brightnesses between which equally many pixels lie: deciles by default."""
        return np.quantile(self.tones, np.linspace(0, 1, count + 1))

    def by_tone(self, edges: Floats, least: int = 64) -> Floats:
        """(len(edges) - 1,) standard deviations in grey levels; NaN where fewer than `least` pixels lie between."""
        bins = np.searchsorted(edges, self.tones, side="right") - 1
        bins[self.tones == edges[-1]] = len(edges) - 2  # brightnesses outside the edges count nowhere
        parts = [self.noise[bins == index] for index in range(len(edges) - 1)]
        return np.array([255 * part.std() if part.size >= least else np.nan for part in parts])

    def correlation(self, lags: int = 4) -> Floats:
        """(2, lags + 1): correlation at 0, 1, 2 ... pixels, along columns and along rows."""
        ways = self.noise, self.noise.swapaxes(1, 2)
        products = [[(way[:, : SIDE - lag] * way[:, lag:]).mean() for lag in range(lags + 1)] for way in ways]
        correlation: Floats = np.array(products) / np.mean(self.noise**2)
        return correlation

    @property
    def coarseness(self) -> float:
        """How much stronger than it white noise must be to reach it at all frequencies: 1 for white noise, or more.

        The root of its density at frequency 0, as far as the correlations of two pixels' distance make it out.
        """
        sums = 1 + 2 * self.correlation(2)[:, 1:].clip(0).sum(1)  # the surface that is taken off makes lags negative
        return float(np.sqrt(sums.prod()))


def flat_noise(images: Iterable[NDArray[Any]]) -> NoiseSample:
    """The noise in the flattest blocks of each brightness: images (H, W) or (H, W, C) of any depth.

    Raises InputError where no image has a block that is flat and noisy.
    """
    found = [_flattest(unclipped(blocks(channel, SIDE))) for image in images for channel in channels(as_unit(image))]
    sample = _joined([each for each in found if len(each.noise)])
    if not len(sample.noise):
        raise InputError(
            f"The noise cannot be measured: no image has a flat part of {SIDE} x {SIDE} pixels with noise in it.",
            "Give larger images, or say how strong the noise is.",
        )
    return sample


def known_noise(noisy: Iterable[NDArray[Any]], clean: Iterable[NDArray[Any]]) -> NoiseSample:
    """The noise of all blocks of images (H, W) or (H, W, C) whose clean images are known."""
    pairs = [(as_unit(one), as_unit(other)) for one, other in zip(noisy, clean, strict=True)]
    planes = [pair for each in pairs for pair in zip(*map(channels, each), strict=True)]
    cut = [(blocks(one, SIDE), blocks(clean_plane, SIDE)) for one, clean_plane in planes]
    return _joined([NoiseSample(below, one - below) for one, below in cut])


@dataclass(frozen=True)
class ProposedLevels:
    """Options of a noise model for these images.

    noise: standard deviation of the noise in grey levels. coarseness: see `NoiseSample`. sigma_x, sigma_y: of the noise
    that hides the difference between clean and noisy images.
    """

    noise: float
    coarseness: float
    sigma_x: float
    sigma_y: float

    def config(self) -> dict[str, float]:
        """The part that belongs to the configuration of a network that generates noise."""
        return {"sigma_x": self.sigma_x, "sigma_y": self.sigma_y}


def propose(noisy: Sequence[NDArray[Any]]) -> ProposedLevels:
    """Sigmas from the noise of the noisy images, in flat parts.

    The published pairs, 40 and 20 for SIDD, 20 and 10 for DND, are about 2.4 and 1.2 times the noise of those sets.
    Departs: times its coarseness. White noise of the deviation of the noise of camera JPEGs leaves what is coarse in it
    to be seen: it was rebuilt from there, latents stayed empty, and clean images got none of it (docs/benchmarks.md).
    Raises InputError where the noise cannot be measured.
    """
    found = flat_noise(noisy)
    noise, coarseness = found.sigma, found.coarseness
    sigma_y = round(min(LARGEST, max(SMALLEST, NOISY_OVER_NOISE * noise * coarseness)), 1)
    return ProposedLevels(round(noise, 2), round(coarseness, 2), round(CLEAN_OVER_NOISY * sigma_y, 1), sigma_y)


def matching(noisy: Sequence[NDArray[Any]], clean: Sequence[NDArray[Any]]) -> tuple[list[float], list[float]]:
    """(gain, offset) of each channel, such that noisy * gain + offset has mean and deviation of the clean images.

    Images (H, W) or (H, W, C); colours and gray in one folder count as colours. Raises InputError where a channel of
    the noisy images is one flat surface.
    """
    (mean, deviation), (target, wanted) = _moments(noisy), _moments(clean)
    if not deviation.all() or not wanted.all():
        raise InputError("Statistics cannot be matched: the images have a channel that is the same everywhere.")
    gain = (wanted / deviation).round(5)
    return gain.tolist(), (target - gain * mean).round(5).tolist()


def _moments(images: Sequence[NDArray[Any]]) -> tuple[Floats, Floats]:
    """Mean and deviation of each channel over all pixels of all images."""
    flat = [as_unit(image).reshape(*image.shape[:2], -1) for image in images]
    most = max(each.shape[2] for each in flat)
    pixels = [np.broadcast_to(each, (*each.shape[:2], most)).reshape(-1, most).astype(np.float64) for each in flat]
    count = sum(map(len, pixels))
    mean = np.sum([each.sum(0) for each in pixels], axis=0) / count
    variance = np.sum([((each - mean) ** 2).sum(0) for each in pixels], axis=0) / count
    return mean, np.sqrt(variance)


def _flattest(found: Floats) -> NoiseSample:
    """The tenth of the blocks, tone by tone, that are nearest to a smooth surface."""
    tones_below = surfaces(found)
    noise = found - tones_below
    deviations = noise.std((1, 2))
    order = np.argsort(found.mean((1, 2)), kind="stable")
    tones = np.array_split(order[deviations[order] > LEAST_NOISE], TONES)
    ranked = [tone[np.argsort(deviations[tone], kind="stable")] for tone in tones]
    chosen = np.concatenate([tone[: int(np.ceil(FLAT_SHARE * len(tone)))] for tone in ranked])
    return NoiseSample(tones_below[chosen], noise[chosen] * np.sqrt(SIDE**2 / (SIDE**2 - TERMS)))


def _joined(samples: Sequence[NoiseSample]) -> NoiseSample:
    empty = np.zeros((0, SIDE, SIDE))
    tones, noise = ([empty, *(getattr(each, name) for each in samples)] for name in ("tones", "noise"))
    return NoiseSample(np.concatenate(tones), np.concatenate(noise))
