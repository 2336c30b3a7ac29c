"""A picture through several models at several strengths, area by area."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcli.batch.compare.areas import WHOLE, Area, parse_area, telling_areas, whole
from medcli.batch.compare.figures import Floats, measured
from medcli.engine.brightness import BLOCK
from medcli.engine.page import Progress, restore_page
from medcli.errors import InputError
from medcli.images import DecodedImage, Page
from medcli.images.comparison import Levels, Region, Version
from medcli.images.exif import orientation
from medcli.images.values import RangeChoice, ValueRange, joint_range, range_of, stored

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser

Pixels = NDArray[Any]

MARGIN = 128  # pixels around an area that a network sees too
ERROR_GAIN = 4  # of error maps, about mid-gray
HIDDEN = 128  # grey level of what lies under alpha 0
TURNS: dict[int, Callable[[Levels], Levels]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


@dataclass(frozen=True)
class Candidate:
    """A model to compare. command: makes the command that writes the result of a strength."""

    name: str
    denoiser: Denoiser
    command: Callable[[float], str]


@dataclass(frozen=True)
class Picture:
    """A page of a file. clean: (H, W) or (H, W, C) in [0, 1]; values: which of the pixels are black and white.

    turn: the orientation of EXIF, which pixels get where they are shown.
    """

    name: str
    page: Page
    values: ValueRange
    icc: bytes | None = None
    turn: int = 1
    clean: Floats | None = None

    def areas(self, choice: str) -> list[Area]:
        """choice: `auto`, `whole` or X,Y,W,H. Raises InputError."""
        height, width = self.page.pixels.shape[:2]
        if choice == "whole" or (choice == "auto" and height * width <= WHOLE):
            return [whole(height, width)]
        if choice != "auto":
            return [parse_area(choice, height, width)]
        unit = np.nan_to_num(self.values.to_unit(self.page.pixels)).clip(0, 1)
        return telling_areas(unit if unit.ndim == 2 else unit.mean(2))


def picture(name: str, image: DecodedImage, choice: RangeChoice, clean: DecodedImage | None = None) -> Picture:
    """The first page of an image. Raises InputError where the clean image is not of its size and kind."""
    page = image.pages[0]
    icc, turn = image.metadata.icc, orientation(image.metadata.exif)
    if clean is None:
        return Picture(name, page, range_of(choice, [page]), icc, turn)
    other = clean.pages[0]
    if other.pixels.shape != page.pixels.shape:
        raise InputError(
            f"{name} has the shape {page.pixels.shape}, its clean image {other.pixels.shape}.",
            "Both images must match pixel by pixel.",
        )
    ranges = [range_of(choice, [each]) for each in (page, other)]
    values, scale = joint_range(ranges, [each.pixels.dtype for each in (page, other)])
    return Picture(name, page, values, icc, turn, np.nan_to_num(scale.to_unit(other.pixels)).clip(0, 1))


def compare(
    picture: Picture,
    areas: Sequence[Area],
    candidates: Sequence[Candidate],
    strengths: Sequence[float],
    begin: Callable[[str], None],
    progress: Progress | None = None,
) -> Iterator[Region]:
    """One region for each area: the noisy image, each model at each strength, and the clean image where it is known.

    begin: called with a name before each call of a model; progress: with what it has done.
    """
    for area in areas:
        here = f"{area.name} at {area.left},{area.top}" if area.name else ""
        name = ", ".join(filter(None, [picture.name, here]))
        noisy = area.cut(picture.page.pixels)
        versions = [_version(picture, area, "noisy", noisy, noisy)]
        for candidate in candidates:
            begin(f"{name}: {candidate.name}")
            full, seconds = _restored(picture, area, candidate.denoiser, progress)
            for strength in strengths:
                title = candidate.name + ("" if strength == 1 else f", strength {strength:g}")
                made = _version(picture, area, title, noisy, _blended(noisy, full, strength))
                figures = {**made.figures, "time": f"{seconds:.3g} s"}
                versions.append(replace(made, figures=figures, command=candidate.command(strength)))
        if picture.clean is not None:
            levels = _levels(picture, area, area.cut(picture.clean))
            versions.append(Version("clean", levels, reference=True))
        yield Region(name, versions, picture.icc)


def _restored(picture: Picture, area: Area, denoiser: Denoiser, progress: Progress | None) -> tuple[Pixels, float]:
    """The area at full strength, and the seconds that the whole picture would take."""
    page, (height, width) = picture.page, picture.page.pixels.shape[:2]
    seen = area.grown(MARGIN, lcm(denoiser.multiple, BLOCK), height, width)
    cut = Page(seen.cut(page.pixels), None if page.alpha is None else seen.cut(page.alpha))
    engine = partial(denoiser, values=picture.values, nodata=page.nodata)
    started = time.perf_counter()
    restored = restore_page(cut, engine, progress=progress).pixels
    seconds = (time.perf_counter() - started) * height * width / (seen.width * seen.height)
    inner = area._replace(left=area.left - seen.left, top=area.top - seen.top)
    return inner.cut(restored), seconds


def _blended(noisy: Pixels, restored: Pixels, strength: float) -> Pixels:
    if strength == 1:
        return restored
    with np.errstate(invalid="ignore"):
        return stored(noisy + strength * (restored.astype(np.float64) - noisy), noisy.dtype)


def _version(picture: Picture, area: Area, name: str, noisy: Pixels, pixels: Pixels) -> Version:
    clean = None if picture.clean is None else area.cut(picture.clean)
    unit = np.nan_to_num(picture.values.to_unit(pixels))
    figures = measured(noisy, pixels, picture.values, clean)
    error = None if clean is None else _shown(picture, 0.5 + ERROR_GAIN * (unit.clip(0, 1) - clean))
    return Version(name, _levels(picture, area, unit), figures, error=error)


def _levels(picture: Picture, area: Area, unit: Floats) -> Levels:
    levels = _shown(picture, unit)
    if picture.page.alpha is not None:
        hidden = _turned(area.cut(picture.page.alpha) == 0, picture.turn)
        levels[hidden] = HIDDEN
    return levels


def _shown(picture: Picture, unit: Floats) -> Levels:
    """(H, W) or (H, W, C) in [0, 1] -> (H, W, 3) uint8, upright."""
    levels = (unit.clip(0, 1) * 255).round().astype(np.uint8)
    planes = levels if levels.ndim == 3 and levels.shape[2] == 3 else levels.reshape(*levels.shape[:2], -1)[..., :1]
    upright: Levels = _turned(np.broadcast_to(planes, (*planes.shape[:2], 3)), picture.turn)
    return upright


def _turned(image: Any, turn: int) -> Any:
    return np.ascontiguousarray(TURNS[turn](image) if turn in TURNS else image)
