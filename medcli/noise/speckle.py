"""Multiplicative Gaussian noise, as of radar and ultrasound.

Source: noise pool of Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medcli.noise.base import Ranged


@dataclass(frozen=True)
class Speckle(Ranged):
    """noisy = x + x n, n ~ N(0, s^2) per element, s drawn once per image from U(low, high).

    low, high: standard deviation at white, in grey levels of 255; black stays black.
    """

    low: float = 5.0
    high: float = 50.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        return clean + clean * (sigma * torch.randn(clean.shape, generator=generator))
