"""Poisson noise of a given peak, and the weaker noise of the same name in the code of one paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.noise.base import Noise, Ranged, log_uniform


@dataclass(frozen=True)
class Poisson(Ranged):
    """noisy = P(x peak) / peak per element: mean x, variance x / peak.

    low, high: range of the peak, the mean number of photons at full white, drawn log-uniformly once per image. The
    fewer photons, the more noise: at grey level g the standard deviation is sqrt(255 g / peak) grey levels. The shot
    gain k of sensor models is 1 / peak. Negative values, which an earlier noise may produce, are left unchanged.
    """

    limits: ClassVar[tuple[float, float]] = (1e-3, 1e6)

    low: float = 30.0
    high: float = 30.0

    def level(self, generator: Generator) -> float:
        """The peak of one image."""
        return log_uniform(self.low, self.high, generator)

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        peak = self.level(generator)
        light = clean.clamp(min=0)
        return torch.poisson(light * peak, generator) / peak + (clean - light)


@dataclass(frozen=True)
class Poisson255Fold(Noise):
    """The "Poisson" noise exactly as in MeD's released code: q = floor(255 x), noisy = P(q V) / (255 V).

    V is the number of distinct values of q, rounded up to a power of two: 256 for most images. The formula is for
    images in [0, 1] but is applied to grey levels, so there are 255 times too many photons and the noise is hardly
    visible (0.65 grey levels). For comparison with that paper only; elsewhere use `Poisson`.

    Source: code of Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023).
    """

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape; values outside are clipped first, as q cannot represent them."""
        levels = (clean.clamp(0, 1) * 255).floor()
        distinct = int(torch.unique(levels.to(torch.uint8)).numel())
        photons = float(2 ** math.ceil(math.log2(distinct)))
        return torch.poisson(levels * photons, generator) / (255 * photons)
