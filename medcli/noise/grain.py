"""Film grain: noise that is correlated between neighbouring pixels and strongest in the mid-tones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from medcli.noise.base import Noise, Ranged, check_range, uniform
from medcli.noise.camera import blur

MOST_SIZE = 8.0  # pixels


@dataclass(frozen=True)
class Grain(Ranged):
    """noisy = clean + a(clean) n, n ~ N(0, s^2) smoothed by a Gaussian and scaled to standard deviation s.

    a(x) = (1 - m) + m 2 sqrt(x (1 - x)), so that with m = 1 black and white have no grain, as on film.
    low, high: standard deviation s at mid-grey, in grey levels of 255. size: range of the Gaussian's standard
    deviation in pixels. midtones: range of m, 0 to 1. All three are drawn once per image.
    Raises RecipeError for ranges outside these.
    """

    low: float = 2.0
    high: float = 40.0
    size: tuple[float, float] = (0.3, 1.5)
    midtones: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("grain: size", *self.size, (0.0, MOST_SIZE))
        check_range("grain: midtones", *self.midtones, (0.0, 1.0))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        size, midtones = uniform(*self.size, generator), uniform(*self.midtones, generator)
        noise = torch.randn(clean.shape, generator=generator)
        if size > 0:
            noise = blur(noise, size) / _deviation_after_blur(size)
        bounded = clean.clamp(0, 1)
        amplitude = (1 - midtones) + midtones * 2 * (bounded * (1 - bounded)).sqrt()
        return clean + sigma * amplitude * noise

    def sample_parameters(self, generator: Generator) -> Noise:
        level, size = self.level(generator), uniform(*self.size, generator)
        midtones = uniform(*self.midtones, generator)
        return replace(self, low=level, high=level, size=(size, size), midtones=(midtones, midtones))


def _deviation_after_blur(size: float) -> float:
    """Standard deviation of unit white noise after a sampled Gaussian of standard deviation `size` pixels."""
    offsets = torch.arange(-64, 65, dtype=torch.float64)
    kernel = torch.exp(-offsets.square() / (2 * size**2))
    return float((kernel / kernel.sum()).square().sum())  # in 2-D: the square root of the product of two equal sums
