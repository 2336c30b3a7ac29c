"""Noise of photon counters: shot noise of few photons, read noise, electron multiplication, hot pixels, correlation.

The model of fluorescence microscopes (Foi et al., Practical Poissonian-Gaussian noise modeling, IEEE TIP 2008), with
what cameras add to it. The excess noise of electron multiplication doubles the variance (Hirsch et al., A stochastic
model for electron multiplication charge-coupled devices, PLoS ONE 2013).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from medcli.noise.base import Ranged, check_range, log_uniform, uniform

SMALLEST_READ, SMALLEST_SIZE = 0.05, 0.05  # below: none
DIRECTIONS = ("both", "rows")


@dataclass(frozen=True)
class Photons(Ranged):
    """noisy = (m(P(x p)) + N(0, r^2)) / p + hot pixels, smoothed where the noise is correlated.

    low, high: photons p at full white, drawn log-uniformly once per image.
    read: range of the read noise r in electrons; em_share: of images whose counts are multiplied, m(n) ~ Gamma(n, 1),
    others keep m(n) = n.
    size, size_share: Gaussian deviation in pixels by which the noise is smoothed in a share of the images, as by
    interpolation, binning or a slow detector. Its deviation is kept. Half of them are smoothed along rows only, as by
    a point scanner, unless `along` is set to "both" or "rows".
    hot, hot_share: range of the share of hot pixels, which shine by U(0.1, 1), in a share of the images.
    Raises RecipeError for ranges outside these.
    """

    limits: ClassVar[tuple[float, float]] = (1e-3, 1e7)

    low: float = 4.0
    high: float = 2000.0
    read: tuple[float, float] = (0.0, 5.0)
    em_share: float = 0.15
    size: tuple[float, float] = (0.3, 1.2)
    size_share: float = 0.4
    along: str = "any"
    hot: tuple[float, float] = (1e-5, 1e-3)
    hot_share: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("photons: read", *self.read, (0.0, 1e4))
        check_range("photons: size", *self.size, (0.0, 8.0))
        check_range("photons: hot", *self.hot, (0.0, 1.0))
        for name in ("em_share", "size_share", "hot_share"):
            check_range(f"photons: {name}", getattr(self, name), getattr(self, name), (0.0, 1.0))

    def level(self, generator: Generator) -> float:
        """The photons at white of one image."""
        return log_uniform(self.low, self.high, generator)

    def sample_parameters(self, generator: Generator) -> Photons:
        photons, read = self.level(generator), uniform(*self.read, generator)
        multiplied, smoothed, heated = (
            float(uniform(0, 1, generator) < share) for share in (self.em_share, self.size_share, self.hot_share)
        )
        size, hot, way = uniform(*self.size, generator), uniform(*self.hot, generator), uniform(0, 1, generator)
        return replace(
            self,
            low=photons,
            high=photons,
            read=(read, read),
            em_share=multiplied,
            size=(size, size),
            size_share=smoothed,
            along=self.along if self.along in DIRECTIONS else DIRECTIONS[way < 0.5],
            hot=(hot, hot),
            hot_share=heated,
        )

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        drawn = self.sample_parameters(generator)
        light = clean.clamp(min=0)
        counts = torch.poisson(light * drawn.low, generator)
        if drawn.em_share:
            counts = multiplied(counts, generator)
        counts = counts + drawn.read[0] * torch.randn(clean.shape, generator=generator)
        noise = counts / drawn.low - light
        if drawn.size_share and drawn.size[0] > SMALLEST_SIZE:
            noise = _smoothed(noise, drawn.size[0], drawn.along)
        if drawn.hot_share:
            hot = torch.rand(clean.shape, generator=generator) < drawn.hot[0]
            noise = noise + hot * (0.1 + 0.9 * torch.rand(clean.shape, generator=generator))
        return clean + noise


def multiplied(counts: Tensor, generator: Generator) -> Tensor:
    """Gamma(n, 1) for counts n, any shape: mean n, variance n. 0 stays 0.

    By the cube of a normal variate (Wilson and Hilferty, PNAS 1931), whose mean is within 0.2 % from n = 1 on.
    """
    some = counts.clamp(min=1)
    root = 1 - 1 / (9 * some) + torch.randn(counts.shape, generator=generator) / (3 * some.sqrt())
    return torch.where(counts > 0, some * root.clamp(min=0) ** 3, 0)


def _smoothed(noise: Tensor, size: float, along: str) -> Tensor:
    """White noise (C, H, W) smoothed by a Gaussian; the deviation stays, because the taps have unit energy."""
    taps = _taps(size)
    down = taps if along == "both" else np.ones(1, np.float32)
    planes = [
        cv2.sepFilter2D(plane, -1, taps, down, borderType=cv2.BORDER_REFLECT) for plane in noise.contiguous().numpy()
    ]
    return torch.from_numpy(np.stack(planes))


def _taps(size: float) -> NDArray[np.float32]:
    reach = max(1, round(4 * size))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / size) ** 2)
    unit: NDArray[np.float32] = (taps / np.sqrt(np.square(taps).sum())).astype(np.float32)
    return unit
