"""Noisy pictures and their clean mates: both from files, or the noisy one made by a noise whose draw is keyed.

The draw of a picture depends on (seed, noise, its relative name) alone: neither on other files nor on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcli.data.crops import keyed_generator
from medcli.errors import InputError
from medcli.images import read
from medcli.noise.base import Noise
from medcli.noise.chain import clipped

Pixels = NDArray[Any]
Floats = NDArray[np.float32]
Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, str]]


@dataclass(frozen=True)
class Pair:
    """One picture twice. noisy: (H, W) or (H, W, 3) as a method gets it; integers where it is, or would be, a file's.

    name: relative path. clean: float32, same shape, in [0, 1]. drawn: the noise with its level; empty for files.
    """

    name: str
    noisy: Pixels
    clean: Floats
    drawn: str = ""


@dataclass(frozen=True)
class NoisedPictures:
    """Clean pictures of `folder`, with noise that is added in float.

    clip: to [0, 1] after every component of the noise. round: to 8 bits in the end, as a file would hold it.
    """

    folder: Path
    names: Sequence[Path]
    noise: Noise
    seed: int = 0
    clip: bool = False
    round: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        """Raises InputError for a file that cannot be read, has several pages, or is none that the noise fits."""
        for name in self.names:
            clean = as_floats(_pixels(self.folder / name))
            generator = keyed_generator(self.seed, str(self.noise), name.as_posix())
            draw = partial(one_draw, self.noise, clip=self.clip)
            try:
                noisy, words = with_noise(clean, str(self.noise), draw, generator)
            except InputError as error:
                raise InputError(f"{self.folder / name}: {error.problem}", error.hint) from error
            yield Pair(name.as_posix(), as_stored(noisy, np.uint8) if self.round else noisy, clean, words)


@dataclass(frozen=True)
class FilePairs:
    """Pairs of files: (noisy, clean), relative to their folders.

    round: the noisy file's own integers go into a method; else floats.
    """

    noisy: Path
    clean: Path
    names: Sequence[tuple[Path, Path]]
    round: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        """Raises InputError for a file that cannot be read or has several pages, and for pairs of two sizes."""
        for noisy_name, clean_name in self.names:
            noisy, clean = _pixels(self.noisy / noisy_name), as_floats(_pixels(self.clean / clean_name))
            if noisy.shape != clean.shape:
                raise InputError(
                    f"{self.noisy / noisy_name} is {_size(noisy)}, but {self.clean / clean_name} is {_size(clean)}.",
                    "The two pictures of a pair must match pixel by pixel.",
                )
            yield Pair(clean_name.as_posix(), noisy if self.round else as_floats(noisy), clean)


def one_draw(noise: Noise, clean: Tensor, generator: torch.Generator, /, *, clip: bool = False) -> tuple[Tensor, str]:
    """(C, H, W) float in [0, 1] -> (noisy of the same shape, the noise with the level that was drawn).

    clip: to [0, 1] after every component of the noise.
    """
    settled = noise.settle(generator)
    return (clipped(settled) if clip else settled)(clean, generator), str(settled)


def with_noise(clean: Floats, name: str, draw: Draw, generator: torch.Generator) -> tuple[Floats, str]:
    """(H, W) or (H, W, 3) -> the same with noise, and what was drawn. draw: takes (C, H, W). name: of the noise.

    Raises InputError where the noise does not fit the picture.
    """
    planes = torch.from_numpy(clean.reshape(*clean.shape[:2], -1)).permute(2, 0, 1)
    try:
        noisy, words = draw(planes, generator)
        return noisy.permute(1, 2, 0).reshape(clean.shape).numpy(), words
    except RuntimeError as error:  # torch's word for shapes that do not fit
        hint = f"Some noises need colour, or a few more pixels.\n{str(error).splitlines()[0]}"
        raise InputError(f"'{name}' cannot be added to {_size(clean)}.", hint) from error


def thinned(names: Sequence[Any], limit: int | None) -> list[Any]:
    """At most `limit` of the names, spread evenly; all for None."""
    count = len(names) if limit is None else min(limit, len(names))
    return [names[place * len(names) // count] for place in range(count)]


def as_floats(pixels: Pixels) -> Floats:
    """float32 where integers span [0, 1]; floats keep their values."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    scaled: Floats = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def as_stored(pixels: Floats, dtype: Any) -> Pixels:
    """What a file of this dtype would hold: integers are clipped to [0, 1], scaled and rounded; floats stay."""
    if np.dtype(dtype).kind == "f":
        return pixels.astype(dtype)
    scaled: Pixels = (pixels.astype(np.float64).clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)
    return scaled


def _pixels(path: Path) -> Pixels:
    pages = read(path).pages
    if len(pages) != 1:
        raise InputError(f"{path} has {len(pages)} pages.", "Save them as single pictures to have each one scored.")
    return pages[0].pixels


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]} pixels {'in gray' if pixels.ndim == 2 else 'in colour'}"
