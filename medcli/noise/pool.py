"""A pool of noises: each image gets one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medcli.errors import RecipeError
from medcli.noise.base import Noise


@dataclass(frozen=True)
class Pool(Noise):
    """Draws a noise with probability proportional to its weight, then applies it.

    noises: pairs of (weight, noise). name: of the pool; without one, `str` lists its noises.
    Raises RecipeError where a weight is negative or infinite, or none is positive.
    """

    noises: Sequence[tuple[float, Noise]]
    name: str = ""

    def __post_init__(self) -> None:
        weights = [weight for weight, _ in self.noises]
        if not 0 < sum(weights) < float("inf") or min(weights) < 0:
            raise RecipeError(f"A pool cannot have the weights {weights}.", "They are 0 or more, one above 0.")

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape."""
        return self._draw(generator)(clean, generator)

    def sample_parameters(self, generator: Generator) -> Noise:
        return self._draw(generator).sample_parameters(generator)

    def __str__(self) -> str:
        return self.name or "|".join(f"{weight:g}*{noise}" for weight, noise in self.noises)

    def _draw(self, generator: Generator) -> Noise:
        weights = torch.tensor([weight for weight, _ in self.noises], dtype=torch.float64)
        return self.noises[int(torch.multinomial(weights, 1, generator=generator))][1]
