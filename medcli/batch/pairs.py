"""Pairs of noisy and clean images: both from files, or the noisy one made by a noise whose draw is keyed.

The draw of an image depends on (seed, noise, its relative name) alone: neither on other files nor on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcli.errors import InputError
from medcli.images import Page, read
from medcli.images.filling import broadcast, unit_filled
from medcli.images.values import Mask, RangeChoice, ValueRange, dtype_range, joint_range, missing, range_of
from medcli.noise.base import Noise
from medcli.noise.chain import clipped
from medcli.seeding import keyed_generator

Pixels = NDArray[Any]
Floats = NDArray[np.float32]
Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, str]]


@dataclass(frozen=True)
class Pair:
    """One image twice. noisy: (H, W) or (H, W, 3) as a method gets it; integers where it is, or would be, a file's.

    name: relative path. clean: float32, same shape, in [0, 1]. drawn: the noise with its level; empty for files.
    values: which of the noisy image are 0 and 1 in the clean one; None for those of its type. valid: (H, W), the
    pixels that count; the others are nodata in a file, and have values like those around them. None for all.
    """

    name: str
    noisy: Pixels
    clean: Floats
    drawn: str = ""
    values: ValueRange | None = None
    valid: Mask | None = None

    @property
    def scale(self) -> ValueRange:
        """The one on which both images are compared."""
        return self.values or dtype_range(self.noisy.dtype)


@dataclass(frozen=True)
class SyntheticPairsFromFiles:
    """Clean images of `folder`, with noise that is added in float.

    clip: to [0, 1] after every component of the noise. round: to 8 bits in the end, as a file would hold it. range:
    which values of the files are black and white. nodata: the value that means nothing, None for that of each file.
    """

    folder: Path
    names: Sequence[Path]
    noise: Noise
    seed: int = 0
    clip: bool = False
    round: bool = False
    range: RangeChoice = "auto"
    nodata: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        return (self[number] for number in range(len(self)))

    def name(self, number: int) -> str:
        return self.names[number].as_posix()

    def __getitem__(self, number: int) -> Pair:
        """Raises InputError for a file that cannot be read, has several pages, or is none that the noise fits."""
        name = self.names[number]
        page = _page(self.folder / name, self.nodata)
        values = range_of(self.range, [page])
        pixels, valid = _filled(self.folder / name, page, values)
        clean = _on_scale(pixels, values)
        generator = keyed_generator(self.seed, str(self.noise), name.as_posix())
        draw = partial(one_draw, self.noise, clip=self.clip)
        try:
            noisy, words = with_noise(clean, str(self.noise), draw, generator)
        except InputError as error:
            raise InputError(f"{self.folder / name}: {error.problem}", error.hint) from error
        return Pair(name.as_posix(), as_stored(noisy, np.uint8) if self.round else noisy, clean, words, valid=valid)


@dataclass(frozen=True)
class FilePairs:
    """Pairs of files: (noisy, clean), relative to their folders.

    round: the noisy file's own values go into a method; else floats on the scale of the clean image. range: which
    values are black and white; where that is found in the values, one range that covers both files of a pair.
    nodata: the value that means nothing, None for that of each file.
    """

    noisy: Path
    clean: Path
    names: Sequence[tuple[Path, Path]]
    round: bool = True
    range: RangeChoice = "auto"
    nodata: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        return (self[number] for number in range(len(self)))

    def name(self, number: int) -> str:
        return self.names[number][1].as_posix()

    def __getitem__(self, number: int) -> Pair:
        """Raises InputError for a file that cannot be read or has several pages, and for pairs of two sizes."""
        noisy_name, clean_name = self.names[number]
        paths = self.noisy / noisy_name, self.clean / clean_name
        pages = [_page(path, self.nodata) for path in paths]
        values = [range_of(self.range, [page]) for page in pages]
        values = joint_range(values, [page.pixels.dtype for page in pages])
        (noisy, known), (clean, clean_known) = map(_filled, paths, pages, values)
        clean = _on_scale(clean, values[1])
        if noisy.shape != clean.shape:
            raise InputError(
                f"{self.noisy / noisy_name} is {_size(noisy)}, but {self.clean / clean_name} is {_size(clean)}.",
                "The two images of a pair must match pixel by pixel.",
            )
        masks = [mask for mask in (known, clean_known) if mask is not None]
        valid = np.logical_and.reduce(masks) if masks else None
        if self.round:
            return Pair(clean_name.as_posix(), noisy, clean, values=values[0], valid=valid)
        return Pair(clean_name.as_posix(), as_floats(noisy, values[0]), clean, valid=valid)


def one_draw(noise: Noise, clean: Tensor, generator: torch.Generator, /, *, clip: bool = False) -> tuple[Tensor, str]:
    """(C, H, W) float in [0, 1] -> (noisy of the same shape, the noise with the level that was drawn).

    clip: to [0, 1] after every component of the noise.
    """
    sampled = noise.sample_parameters(generator)
    return (clipped(sampled) if clip else sampled)(clean, generator), str(sampled)


def with_noise(clean: Floats, name: str, draw: Draw, generator: torch.Generator) -> tuple[Floats, str]:
    """(H, W) or (H, W, 3) -> the same with noise, and what was drawn. draw: takes (C, H, W). name: of the noise.

    Raises InputError where the noise does not fit the image.
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


def as_floats(pixels: Pixels, values: ValueRange | None = None) -> Floats:
    """float32 in which the range is [0, 1]; values: None for those of the type, so that floats keep theirs."""
    return (values or dtype_range(pixels.dtype)).to_unit(pixels)


def as_stored(pixels: Floats, dtype: Any, values: ValueRange | None = None) -> Pixels:
    """What a file of this dtype would hold: integers are rounded and stop at their ends; values: as in `as_floats`."""
    return (values or dtype_range(dtype)).from_unit(pixels, dtype)


def _on_scale(pixels: Pixels, values: ValueRange) -> Floats:
    """A clean image; where its ends were found in its values, what lies beyond them is clipped."""
    unit = values.to_unit(pixels)
    return unit if values == dtype_range(pixels.dtype) else unit.clip(0, 1)


def _filled(path: Path, page: Page, values: ValueRange) -> tuple[Pixels, Mask | None]:
    """(pixels with plausible values where they mean nothing, which ones mean something); None for all.

    Raises InputError where nothing does.
    """
    lost = missing(page.pixels, page.nodata)
    if lost is None or not lost.any():
        return page.pixels, None
    if lost.all():
        raise InputError(f"{path} holds no pixel that counts.", "All of them are nodata.")
    filled = as_stored(unit_filled(page.pixels, values, page.nodata), page.pixels.dtype, values)
    return np.where(broadcast(lost, page.pixels), filled, page.pixels), ~lost


def _page(path: Path, nodata: float | None) -> Page:
    pages = read(path).pages
    if len(pages) != 1:
        raise InputError(f"{path} has {len(pages)} pages.", "Save them as single images to have each one scored.")
    return pages[0] if nodata is None else replace(pages[0], nodata=nodata)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]} pixels {'in gray' if pixels.ndim == 2 else 'in colour'}"
