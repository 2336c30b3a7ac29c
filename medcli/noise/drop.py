"""Missing pixels, for inpainting.

Source: Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), section 4.7,
which drops 50, 70 and 90 % of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.noise.base import Noise, Ranged, check_range, uniform
from medcli.noise.chain import Chain
from medcli.noise.pool import Pool
from medcli.noise.storage import Clip, Round


@dataclass(frozen=True)
class Drop(Ranged):
    """Pixels become black in all channels, each with probability a, drawn once per image from U(low, high).

    size: range of the side, in pixels, of the missing squares, drawn once per image; squares that touch
    form a larger hole. 1: single pixels, as in the paper. Raises RecipeError for sides below 1 or above 64.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    low: float = 0.5
    high: float = 0.9
    size: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("drop: size", *self.size, (1.0, 64.0))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape; other pixels are unchanged."""
        height, width = clean.shape[1:]
        share, side = self.level(generator), self._side(generator)
        if side == 1:
            return clean * (torch.rand(height, width, generator=generator) >= share)
        top, left = torch.randint(side, (2,), generator=generator).tolist()
        rows, columns = (torch.arange(height) + top) // side, (torch.arange(width) + left) // side
        kept = torch.rand(height // side + 2, width // side + 2, generator=generator) >= share
        return clean * kept[rows][:, columns]

    def sample_parameters(self, generator: Generator) -> Noise:
        level, side = self.level(generator), float(self._side(generator))
        return Drop(level, level, (side, side))

    def _side(self, generator: Generator) -> int:
        return 1 if self.size == (1.0, 1.0) else round(uniform(*self.size, generator))


def drops(noise: Noise) -> bool:
    """Whether missing pixels are black in the result; a later noise would change them."""
    if isinstance(noise, Pool):
        return any(drops(each) for _, each in noise.noises)
    if isinstance(noise, Chain):
        steps = [each for each in noise.noises if not isinstance(each, Clip | Round)]
        return bool(steps) and drops(steps[-1])
    return isinstance(noise, Drop)
