"""Pixels that are missing, as for inpainting.

Source: Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), section 4.7,
which drops 50, 70 and 90 % of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.noise.base import Ranged


@dataclass(frozen=True)
class Drop(Ranged):
    """Each pixel becomes black in all channels with probability a, drawn once per picture from U(low, high)."""

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    low: float = 0.5
    high: float = 0.9

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape; pixels that are kept are unchanged."""
        kept = torch.rand(clean.shape[1:], generator=generator) >= self.level(generator)
        return clean * kept
