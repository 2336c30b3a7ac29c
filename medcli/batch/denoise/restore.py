"""One image through an engine: every page, gray or colour, with its alpha untouched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from medcli.batch.denoise.options import FLOAT_DEPTH, SAME_DEPTH
from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.report import ImageStats
from medcli.engine.page import Engine, Progress, restore_page
from medcli.engine.residual import RemovedStats, removed_stats, residual
from medcli.engine.slider_values import Sliders
from medcli.images import DecodedImage, Page
from medcli.images.raw_file import GAINS
from medcli.images.rows import Produced
from medcli.images.values import ValueRange, dtype_range, range_of

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser
    from medcli.engine.mosaic import MosaicNoise


PageWork = Callable[[int, Page, Engine, Progress | None], Page]


class ImageTask(Protocol):
    """What a run does with each of its images."""

    def __call__(self, job: Job, image: DecodedImage, engine: Engine, progress: Progress | None) -> None:
        """Restores the pages in place. Raises MedcliError."""


@dataclass(frozen=True)
class Denoise:
    """The default task."""

    sliders: Sliders = field(default_factory=Sliders)

    def __call__(self, job: Job, image: DecodedImage, engine: Engine, progress: Progress | None) -> None:
        strengths: list[float] = []
        noise = mosaic_noise(image)
        restore(image, engine, partial(self._page, image.values, noise, strengths), progress)
        if self.sliders.auto and strengths:
            low, high = min(strengths), max(strengths)
            image.remark(f"Strength {low:.2f}" + (f" to {high:.2f}." if high - low >= 0.01 else "."))

    def _page(
        self,
        values: ValueRange | None,
        noise: MosaicNoise | None,
        strengths: list[float],
        number: int,
        page: Page,
        engine: Engine,
        progress: Progress | None,
    ) -> Page:
        sliders = self.sliders
        if noise is None and replace(sliders, strength=1.0).neutral:
            return restore_page(page, engine, sliders.strength, progress)
        from medcli.engine.sliders import adjusted, noise_curve

        restored = restore_page(page, engine, 1.0, progress)
        if noise is not None:
            from medcli.engine.mosaic import within_noise

            restored = replace(restored, pixels=within_noise(page.pixels, restored.pixels, noise))
        values = values or dtype_range(page.pixels.dtype)
        curve = None
        if sliders.auto or sliders.texture:
            curve = noise_curve(page.pixels, restored.pixels, values)
            strengths.append(curve.strength)
        return replace(restored, pixels=adjusted(page.pixels, restored.pixels, values, sliders, curve))


def is_mosaic(image: DecodedImage) -> bool:
    """Whether the pages are the planes of a raw file's mosaic."""
    return image.format == "raw" and GAINS in dict(image.metadata.native)


def mosaic_noise(image: DecodedImage) -> MosaicNoise | None:
    """Of a raw file whose pages are the planes of its mosaic, with a note; None for all others."""
    if not is_mosaic(image):
        return None
    import numpy as np

    from medcli.engine.mosaic import measured_noise

    red, green, blue, _ = np.frombuffer(dict(image.metadata.native)[GAINS], np.float64).tolist()
    noise = measured_noise([page.pixels for page in image.pages], (red, green, blue))
    if noise is None:
        image.remark("Denoised before development; the noise could not be measured.")
    else:
        image.remark(f"Denoised before development: shot noise {noise.shot:.2g}, read noise {noise.floor**0.5:.2g}.")
    return noise


def restore(image: DecodedImage, engine: Engine, work: PageWork, progress: Progress | None = None) -> None:
    """Restores the pages of `image` in place, so that a stack is never in memory twice.

    work: called with the number of a page from 0 on, the page, `engine` with the page's nodata, and its
    progress; returns the restored page.
    progress: called with (passes of the network done, in all), over all pages.
    """
    count = len(image.pages)
    for number, page in enumerate(image.pages):
        call = engine if page.nodata is None else partial(engine, nodata=page.nodata)  # type: ignore[call-arg]
        image.pages[number] = work(number, page, call, progress and _of_stack(progress, number, count))


