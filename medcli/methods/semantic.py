"""Features of an image that change with its content and hardly with noise or brightness.

For LIR's semantic consistency (equation 11). The paper takes those of VGG-19, whose weights are not part of medcli.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], list[Tensor]]
"""(B, C, H, W) float -> feature maps."""

POOLS = (4, 8, 16)
DIRECTIONS = 8
FAINT = 1e-2  # deviation of a feature below which it counts as flat


class StructuralFilters(nn.Module):
    """A structural surrogate for deep features, without weights: where edges and lines are, by direction.

    Means over 4, 8 and 16 pixels, in which little noise is left; first and second derivatives of a Gaussian (sigma 1)
    in eight directions; absolute values, smoothed 3 by 3. Each map is then normalised to mean 0 and deviation 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", _derivatives())
        self.kernels: Tensor

    def forward(self, image: Tensor) -> list[Tensor]:
        gray = image.float().mean(1, keepdim=True)
        with torch.autocast(image.device.type, enabled=False):
            return [self._at(F.avg_pool2d(gray, pool)) for pool in POOLS if min(gray.shape[2:]) >= 2 * pool]

    def _at(self, means: Tensor) -> Tensor:
        radius = self.kernels.shape[2] // 2
        edges = F.conv2d(F.pad(means, [radius] * 4, mode="replicate"), self.kernels).abs()
        return normalised(F.avg_pool2d(F.pad(edges, [1] * 4, mode="replicate"), 3, 1), FAINT)


def normalised(features: Tensor, faint: float = 1e-5) -> Tensor:
    """Each map of each image with mean 0 and deviation 1; those with less deviation than `faint` stay smaller."""
    deviation, mean = torch.std_mean(features, (2, 3), keepdim=True, correction=0)
    return (features - mean) / (deviation.square() + faint**2).sqrt()


def distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Mean squared difference, averaged over the maps."""
    return torch.stack([(a.float() - b.float()).square().mean() for a, b in zip(one, other, strict=True)]).mean()


def _derivatives(radius: int = 3) -> Tensor:
    """(2 DIRECTIONS, 1, 7, 7): first and second derivatives of a Gaussian of sigma 1, each sums to 0."""
    line = torch.arange(-radius, radius + 1.0)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    bell = torch.exp(-(rows**2 + columns**2) / 2) / (2 * math.pi)
    kernels = []
    for number in range(DIRECTIONS):
        angle = math.pi * number / DIRECTIONS
        along = rows * math.sin(angle) + columns * math.cos(angle)
        kernels += [-along * bell, (along**2 - 1) * bell]
    stacked = torch.stack(kernels)[:, None]
    return stacked - stacked.mean((2, 3), keepdim=True)
