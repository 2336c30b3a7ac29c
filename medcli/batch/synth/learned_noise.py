"""Noise as a model has learned it, in the place of a noise with a notation: whole images, tile by tile, seamless.

What is drawn belongs to the image, not to a tile: each block of 64 x 64 pixels has a generator of its own, so that
two tiles find the same numbers where they overlap, and tiles of any size give the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn

from medcli.data.pairs import Side
from medcli.engine.device import choose_device
from medcli.engine.pixels import reflected
from medcli.engine.tiling import Floats, Span, bands, plan
from medcli.errors import InputError, ModelError
from medcli.noise.base import check_range, spell, uniform
from medcli.registry import ARCHITECTURES, resolve
from medcli.seeding import keyed_generator
from medcli.zoo.catalog import entries
from medcli.zoo.description import NOISE_DOMAIN
from medcli.zoo.model import find_model
from medcli.zoo.weights import load_network

BLOCK, TILE = 64, 512  # pixels
LARGEST_SEED = 2**62
Range = tuple[float, float]
Normal = Callable[[int, int], Tensor]


class Sampler(Protocol):
    """The interface of a network that generates noise.

    sigma_x, sigma_y: of what hid the difference between clean and noisy images in training, in grey levels.
    normal: (level, channels) -> (B, channels, H, W) standard normal numbers.
    """

    channels: int
    multiple: int
    receptive_field: int
    sigma_x: float
    sigma_y: float

    def sample(self, clean: Tensor, normal: Normal, *, sigma: float, temperature: float) -> Tensor: ...
    def restore(self, noisy: Tensor, normal: Normal, *, sigma: float) -> Tensor: ...


class Level(NamedTuple):
    """What is drawn once for each image."""

    sigma: float
    temperature: float


class Direction(NamedTuple):
    """A way between the domains. makes: its end. usual: the range of sigma where none is given."""

    makes: Side
    usual: Callable[[Sampler], Range]
    answer: Callable[[Sampler, Tensor, Normal, Level], Tensor]


def _noisy(sampler: Sampler, clean: Tensor, normal: Normal, level: Level) -> Tensor:
    return sampler.sample(clean, normal, sigma=level.sigma, temperature=level.temperature)


def _clean(sampler: Sampler, noisy: Tensor, normal: Normal, level: Level) -> Tensor:
    return sampler.restore(noisy, normal, sigma=level.sigma)


CLEAN_TO_NOISY = "clean-to-noisy"
DIRECTIONS: Mapping[str, Direction] = {
    CLEAN_TO_NOISY: Direction("noisy", lambda sampler: (sampler.sigma_y, sampler.sigma_x), _noisy),
    "noisy-to-clean": Direction("clean", lambda sampler: (0.0, 0.0), _clean),
}


@dataclass(frozen=True)
class Field:
    """Standard normal numbers for the whole plane, drawn where they are needed."""

    seed: int

    def cut(self, level: int, channels: int, rows: Span, columns: Span) -> Tensor:
        """(1, channels, rows, columns) float32 on the CPU; where spans overlap, their numbers are the same."""
        field = torch.empty(1, channels, rows.size, columns.size)
        for i, in_rows, down in _shares(rows):
            for j, in_columns, right in _shares(columns):
                block = torch.randn(channels, BLOCK, BLOCK, generator=keyed_generator(self.seed, level, i, j))
                field[0, :, in_rows, in_columns] = block[:, down, right]
        return field


def _shares(span: Span) -> Iterator[tuple[int, slice, slice]]:
    """The blocks that a span touches: number, the place that they share in the span, and in the block."""
    for block in range(span.start // BLOCK, -(-span.stop // BLOCK)):
        start, stop = max(span.start, block * BLOCK), min(span.stop, (block + 1) * BLOCK)
        zero = block * BLOCK
        yield block, slice(start - span.start, stop - span.start), slice(start - zero, stop - zero)


def check_levels(sigma: Range, temperature: Range) -> None:
    """Raises RecipeError for a range that makes no sense."""
    check_range("sigma", *sigma, (0.0, 255.0))
    check_range("temperature", *temperature, (0.0, 10.0))


@dataclass(frozen=True)
class LearnedNoise:
    """A weight file as what makes images noisy, or clean. Pickled, it is the path and the numbers.

    name, digest: id and SHA-256 of the weights. sigma, temperature: drawn for each image from these ranges; sigma is
    that of h, in grey levels. tile: largest side in pixels, 0 for whole images; it changes nothing but memory.
    """

    path: Path
    name: str
    digest: str
    sigma: Range
    temperature: Range = (1.0, 1.0)
    direction: str = CLEAN_TO_NOISY
    device: str = "auto"
    tile: int = TILE

    def __post_init__(self) -> None:
        check_levels(self.sigma, self.temperature)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads the network itself."""
        return type(self), tuple(getattr(self, item.name) for item in fields(self))

    def on(self, device: str) -> LearnedNoise:
        return replace(self, device=device)

    @property
    def fingerprint(self) -> str:
        level = f"sigma={spell(self.sigma)},temperature={spell(self.temperature)}"
        return f"{self.name}:{self.direction},{level} sha256:{self.digest}"

    @property
    def makes(self) -> Side:
        return DIRECTIONS[self.direction].makes

    def draw(self, clean: Tensor, generator: Generator, /) -> tuple[Tensor, str]:
        """Raises InputError where the model is for colour and the image is gray, or the other way round."""
        sampler = self._sampler
        if len(clean) != sampler.channels:
            problem = f"'{self.name}' makes noise for images {_colours(sampler.channels)}, not {_colours(len(clean))}."
            raise InputError(problem, "Convert the images, or train a noise model on images of this kind.")
        level = Level(uniform(*self.sigma, generator), uniform(*self.temperature, generator))
        seed = int(torch.randint(LARGEST_SEED, (), generator=generator))
        words = f"sigma={level.sigma:.4g},temperature={level.temperature:.4g}"
        return self._drawn(sampler, clean, Field(seed), level), f"{self.name}:{words}"

    def _drawn(self, sampler: Sampler, image: Tensor, field: Field, level: Level) -> Tensor:
        device = next(cast(nn.Module, sampler).parameters()).device
        answer = DIRECTIONS[self.direction].answer

        def tile(rows: Span, columns: Span) -> Floats:
            spans = zip((rows, columns), image.shape[1:], strict=True)
            down, right = (torch.from_numpy(reflected(span, length)) for span, length in spans)
            cut = image[:, down[:, None], right][None].to(device)
            made = answer(sampler, cut, lambda deep, count: field.cut(deep, count, rows, columns).to(device), level)
            return made[0].permute(1, 2, 0).float().cpu().numpy()

        context_radius, height, width = sampler.receptive_field, *image.shape[1:]
        grid = plan(
            height,
            width,
            tile=self._tile(sampler),
            overlap=2 * context_radius,
            multiple=sampler.multiple,
            context_radius=context_radius,
        )
        with torch.inference_mode():
            rows = [band.copy() for _, band in bands(grid, len(image), tile)]
        return torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1).clone()

    def _tile(self, sampler: Sampler) -> int:
        """Tiles that are all overlap would not be tiles."""
        return max(self.tile, 3 * sampler.receptive_field) if self.tile else 0

    @cached_property
    def _sampler(self) -> Sampler:
        return cast(Sampler, load_network(self.path)[0].to(choose_device(self.device)))


