"""Clipping and rounding, as when an image is stored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medcli.noise.base import Noise, check_range


@dataclass(frozen=True)
class Clip(Noise):
    """Values below 0 become 0, values above 1 become 1."""

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float -> same shape in [0, 1]."""
        return clean.clamp(0, 1)


@dataclass(frozen=True)
class Round(Noise):
    """Values become the nearest multiple of 1 / (2^bits - 1); those outside [0, 1] stay outside."""

    bits: int = 8

    def __post_init__(self) -> None:
        check_range("round", self.bits, self.bits, (1, 16))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float -> same shape."""
        steps = float(2**self.bits - 1)
        return (clean * steps).round() / steps
