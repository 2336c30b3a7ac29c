"""Pixels that are missing: a mask says which, the model fills them, and all others stay as they are, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.batch.denoise.plan import STREAM, Job
from medcli.batch.denoise.restore import restore
from medcli.data.folders import by_stem, listed
from medcli.engine.page import Engine, Progress
from medcli.errors import InputError, OutputError
from medcli.images import MAX_PIXELS, DecodedImage, Page, read
from medcli.images.exif import orientation
from medcli.images.values import ValueRange, dtype_range, range_of, stored

Pixels = NDArray[Any]
Missing = NDArray[np.bool_]


@dataclass(frozen=True)
class Inpaint:
    """masks: file of each job; of a job without one, pixels that are black in all channels are missing.

    A page that is black all over is blank, and stays so; an image of such pages alone is refused.
    max_pixels: of a mask, over all pages.
    """

    masks: Mapping[Job, Path]
    max_pixels: int = MAX_PIXELS

    def __call__(self, job: Job, image: DecodedImage, engine: Engine, progress: Progress | None) -> None:
        """Fills the pages in place. Raises InputError where the mask cannot be read, or is not one of this image."""
        missing = self._missing(job, image)
        values = image.values or range_of("auto", image.pages)

        def work(number: int, page: Page, engine: Engine, progress: Progress | None) -> Page:
            return inpainted(page, missing[number], engine, progress, values)

        restore(image, engine, work, progress)
        count, total = (sum(int(measure(each)) for each in missing) for measure in (np.count_nonzero, np.size))
        image.remark(f"{count:,} of {total:,} pixels were missing.")

    def _missing(self, job: Job, image: DecodedImage) -> Sequence[Missing]:
        """(H, W) for each page."""
        mask = self.masks.get(job)
        found = _read_mask(mask, image, self.max_pixels) if mask else [_black(page) for page in image.pages]
        pages = zip(image.pages, found, strict=True)
        gone = [bool(missing.any() and (missing | _hidden(page)).all()) for page, missing in pages]
        if all(gone) or (mask and any(gone)):
            problem = f"{_name(job)}: all pixels are missing, so that there is nothing to go by."
            raise InputError(problem, "In a mask white is what is missing.")
        return [missing & (not blank) for missing, blank in zip(found, gone, strict=True)]


def mask_of_each_job(given: Path, jobs: Sequence[Job], inputs: Sequence[Path]) -> dict[Job, Path]:
    """The mask of each job: the file given; in a folder the one of the image's name, whatever its extension.

    Raises InputError where an image has none, OutputError where a result would replace a mask.
    """
    jobs = [job for job in jobs if job.error is None]
    if given.is_dir():
        found = by_stem(given)
        names = {job: _relative(job.source, inputs).with_suffix("").as_posix() for job in jobs}
        if lonely := [_name(job) for job, name in names.items() if name not in found]:
            hint = "Each image needs a mask of its name; one that is all black changes nothing."
            raise InputError(f"There is no mask in {given} for {listed(lonely)}.", hint)
        masks = {job: given / found[name] for job, name in names.items()}
    elif given.exists():
        masks = dict.fromkeys(jobs, given)
    else:
        raise InputError(f"There is no mask {given}.", "Name an image, a folder of images, or 'black'.")
    for job, mask in masks.items():
        if job.target.exists() and job.target.samefile(mask):
            raise OutputError(f"The result {job.target} would overwrite a mask.", "Choose another -o.")
    return masks


def inpainted(
    page: Page,
    missing: Missing,
    engine: Engine,
    progress: Progress | None = None,
    values: ValueRange | None = None,
) -> Page:
    """The page with the network's output where `missing`, (H, W), is true, and as it was elsewhere.

    The network sees the low end of the range there, as it did in training, and under alpha 0 too, where nothing is
    known either; what lies under alpha 0 stays. Known pixels of that value are shown to it 1/255 of the range above, or
    they would be taken for missing. values: the range, by default that of the data type.
    """
    hidden = _hidden(page)
    wanted = missing & ~hidden
    if not wanted.any():
        return page
    seen = page.pixels.copy()
    values = values or dtype_range(seen.dtype)
    black = stored(np.float64(values.low), seen.dtype)
    step = max((values.high - values.low) / 255, 1 if seen.dtype.kind in "iu" else 0)
    seen[np.all(_channels_last(seen) == black, axis=2)] = stored(np.float64(values.low + step), seen.dtype)
    seen[missing | hidden] = black
    restored = engine(seen, strength=1.0, progress=progress)
    np.copyto(restored, page.pixels, where=~wanted if restored.ndim == 2 else ~wanted[..., None])
    return replace(page, pixels=restored)


def _hidden(page: Page) -> Missing:
    hidden: Missing = np.zeros(page.pixels.shape[:2], bool) if page.alpha is None else page.alpha == 0
    return hidden


def _read_mask(path: Path, image: DecodedImage, max_pixels: int) -> list[Missing]:
    """One for each page of the image: those of the mask, or its only one for all."""
    mask = read(path, max_pixels=max_pixels)
    if len(mask.pages) not in (1, len(image.pages)):
        problem = f"The mask {path} has {len(mask.pages)} pages, but its image {len(image.pages)}."
        raise InputError(problem, "Give one page for all, or one for each.")
    if orientation(mask.metadata.exif) != orientation(image.metadata.exif):
        problem = f"The mask {path} has another orientation tag than its image."
        raise InputError(problem, "Turn both upright, or give them the same tag.")
    pages = mask.pages if len(mask.pages) > 1 else mask.pages * len(image.pages)
    for page, other in zip(pages, image.pages, strict=True):
        if page.pixels.shape[:2] != other.pixels.shape[:2]:
            problem = f"The mask {path} is {_size(page)} pixels, but its image {_size(other)}."
            raise InputError(problem, "The two must match pixel by pixel.")
    return [_white(page) for page in pages]


def _black(page: Page) -> Missing:
    """Where all channels are 0."""
    black: Missing = ~np.any(_channels_last(page.pixels), axis=2)
    return black


def _white(page: Page) -> Missing:
    """Where a mask is nearer to white than to black in all channels, and nearer to opaque than to clear."""
    white: Missing = np.all(_upper_half(_channels_last(page.pixels)), axis=2)
    return white if page.alpha is None else white & _upper_half(page.alpha)


def _channels_last(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, 3) as (H, W, C)."""
    return pixels.reshape(*pixels.shape[:2], -1)


def _upper_half(values: Pixels) -> Missing:
    upper: Missing = dtype_range(values.dtype).to_unit(values) > 0.5
    return upper


def _relative(source: Path, inputs: Sequence[Path]) -> Path:
    """An image's path relative to the input folder, or its name where the file itself is the input."""
    folders = [folder for folder in inputs if folder.is_dir() and source.is_relative_to(folder)]
    return source.relative_to(folders[0]) if folders else Path(source.name)


def _name(job: Job) -> str:
    return "standard input" if job.source == STREAM else str(job.source)


def _size(page: Page) -> str:
    return f"{page.pixels.shape[1]}x{page.pixels.shape[0]}"
