"""One run of `med denoise`: the jobs, the files, the engine that is loaded when needed, and what is told of it all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from medcli.batch.denoise.files import ImageFiles
from medcli.batch.denoise.plan import STREAM, Job
from medcli.batch.denoise.report import ImageStats, Outcome, RunSummary, as_json, as_lines
from medcli.batch.denoise.restore import ImageTask, measured
from medcli.batch.denoise.run import Restore, Stages, run
from medcli.cli.options import TileSize
from medcli.cli.progress import ProgressDisplay, message_lines, terminal_can_animate
from medcli.errors import MedcliError, SomeFailed
from medcli.files.atomic import remove_stale
from medcli.images import DecodedImage
from medcli.images.decoded_image import is_gray

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser
    from medcli.images.values import RangeChoice
    from medcli.zoo.model import Model


@dataclass(frozen=True)
class DenoiseOptions:
    """What was asked of the machine: which model, for what, and how it is to be run. The last five: `Settings`."""

    model: Model
    task: ImageTask
    device: str
    precision: str
    ensemble: bool
    tile: TileSize
    overlap: int | None
    refine: int | None = None
    samples: int | None = None
    seed: int | None = None
    range: RangeChoice = "auto"
    nodata: float | None = None


class DenoiseRun:
    """Rehearses or performs the jobs, and tells of each: lines for people on stderr, objects for programs on stdout."""

    def __init__(
        self,
        options: DenoiseOptions,
        files: ImageFiles,
        jobs: Sequence[Job],
        *,
        skipped: str = "",
        as_objects: bool = False,
        quiet: bool = False,
    ) -> None:
        """skipped: what else lies in the folders, in words."""
        self._request, self._files, self._jobs = options, files, jobs
        self._skipped, self._as_objects, self._quiet = skipped, as_objects, quiet
        self._device = ""  # unknown until the model is loaded
        self._tally = RunSummary()

    def dry_run(self, *, force: bool) -> None:
        """Tells what `perform` would do and raises what it would raise, as far as that is known beforehand."""
        settled = self._settled(force=force)
        with ProgressDisplay(animate=False, quiet=self._quiet) as display:
            self._tell_all([settled.get(job) or self._files.expected_outcome(job) for job in self._jobs], display)
            self._conclude(display)

    def execute(self, *, force: bool) -> None:
        """Does the jobs. Raises the error of an only image, and SomeFailed where some are done and others failed."""
        settled = self._settled(force=force)
        todo = [job for job in self._jobs if job not in settled]
        remove_stale(job.target.parent for job in self._jobs if job.target != STREAM)
        with ProgressDisplay(len(todo), animate=terminal_can_animate(), quiet=self._quiet) as display:
            stages = Stages(self._files.read, partial(self._prepare, display), self._files.write)
            self._tell_all(settled.values(), display)
            with closing(run(todo, stages)) as outcomes:
                self._tell_all(outcomes, display)
            self._conclude(display)

    def _settled(self, *, force: bool) -> dict[Job, Outcome]:
        """The jobs that need no work, or cannot be done; `force` leaves only the latter."""
        jobs = [job for job in self._jobs if job.error is not None or not force]
        return {job: outcome for job in jobs if (outcome := self._files.existing_outcome(job))}

    def _prepare(self, display: ProgressDisplay) -> Restore:
        from medcli.api import load  # imports torch: meanwhile the first image is being read
        from medcli.engine.memory import keep_freed_memory

        keep_freed_memory()
        asked = self._request
        denoiser = load(
            asked.model,
            device=asked.device,
            precision=asked.precision,
            tile=asked.tile,
            overlap=asked.overlap,
            ensemble=asked.ensemble,
            refine=asked.refine,
            samples=asked.samples,
            seed=asked.seed,
            range=asked.range,
            nodata=asked.nodata,
        )
        self._device = str(denoiser.device)
        return partial(self._restore, denoiser, display, asked.model.gray_warning)

    def _restore(
        self, denoiser: Denoiser, display: ProgressDisplay, warning: str, job: Job, image: DecodedImage
    ) -> ImageStats:
        if warning and all(is_gray(page.pixels) for page in image.pages):
            image.remark(warning)
        display.begin("stdin" if job.source == STREAM else job.source.name, denoiser.strategy.passes)
        return measured(self._request.task, job, image, denoiser, display.advance)

    def _tell_all(self, outcomes: Iterable[Outcome], display: ProgressDisplay) -> None:
        for outcome in outcomes:
            self._tally.add(outcome)
            if self._as_objects:
                click.echo(as_json(outcome, self._request.model.name, self._device))
            if outcome.error is None:
                lines = as_lines(outcome, self._request.model.name, self._device)
            else:
                lines = message_lines(outcome.error) if len(self._jobs) > 1 else []  # that of an only image is raised
            for line in lines:
                display.line(line, error=outcome.error is not None)

    def _conclude(self, display: ProgressDisplay) -> None:
        failures = self._tally.errors
        if len(self._jobs) > 1 or self._skipped:
            display.line("; ".join(filter(None, (self._tally.summary(display.seconds), self._skipped))))
        if failures and len(self._jobs) == 1:
            raise failures[0]
        if failures:
            why = "\n".join(error.problem for error in failures)
            if len(failures) == len(self._jobs):
                raise MedcliError(f"None of {len(self._jobs)} images could be denoised:", why)
            raise SomeFailed(f"{len(failures)} of {len(self._jobs)} images failed:", why)
