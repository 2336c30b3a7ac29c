"""One picture through an engine: every page, gray or colour, with its alpha untouched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from medcli.batch.alpha import Pixels, fill_hidden, restore_hidden
from medcli.batch.plan import Job
from medcli.batch.report import Facts
from medcli.images import Page, Picture
from medcli.images.values import dtype_range, range_of

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser

Progress = Callable[[int, int], None]


class Engine(Protocol):
    """What takes pixels and gives them back cleaner, such as `medcli.Denoiser`."""

    def __call__(self, picture: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
        """(H, W) or (H, W, C) -> same shape and dtype."""


PageWork = Callable[[int, Page, Engine, Progress | None], Page]


class Task(Protocol):
    """What a run does with each of its pictures."""

    def __call__(self, job: Job, picture: Picture, engine: Engine, progress: Progress | None) -> None:
        """Restores the pages in place. Raises MedcliError."""


def restore_page(page: Page, engine: Engine, strength: float = 1.0, progress: Progress | None = None) -> Page:
    """The page with denoised pixels. Alpha stays, and so does the colour under alpha 0."""
    if page.alpha is None:
        return replace(page, pixels=engine(page.pixels, strength=strength, progress=progress))
    shown = fill_hidden(page.pixels, page.alpha)
    restored = engine(shown, strength=strength, progress=progress)
    return replace(page, pixels=restore_hidden(restored, page.pixels, page.alpha))


@dataclass(frozen=True)
class Denoise:
    """The task of a run that asks for nothing else."""

    strength: float = 1.0

    def __call__(self, job: Job, picture: Picture, engine: Engine, progress: Progress | None) -> None:
        restore(picture, engine, self._page, progress)

    def _page(self, number: int, page: Page, engine: Engine, progress: Progress | None) -> Page:
        return restore_page(page, engine, self.strength, progress)


def restore(picture: Picture, engine: Engine, work: PageWork, progress: Progress | None = None) -> None:
    """Restores the pages of `picture` in place, so that a stack is never in memory twice.

    work: called with the number of a page from 0 on, the page, `engine`, which is told the page's nodata, and its
    progress; returns the restored page.
    progress: called with (passes of the network done, in all), over all pages.
    """
    count = len(picture.pages)
    for number, page in enumerate(picture.pages):
        told = engine if page.nodata is None else partial(engine, nodata=page.nodata)  # type: ignore[call-arg]
        picture.pages[number] = work(number, page, told, progress and _of_stack(progress, number, count))


def _of_stack(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one page as progress of the stack, all pages counting alike."""
    return lambda done, total: progress(number * total + done, count * total)


def measured(task: Task, job: Job, picture: Picture, denoiser: Denoiser, progress: Progress | None = None) -> Facts:
    """Does the task, and says what it took. All pages are read in one range of values."""
    from medcli.engine.device import PRECISIONS

    precision = denoiser.precision_in_force(picture.pages[0].pixels)
    for page in picture.pages:
        page.nodata = page.nodata if denoiser.nodata is None else denoiser.nodata
    picture.values = range_of(denoiser.range, picture.pages)
    own = dtype_range(picture.pages[0].pixels.dtype)
    reruns, passed_over, started = denoiser.reruns, denoiser.passed_over, time.perf_counter()
    task(job, picture, partial(denoiser, values=picture.values), progress)
    seconds = time.perf_counter() - started
    width, height = picture.size
    if denoiser.reruns > reruns:
        picture.remark(
            f"{denoiser.reruns - reruns} tiles were not finite in half precision and were run again in fp32."
        )
    if denoiser.passed_over > passed_over:
        count = denoiser.passed_over - passed_over
        picture.remark(f"{count:,} pixels hold no data or lie far outside the range: left as they were.")
    return Facts(
        width=width,
        height=height,
        pages=len(picture.pages),
        pixels=sum(page.pixels.shape[0] * page.pixels.shape[1] for page in picture.pages),
        tile=denoiser.tile_in_force(height, width),
        precision=next(name for name, dtype in PRECISIONS.items() if dtype == precision),
        seconds=seconds,
        values=picture.values,
        by_type=picture.values == own,
    )
