"""Gaussian noise whose variance is proportional to the image, as in the noise pool of MeD.

Source: Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), whose code adds
noise of variance x at grey level x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medcli.noise.base import Noise


@dataclass(frozen=True)
class LocalVariance(Noise):
    """noisy = x + n sqrt(255 x) / 255, n ~ N(0, 1) per element: at grey level g, a standard deviation of sqrt(g).

    It has no parameter. Mean and variance are those of `Poisson` with a peak of 255. Negative values, which an earlier
    noise may produce, get no noise.
    """

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        deviation = (clean.clamp(min=0) / 255).sqrt()
        return clean + deviation * torch.randn(clean.shape, generator=generator)
