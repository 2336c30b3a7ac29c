"""Additive white Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medcli.noise.base import Ranged


@dataclass(frozen=True)
class Gaussian(Ranged):
    """noisy = clean + n, n ~ N(0, s^2) per element, s drawn once per image from U(low, high).

    low, high: standard deviation in grey levels of 255.
    """

    low: float = 0.0
    high: float = 55.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        return clean + sigma * torch.randn(clean.shape, generator=generator)
