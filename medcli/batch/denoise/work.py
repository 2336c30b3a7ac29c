"""What every process of a run does with its images, wherever it runs: the model is loaded once, then come paths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medcli.batch.denoise.files import ImageFiles
from medcli.batch.denoise.options import SAME_DEPTH
from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.report import ImageStats, Outcome
from medcli.batch.denoise.restore import ImageTask, measured
from medcli.batch.denoise.run import OneByOne, Stages
from medcli.batch.executors.dispatch import DEATHS, Executor, Lost
from medcli.engine.page import Progress
from medcli.errors import InputError, OutputError
from medcli.files.atomic import hint_for
from medcli.images import DecodedImage
from medcli.images.decoded_image import is_gray

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser


@dataclass(frozen=True)
class DenoiseWork:
    """Everything but the images; it can be pickled.

    load: makes the denoiser for a device, by name, and the pixels of all images, None where they are not known.
    files: makes an `ImageFiles` from its streams and `shared`. gray_warning: a line for gray images, where the model is
    known not to restore them. with_residual: whether what was removed is kept. encoding, depth: as for `measured`.
    """

    load: Callable[[str, int | None], Denoiser]
    files: Callable[..., ImageFiles]
    task: ImageTask
    gray_warning: str = ""
    with_residual: bool = False
    encoding: str = "auto"
    depth: str = SAME_DEPTH

    def opened(self, device: str) -> Callable[[Job], Outcome]:
        """See `executors.dispatch.Work`."""
        files = self.files(None, shared=True)
        stages = Stages(files.read, lambda: partial(self.restored, self.denoiser(device), files), files.write)
        return OneByOne(stages, files.close)

    def denoiser(self, device: str, pixels: int | None = None) -> Denoiser:
        """Raises ModelError, DeviceError."""
        from medcli.engine.memory import keep_freed_memory

        keep_freed_memory()
        return self.load(device, pixels)

    def restored(
        self,
        denoiser: Denoiser,
        files: ImageFiles,
        job: Job,
        image: DecodedImage,
        progress: Progress | None = None,
    ) -> ImageStats:
        """Denoises the image in place; a large one is written meanwhile. Raises MedcliError."""
        if self.gray_warning and all(is_gray(page.pixels) for page in image.pages):
            image.remark(self.gray_warning)
        return measured(
            self.task,
            job,
            image,
            denoiser,
            progress,
            with_residual=self.with_residual,
            encoding=self.encoding,
            depth=self.depth,
            write=partial(_write, files, job) if files.streams(job, image) else None,
        )


def _write(files: ImageFiles, job: Job, image: DecodedImage) -> None:
    try:
        files.write(job, image)
    except OSError as error:
        raise OutputError(f"{job.target}: {error.strerror or error}.", hint_for(error)) from error


def run_on(executor: Executor, work: DenoiseWork, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
    """Does the jobs and yields what became of each as it ends; see `Executor.run`."""
    handed: dict[int, Job] = {}

    def tasks() -> Iterator[Job]:
        for number, job in enumerate(jobs):
            handed[number] = job
            yield job

    with closing(executor.run(work, tasks())) as results:
        for number, result in results:
            job = handed.pop(number)
            yield _lost(job, result) if isinstance(result, Lost) else result


def _lost(job: Job, lost: Lost) -> Outcome:
    problem = f"{job.source}: {DEATHS} workers that had it in hand died; the last {lost.how}."
    hint = "If memory ran out, try fewer --workers. A file that ends a decoder may be damaged."
    return Outcome(job, "failed", error=InputError(problem, hint))
