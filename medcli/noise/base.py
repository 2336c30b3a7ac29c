"""What all noises share: they are called on a clean image, they can be settled, and they spell themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from medcli.errors import RecipeError
from medcli.registry import NOISES


def uniform(low: float, high: float, generator: Generator) -> float:
    """One draw from U(low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def log_uniform(low: float, high: float, generator: Generator) -> float:
    """One draw whose logarithm is uniform between those of `low` and `high` (both above 0)."""
    return float(low * (high / low) ** torch.rand((), generator=generator).item())


@dataclass(frozen=True)
class Noise(ABC):
    """Maps a clean image to a noisy one.

    Every draw comes from the generator, which lives on the CPU: a seed means the same image on every device. No noise
    clips or rounds unless that is its name. `str(noise)` is its notation (`medcli.noise.notation`), from which the same
    noise can be made again.
    """

    @abstractmethod
    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> a new tensor of the same shape; `clean` is left alone."""

    def sample_parameters(self, generator: Generator) -> Noise:
        """This noise with everything decided that is drawn once per image: its kind and its level."""
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
        raise RecipeError(f"The range {low:g} to {high:g} of '{what}' is upside down.", f"Write {high:g}-{low:g}.")
    if not limits[0] <= low <= high <= limits[1]:
        seen = low if low < limits[0] else high
        end = f" and end at {limits[1]:g}" if limits[1] < float("inf") else ""
        raise RecipeError(f"{seen:g} is no level for '{what}'.", f"Levels start at {limits[0]:g}{end}.")


def level_fields(kind: type[Noise]) -> tuple[str, ...]:
    """The fields that the first, nameless value of a notation fills."""
    names = tuple(item.name for item in fields(kind))
    return names[:2] if names[:2] == ("low", "high") else names[:1]


def spell(*values: object) -> str:
    """One value as in a notation; a range, given as two values or as a pair, with a hyphen between its ends."""
    if len(values) == 1 and isinstance(values[0], tuple | list):
        values = tuple(values[0])
    words = [str(value) if isinstance(value, str) else _number(value) for value in values]
    return "-".join(dict.fromkeys(words))


def _number(value: object) -> str:
    return repr(value).removesuffix(".0").replace("e+", "e")  # a plus would start the next noise of a chain


def _name(kind: type[Noise]) -> str:
    place = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, known in NOISES.items() if known == place), kind.__qualname__)
