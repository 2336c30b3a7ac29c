"""Impulse noise: elements replaced by white or black.

Source: noise pool of Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.noise.base import Ranged, check_range


@dataclass(frozen=True)
class SaltPepper(Ranged):
    """Each element is replaced with probability a: by 1 with probability `salt`, else by 0.

    low, high: range of the probability a in [0, 1], drawn once per image. Channels are independent, so the impulses are
    coloured. salt: share of white among the replaced elements, in [0, 1].
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    low: float = 0.05
    high: float = 0.15
    salt: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("salt-pepper: salt", self.salt, self.salt, (0.0, 1.0))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape; other elements keep their value."""
        hit = torch.rand(clean.shape, generator=generator) < self.level(generator)
        salt = torch.rand(clean.shape, generator=generator) < self.salt
        return torch.where(hit, salt.to(clean.dtype), clean)
