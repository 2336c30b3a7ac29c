"""Missing detail: an image scaled down and up again, for super-resolution.

Source: Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), section 4.7,
whose filters (bicubic, lanczos, bilinear, hamming) are those of Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from medcli.errors import RecipeError
from medcli.noise.base import Noise
from medcli.registry import nearest

FILTERS: Mapping[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Rescale(Noise):
    """The image scaled down by `factor` (2 or more) and back to its size, both with the same filter.

    Nothing is drawn. Bicubic and lanczos overshoot at edges and may leave [0, 1]. Raises RecipeError for a factor below
    2 and for an unknown filter.
    """

    factor: int
    filter: str = "bicubic"

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise RecipeError(f"'rescale' cannot scale down by {self.factor}.", "Factors are 2, 3, 4 and so on.")
        if self.filter not in FILTERS:
            raise RecipeError(f"There is no filter called '{self.filter}'.", nearest(self.filter, FILTERS))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        return torch.stack([self._plane(plane) for plane in clean])

    def _plane(self, plane: Tensor) -> Tensor:
        height, width = plane.shape
        small = (max(1, round(width / self.factor)), max(1, round(height / self.factor)))
        page = Image.fromarray(plane.numpy()).resize(small, FILTERS[self.filter])
        return torch.from_numpy(np.array(page.resize((width, height), FILTERS[self.filter])))
