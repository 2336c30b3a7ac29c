"""Base classes of noises: calls on a clean image, sampling of parameters, notation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.errors import RecipeError
from medcli.registry import NOISES, key_of


def uniform(low: float, high: float, generator: Generator) -> float:
    """One draw from U(low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def log_uniform(low: float, high: float, generator: Generator) -> float:
    """One draw whose logarithm is uniform between those of `low` and `high` (both above 0)."""
    return float(low * (high / low) ** torch.rand((), generator=generator).item())


@dataclass(frozen=True)
class Noise(ABC):
    """Maps a clean image to a noisy one.

    All random numbers come from the generator, on the CPU, so that a seed gives the same image on every device. Noises
    neither clip nor round, except `Clip` and `Round`. `str(noise)` is the notation (`medcli.noise.notation`), which
    parses to an equal noise.
    """

    @abstractmethod
    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> a new tensor of the same shape; `clean` is not changed."""

    def sample_parameters(self, generator: Generator) -> Noise:
        """This noise with fixed values for all parameters that are drawn once per image."""
        return self

    def __str__(self) -> str:
        level = level_fields(type(self))
        stated = [item.name for item in fields(self) if item.name == "low" or getattr(self, item.name) != item.default]
        words = [spell(*(getattr(self, name) for name in level))] if level and level[0] in stated else []
        words += [f"{name}={spell(getattr(self, name))}" for name in stated if name not in level]
        return ":".join([_name(type(self)), ",".join(words)] if words else [_name(type(self))])


@dataclass(frozen=True)
class Ranged(Noise):
    """A noise with one level, drawn once per image from U(low, high).

    Raises RecipeError where low > high, or where one of them is outside `limits`.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(_name(type(self)), self.low, self.high, self.limits)

    def level(self, generator: Generator) -> float:
        """The level of one image."""
        return uniform(self.low, self.high, generator)

    def sample_parameters(self, generator: Generator) -> Noise:
        level = self.level(generator)
        return replace(self, low=level, high=level)


def check_range(what: str, low: float, high: float, limits: tuple[float, float]) -> None:
    """Raises RecipeError unless limits[0] <= low <= high <= limits[1]."""
    if low > high:
        raise RecipeError(f"The range {low:g} to {high:g} of '{what}' is reversed.", f"Write {high:g}-{low:g}.")
    if not limits[0] <= low <= high <= limits[1]:
        seen = low if low < limits[0] else high
        end = f" and end at {limits[1]:g}" if limits[1] < float("inf") else ""
        raise RecipeError(f"{seen:g} is not a valid level for '{what}'.", f"Levels start at {limits[0]:g}{end}.")


def level_fields(kind: type[Noise]) -> tuple[str, ...]:
    """The fields that the first, unnamed value of a notation sets."""
    names = tuple(item.name for item in fields(kind))
    return names[:2] if names[:2] == ("low", "high") else names[:1]


def spell(*values: object) -> str:
    """A value in notation; a range, given as two values or as a pair, with a hyphen between its ends."""
    if len(values) == 1 and isinstance(values[0], tuple | list):
        values = tuple(values[0])
    words = [str(value) if isinstance(value, str) else _number(value) for value in values]
    return "-".join(dict.fromkeys(words))


def _number(value: object) -> str:
    return repr(value).removesuffix(".0").replace("e+", "e")  # a plus would start the next noise of a chain


def _name(kind: type[Noise]) -> str:
    return key_of(NOISES, kind)
