"""One run of `med denoise`: checks of the options, the jobs, their files, the engine, and the report of the results."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click
from click.core import ParameterSource

from medcli.batch.denoise import provenance
from medcli.batch.denoise.files import ImageFiles, Streams
from medcli.batch.denoise.options import AUTO, DenoiseOptions
from medcli.batch.denoise.plan import STREAM, SUFFIX, Job, OutputNaming, make_plan
from medcli.batch.denoise.prepare import prepare, settings_of
from medcli.batch.denoise.report import ImageStats, Outcome, RunSummary, as_json, as_lines
from medcli.batch.denoise.restore import ImageTask, measured
from medcli.batch.denoise.run import Restore, Stages
from medcli.batch.denoise.run import run as run_stages
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, message_lines, say_unless, terminal_can_animate
from medcli.data.folders import skipped
from medcli.errors import MedcliError, OutputError, SomeFailed
from medcli.files.atomic import hint_for, remove_stale
from medcli.images import DecodedImage
from medcli.images.decoded_image import is_gray
from medcli.images.micrograph import is_micrograph
from medcli.images.reader import pixels_of
from medcli.zoo import catalog
from medcli.zoo.description import NOISE_DOMAIN
from medcli.zoo.fetch import Say
from medcli.zoo.model import Model, find_model

MICROGRAPHS = ("microscopy", "bundled")  # domain and source of the model for them

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser


def run_denoise(options: DenoiseOptions) -> None:
    """Raises UsageError, OptionError and MedcliError; SomeFailed where some images failed."""
    say = say_unless(options.quiet)
    target, is_folder = options.output
    options.check()
    _check_streams(options)
    naming = OutputNaming(target, options.suffix, options.format, is_folder)
    jobs = make_plan(
        options.inputs, naming, recursive=options.recursive, force=options.force, say=say, prefer=options.prefer
    )
    _check_unused("--suffix", jobs[0].target == target, f"-o {target} is the whole name of the result.")
    _check_unused("--overlap", options.tile == 0, "--tile 0 takes the whole image at once.")
    options = replace(options, range=chosen_range(options.range, options.range_from, options.nodata))
    options = _for_micrographs(options, jobs, say)
    others = skipped(options.inputs, options.recursive, SUFFIX)
    if options.model == AUTO:
        _run_by_noise(options, jobs, others)
    else:
        _run(options, jobs, others)


def _run_by_noise(options: DenoiseOptions, jobs: Sequence[Job], others: str) -> None:
    """Each image by the model that its noise calls for. Raises the first error, when all the others are done."""
    from medcli.batch.inspect.groups import grouped  # imports numpy

    errors: list[MedcliError] = []
    for (model, strength), group in grouped(jobs, options.range, say_unless(options.quiet)).items():
        try:
            _run(replace(options, model=model, strength=options.strength if strength else 0.0), group, others)
        except MedcliError as error:
            errors.append(error)
        others = ""
    if len(errors) > 1 or (errors and len(jobs) > 1):
        raise SomeFailed("Some images failed:", "\n".join(filter(None, (each.hint or each.problem for each in errors))))
    if errors:
        raise errors[0]


def _run(options: DenoiseOptions, jobs: Sequence[Job], others: str) -> None:
    """others: what else lies in the folders, in words."""
    say = say_unless(options.quiet)
    model = find_model(options.model, say)
    if model.domain == NOISE_DOMAIN:
        say(f"{options.model} generates noise (med synth-pairs --model); the denoisers are in 'med models list'.")
    model.require_blind_spot(f"--{name}" for name in options.blind_spot_settings())
    stdin = _binary(sys.stdin)
    if STREAM in options.inputs and not options.dry_run:
        stdin = io.BytesIO(stdin.read())  # a thread that waits for a pipe could not be interrupted
    task, files = prepare(options, model, jobs, Streams(stdin, _binary(sys.stdout)))
    DenoiseRun(options, model, task, files, jobs).start(others)


def _for_micrographs(options: DenoiseOptions, jobs: Sequence[Job], say: Say) -> DenoiseOptions:
    """With the model for micrographs where no model was named and all images are gray files of microscopes."""
    source = click.get_current_context().get_parameter_source("model")
    if source is not ParameterSource.DEFAULT or options.mask or options.upscale:
        return options
    names = [entry.id for entry in catalog.entries().values() if (entry.domain, entry.source) == MICROGRAPHS]
    if not names or not all(is_micrograph(job.source) for job in jobs):
        return options
    say(f"gray files of a microscope (OME, ImageJ): denoised with {names[0]}; -m {options.model} for the usual model")
    return replace(options, model=names[0])


def _check_streams(options: DenoiseOptions) -> None:
    """Refuses two things in one stream, and image bytes on a terminal."""
    output = options.output.path
    if STREAM in options.inputs and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("Nothing is piped into standard input. Try: med denoise - < noisy.png > clean.png")
    if output != STREAM and (output or STREAM not in options.inputs):
        return
    if options.as_objects:
        raise click.UsageError("--json and the image would mix on standard output. Name a file with -o.")
    if sys.stdout is None or sys.stdout.isatty():
        why = "closed" if sys.stdout is None else "a terminal"
        raise click.UsageError(f"Standard output is {why}. Send the image to a file: -o clean.png")


def _binary(stream: TextIO | None) -> BinaryIO:
    """The bytes below a standard stream; none where the process was started without it."""
    return io.BytesIO() if stream is None else stream.buffer


def _check_unused(option: str, unused: bool, why: str) -> None:
    """Refuses an option that was typed, not set in the environment, where it would change nothing."""
    source = click.get_current_context().get_parameter_source(option.lstrip("-"))
    if unused and source is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"{option} has no meaning here: {why}")


class DenoiseRun:
    """Runs or previews the jobs and reports each: lines for people on stderr, JSON objects for programs on stdout."""

    def __init__(
        self, options: DenoiseOptions, model: Model, task: ImageTask, files: ImageFiles, jobs: Sequence[Job]
    ) -> None:
        self._options, self._model, self._task, self._files, self._jobs = options, model, task, files, jobs
        self._device = ""  # unknown until the model is loaded
        self._summary = RunSummary()

    def start(self, skipped: str = "") -> None:
        """Does the jobs, or with --dry-run reports what would be done. skipped: what else lies in the folders.

        Raises the error of a single image, and SomeFailed where some are done and others failed.
        """
        jobs = [job for job in self._jobs if job.error is not None or not self._options.force]
        settled = {job: outcome for job in jobs if (outcome := self._files.existing_outcome(job))}
        todo = [job for job in self._jobs if job not in settled]
        dry_run, quiet = self._options.dry_run, self._options.quiet
        with ProgressDisplay(len(todo), animate=not dry_run and terminal_can_animate(), quiet=quiet) as display:
            if dry_run:
                self._report([settled.get(job) or self._files.expected_outcome(job) for job in self._jobs], display)
            else:
                remove_stale(job.target.parent for job in self._jobs if job.target != STREAM)
                self._report(settled.values(), display)
                stages = Stages(self._files.read, partial(self._prepare, display), self._files.write)
                with closing(run_stages(todo, stages)) as outcomes:
                    self._report(outcomes, display)
            if len(self._jobs) > 1 or skipped:
                display.line("; ".join(filter(None, (self._summary.summary(display.seconds), skipped))))
        if self._summary.errors and len(self._jobs) == 1:
            raise self._summary.errors[0]
        self._summary.raise_errors(len(self._jobs), "images", "denoised")

    def _prepare(self, display: ProgressDisplay) -> Restore:
        from medcli.api import load_model  # it may import torch: meanwhile the first image is being read
        from medcli.engine.memory import keep_freed_memory

        keep_freed_memory()
        single = self._jobs[0].source if len(self._jobs) == 1 else STREAM
        pixels = None if single == STREAM else pixels_of(single)
        denoiser = load_model(self._model, self._options, pixels=pixels)
        self._device = denoiser.device
        return partial(self._restore, denoiser, display)

    def _restore(self, denoiser: Denoiser, display: ProgressDisplay, job: Job, image: DecodedImage) -> ImageStats:
        warning = self._model.gray_warning
        if warning and all(is_gray(page.pixels) for page in image.pages):
            image.remark(warning)
        display.begin("stdin" if job.source == STREAM else job.source.name, denoiser.passes)
        with_residual = self._options.residual.path is not None
        return measured(
            self._task,
            job,
            image,
            denoiser,
            display.advance,
            with_residual=with_residual,
            encoding=self._options.encoding,
            depth=self._options.depth,
            write=partial(self._write, job) if self._files.streams(job, image) else None,
        )

    def _write(self, job: Job, image: DecodedImage) -> None:
        try:
            self._files.write(job, image)
        except OSError as error:
            raise OutputError(f"{job.target}: {error.strerror or error}.", hint_for(error)) from error

    def _report(self, outcomes: Iterable[Outcome], display: ProgressDisplay) -> None:
        for outcome in outcomes:
            self._summary.add(outcome)
            if self._options.provenance and outcome.status == "done":
                provenance.write(outcome, self._model, settings_of(self._options, self._model), shlex.join(sys.argv))
            if self._options.as_objects:
                click.echo(as_json(outcome, self._model.name, self._device))
            if outcome.error is None:
                lines = as_lines(outcome, self._model.name, self._device)
            else:
                lines = message_lines(outcome.error) if len(self._jobs) > 1 else []  # that of a single image is raised
            for line in lines:
                display.line(line, error=outcome.error is not None)