def _of_stack(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one page as progress of the stack, all pages counting alike."""
    return lambda done, total: progress(number * total + done, count * total)


def keep_residual(image: DecodedImage, noisy: Sequence[Page]) -> RemovedStats:
    """Puts what was removed from the pages `noisy` into `image.residual`, and measures it."""
    values = image.values or dtype_range(noisy[0].pixels.dtype)
    pairs = [(before.pixels, after.pixels) for before, after in zip(noisy, image.pages, strict=True)]
    kept = pairs[:1] if is_mosaic(image) else pairs  # of the two greens of a mosaic one
    image.residual = [Page(residual(before, after, values)) for before, after in kept]
    return removed_stats(pairs, values)


def as_floats(page: Page) -> Page:
    """The same values as float32, or as float64 where float32 would round them; alpha in [0, 1]."""
    if page.pixels.dtype.kind == "f":
        return page
    kind = np.float64 if page.pixels.dtype.itemsize > 2 else np.float32
    alpha = None if page.alpha is None else dtype_range(page.alpha.dtype).to_unit(page.alpha).astype(kind)
    return replace(page, pixels=page.pixels.astype(kind), alpha=alpha)


def through_perceptual(
    task: ImageTask, job: Job, image: DecodedImage, denoiser: Denoiser, progress: Progress | None, transfer: Any
) -> None:
    """Does the task on the pages in the curve of sRGB, and brings them back."""
    from medcli.engine.perceptual import brought_back, shown

    values = denoiser.range if isinstance(denoiser.range, ValueRange) else dtype_range(image.pages[0].pixels.dtype)
    original = image.pages
    before = [shown(page, transfer, values) for page in original]
    image.pages = list(before)
    image.values = range_of("auto", before)
    task(job, image, partial(denoiser, values=image.values), progress)
    triples = zip(original, before, image.pages, strict=True)
    image.pages = [brought_back(*pages, transfer, values) for pages in triples]
    image.values = values


def _streamed(
    image: DecodedImage,
    denoiser: Denoiser,
    strength: float,
    progress: Progress | None,
    write: Callable[[DecodedImage], None],
) -> float:
    """Writes the page's result while it is made; returns the seconds of writing alone."""
    page, spent = image.pages[0], [0.0]
    bands = denoiser.bands(page.pixels, strength=strength, progress=progress, values=image.values)

    def timed() -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            band = next(bands, None)
            spent[0] += time.perf_counter() - started
            if band is None:
                return
            yield band

    image.pages = [replace(page, pixels=cast(Any, Produced(page.pixels.shape, page.pixels.dtype, timed())))]
    started = time.perf_counter()
    write(image)
    image.written = True
    return time.perf_counter() - started - spent[0]


def measured(
    task: ImageTask,
    job: Job,
    image: DecodedImage,
    denoiser: Denoiser,
    progress: Progress | None = None,
    *,
    with_residual: bool = False,
    encoding: str = "auto",
    depth: str = SAME_DEPTH,
    write: Callable[[DecodedImage], None] | None = None,
) -> ImageStats:
    """Does the task and measures it. All pages are read in one range of values.

    encoding: how numbers encode light: auto (as the metadata say), as-is (like sRGB), or a `Transfer`.
    depth: FLOAT_DEPTH for results that are neither rounded nor clipped, in the values of the source.
    with_residual: whether `image` gets its residual; its pages are in memory twice until then.
    write: writes the image row by row while it is being denoised, for the plain task; None: nothing is written here.
    """
    for page in image.pages:
        page.nodata = page.nodata if denoiser.nodata is None else denoiser.nodata
    own = dtype_range(image.pages[0].pixels.dtype)
    values = range_of(denoiser.range, image.pages) if depth == FLOAT_DEPTH else None
    image.pages = [as_floats(page) for page in image.pages] if depth == FLOAT_DEPTH else image.pages
    precision = denoiser.precision_in_force(image.pages[0].pixels)
    transfer = image.metadata.transfer if encoding == "auto" else None if encoding == "as-is" else encoding
    reruns, passed_over, started = denoiser.reruns, denoiser.passed_over, time.perf_counter()
    noisy = list(image.pages) if with_residual else []
    if transfer:
        through_perceptual(task, job, image, denoiser, progress, transfer)
    else:
        image.values = values or range_of(denoiser.range, image.pages)
        if write is not None and isinstance(task, Denoise):
            started += _streamed(image, denoiser, task.sliders.strength, progress, write)
        else:
            task(job, image, partial(denoiser, values=image.values), progress)
    seconds = time.perf_counter() - started
    removed = keep_residual(image, noisy) if noisy else None
    width, height = image.size
    if denoiser.remark:
        image.remark(denoiser.remark + (" (last page)" if len(image.pages) > 1 else ""))
    if denoiser.reruns > reruns:
        image.remark(f"{denoiser.reruns - reruns} tiles were not finite in half precision and were run again in fp32.")
    if (note := denoiser.note_on_tiles(height, width)) and note not in denoiser.reported:
        denoiser.reported.add(note)  # once per run
        image.remark(note)
    if denoiser.passed_over > passed_over:
        count = denoiser.passed_over - passed_over
        image.remark(f"{count:,} pixels hold no data or lie far outside the range: left as they were.")
    scale = 2 if is_mosaic(image) else 1
    return ImageStats(
        width=width * scale,
        height=height * scale,
        pages=1 if is_mosaic(image) else len(image.pages),
        pixels=sum(page.pixels.shape[0] * page.pixels.shape[1] for page in image.pages),
        tile=denoiser.tile_in_force(height, width),
        precision=precision,
        runtime=denoiser.runtime.name,
        seconds=seconds,
        device=str(denoiser.device),
        values=image.values or own,
        by_type=image.values == own,
        removed=removed,
    )