def open_model(
    model: str,
    *,
    direction: str = CLEAN_TO_NOISY,
    sigma: Range | None = None,
    temperature: Range = (1.0, 1.0),
    device: str = "auto",
) -> LearnedNoise:
    """The noise of a model by name, weight file or folder of a training run.

    sigma: in grey levels. Unless given, 0 for noisy to clean; else from the model's sigma_y, at which noise comes out
    about as strong as it was learned, to its sigma_x. Departs: published are ranges about sigma_x.
    Raises ModelError where there is no such model, or it makes no noise; RecipeError for a range that makes no sense.
    """
    found = find_model(model)
    card = found.card
    kind = resolve(ARCHITECTURES, card.architecture, kind="architecture", error=ModelError)
    if not hasattr(kind, "sample"):
        known = [name for name, entry in entries().items() if entry.domain == NOISE_DOMAIN]
        raise ModelError(
            f"'{card.id}' is a {card.architecture}: it removes noise and cannot generate it.",
            f"Learn the noise of your own images with --like, or take one of: {', '.join(known)}.",
        )
    span = sigma or DIRECTIONS[direction].usual(cast(Sampler, found.network()))
    return LearnedNoise(found.path, card.id, found.checksums.sha256, span, temperature, direction, device)


def _colours(channels: int) -> str:
    return "in gray" if channels == 1 else "in colour"
