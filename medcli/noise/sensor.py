"""Sensor noise of the NVT thesis: independent parts, each applied with its own probability.

The thesis (Noisy Visual Training) leaves most ranges and the order of the parts open; the values here are our choice.
Each part is a noise, applied in this order: shot, Gaussian, read, row, column, colour cast, quantisation. They act on
the encoded image, so the noise is strong and varied, and white apart from banding and cast: suited to robust training.
`Camera` simulates the processing from one exposure to a JPEG, with correlated noise of realistic strength and no
banding: suited to photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.errors import RecipeError
from medcli.noise.base import Noise, Ranged, check_range, uniform
from medcli.noise.chain import chained
from medcli.noise.gaussian import Gaussian
from medcli.noise.poisson import Poisson
from medcli.registry import nearest

DISPLAY_GAMMA = 2.2


@dataclass(frozen=True)
class Read(Ranged):
    """noisy = x + s sqrt((nu - 2) / nu) t, t ~ Student-t with nu degrees of freedom: outliers are hot pixels.

    low, high: standard deviation s in grey levels of 255. tail: range of nu (above 2; small means heavy tails). Both
    are drawn once per image. The t variate, polar method: sqrt(nu (U^(-2/nu) - 1)) cos(2 pi V) with U, V uniform
    (Bailey, Mathematics of Computation 62, 1994). Raises RecipeError for a tail of 2 or less (infinite deviation).
    """

    low: float = 2.0
    high: float = 20.0
    tail: tuple[float, float] = (3.0, 20.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("read: tail", *self.tail, (2.01, 1e3))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        freedom = uniform(*self.tail, generator)
        radius = 1 - torch.rand(clean.shape, generator=generator)  # in (0, 1]: 0 would give an infinite variate
        angle = 2 * torch.pi * torch.rand(clean.shape, generator=generator)
        return clean + sigma * ((freedom - 2) * (radius ** (-2 / freedom) - 1)).sqrt() * torch.cos(angle)

    def sample_parameters(self, generator: Generator) -> Noise:
        level, freedom = self.level(generator), uniform(*self.tail, generator)
        return Read(level, level, (freedom, freedom))


@dataclass(frozen=True)
class RowNoise(Ranged):
    """noisy = x + n, one n ~ N(0, s^2) per row, shared by its pixels and channels.

    low, high: standard deviation s in grey levels of 255, drawn once per image.
    """

    low: float = 15.0
    high: float = 40.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        return clean + sigma * torch.randn(clean.shape[1], 1, generator=generator)


@dataclass(frozen=True)
class ColumnNoise(Ranged):
    """noisy = x + n, one n ~ N(0, s^2) per column, shared by its pixels and channels.

    low, high: standard deviation s in grey levels of 255, drawn once per image.
    """

    low: float = 15.0
    high: float = 40.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        sigma = self.level(generator) / 255
        return clean + sigma * torch.randn(clean.shape[2], generator=generator)


@dataclass(frozen=True)
class Cast(Ranged):
    """noisy = x + c, one c ~ U(-b, b) per channel, drawn for every image.

    low, high: the bound b in grey levels of 255, drawn once per image.
    """

    low: float = 10.0
    high: float = 10.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        bound = self.level(generator) / 255
        return clean + bound * (2 * torch.rand(clean.shape[0], 1, 1, generator=generator) - 1)


@dataclass(frozen=True)
class Quantisation(Ranged):
    """noisy = x + n, n ~ U(-q/2, q/2) per element: uniform noise with the variance of rounding to steps of q.

    low, high: step q in grey levels of 255, drawn once per image. `Round` rounds.
    """

    low: float = 1.0
    high: float = 16.0

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        step = self.level(generator) / 255
        return clean + step * (torch.rand(clean.shape, generator=generator) - 0.5)


@dataclass(frozen=True)
class Power(Noise):
    """noisy = sign(x) |x|^exponent: conversion to linear light (2.2) and back (1/2.2).

    Values below 0 keep their sign, because noises do not clip.
    """

    exponent: float

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float -> same shape."""
        return clean.sign() * clean.abs() ** self.exponent


# (probability, part); a shot gain k in [5e-4, 2e-2] is a Poisson peak in [50, 2000]
PRESETS: Mapping[str, tuple[tuple[float, Noise], ...]] = {
    "thesis": (
        (0.5, Poisson(50, 2000)),
        (0.5, Gaussian(25, 80)),
        (0.5, Read(2, 20)),
        (0.25, RowNoise(15, 40)),
        (0.25, ColumnNoise(15, 40)),
        (0.25, Cast(10, 10)),
        (0.5, Quantisation(1, 16)),
    ),
    "mild": (
        (0.5, Poisson(50, 2000)),
        (0.5, Gaussian(5, 50)),
        (0.5, Read(2, 20)),
        (0.25, RowNoise(1, 8)),
        (0.25, ColumnNoise(1, 8)),
        (0.25, Cast(10, 10)),
        (0.5, Quantisation(1, 16)),
    ),
}
SPACES = ("encoded", "linear")


@dataclass(frozen=True)
class Sensor(Noise):
    """Each part of the preset with its probability, in order; the Gaussian part if none was drawn.

    preset: "thesis", or "mild" for weaker Gaussian noise and banding. space: "encoded" adds the noise to the values x,
    "linear" to x^2.2 and converts back. Raises RecipeError for other values.
    """

    fallback: ClassVar[int] = 1  # the Gaussian part

    preset: str = "thesis"
    space: str = "encoded"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise RecipeError(f"There is no sensor preset called '{self.preset}'.", nearest(self.preset, PRESETS))
        if self.space not in SPACES:
            raise RecipeError(f"There is no colour space called '{self.space}'.", nearest(self.space, SPACES))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape, neither clipped nor rounded."""
        return self.sample_parameters(generator)(clean, generator)

    def sample_parameters(self, generator: Generator) -> Noise:
        """The chain of the parts that were drawn, with their levels."""
        parts = PRESETS[self.preset]
        drawn = [part for probability, part in parts if uniform(0, 1, generator) < probability]
        sampled = [part.sample_parameters(generator) for part in drawn or [parts[self.fallback][1]]]
        if self.space == "linear":
            sampled = [Power(DISPLAY_GAMMA), *sampled, Power(1 / DISPLAY_GAMMA)]
        return chained(*sampled)
