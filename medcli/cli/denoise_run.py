"""One run of `med denoise`: checks of the options, the jobs, their files, the engine, and the report of the results."""

from __future__ import annotations

import io
import shlex
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click
from click.core import ParameterSource

from medcli.batch.denoise import provenance
from medcli.batch.denoise.files import Streams
from medcli.batch.denoise.options import AUTO, DenoiseOptions
from medcli.batch.denoise.plan import STREAM, SUFFIX, Job, OutputNaming, in_shard, make_plan, parse_list
from medcli.batch.denoise.prepare import prepare, settings_of
from medcli.batch.denoise.report import ImageStats, Outcome, RunSummary, as_json, as_lines, end_event, start_event
from medcli.batch.denoise.run import Restore, Stages
from medcli.batch.denoise.run import run as run_stages
from medcli.batch.denoise.store_plan import in_stores, stored_jobs
from medcli.batch.denoise.work import run_on
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, message_lines, say_unless, terminal_can_animate
from medcli.data.folders import skipped
from medcli.errors import MedcliError, SomeFailed
from medcli.images import DecodedImage
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
    listed = None if options.files_from is None else parse_list(_content(options.files_from))
    recursive, force = options.recursive, options.force
    jobs: Iterable[Job]
    everything = [*options.inputs, *(listed or ())]
    if in_stores(everything, target):
        options = replace(options, inputs=everything)
        options.check()
        jobs = stored_jobs(everything, naming, recursive=recursive, force=force)
    else:
        jobs = make_plan(
            options.inputs, naming, listed=listed, recursive=recursive, force=force, say=say, prefer=options.prefer
        )
        named = any(job.target == target for job in jobs)
        _check_unused("--suffix", named, f"-o {target} is the whole name of the result.")
        options = _for_micrographs(options, jobs, say)  # the same for all shards
    if options.shard is not None:
        shard = options.shard
        chosen = (job for job in jobs if in_shard(job, shard))
        jobs = list(chosen) if isinstance(jobs, Sequence) else chosen
    _check_unused("--overlap", options.tile == 0, "--tile 0 takes the whole image at once.")
    options = replace(options, range=chosen_range(options.range, options.range_from, options.nodata))
    others = "" if options.in_stores else skipped(options.inputs, options.recursive, SUFFIX)
    if options.model == AUTO:
        assert isinstance(jobs, Sequence)
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


def _run(options: DenoiseOptions, jobs: Iterable[Job], others: str) -> None:
    """others: what else lies in the folders, in words."""
    say = say_unless(options.quiet)
    model = find_model(options.model, say)
    if model.domain == NOISE_DOMAIN:
        say(f"{options.model} generates noise (med synth-pairs --model); the denoisers are in 'med models list'.")
    model.require_blind_spot(f"--{name}" for name in options.blind_spot_settings())
    DenoiseRun(options, model, jobs).start(others)


def _content(path: Path) -> bytes:
    return _binary(sys.stdin).read() if path == STREAM else path.read_bytes()


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


STORE_HANDS = 3  # images of a worker at once: of a store, one is fetched while one is denoised and one is sent


class DenoiseRun:
    """Runs or previews the jobs and reports each: lines for people on stderr, JSON objects for programs on stdout."""

    def __init__(self, options: DenoiseOptions, model: Model, jobs: Iterable[Job]) -> None:
        """jobs: a sequence, or an iterator where they are still being listed.

        Raises ModelError where the model cannot do what the options want, InputError for masks that are missing.
        """
        self._options, self._model = options, model
        self._jobs: Sequence[Job] | None = jobs if isinstance(jobs, Sequence) else None
        self._coming = jobs
        self._work = prepare(options, model, self._jobs or (), partial(_load, model, options))
        self._executor = options.executor(STORE_HANDS if options.in_stores else 1)
        stdin = _binary(sys.stdin)
        if STREAM in options.inputs and not options.dry_run:
            stdin = io.BytesIO(stdin.read())  # a thread that waits for a pipe could not be interrupted
        self._files = self._work.files(Streams(stdin, _binary(sys.stdout)), shared=options.shard is not None)
        self._summary = RunSummary()
        self._places: dict[Path, Job] = {}  # a job of each folder that gets results

    def start(self, skipped: str = "") -> None:
        """Does the jobs, or with --dry-run reports what would be done. skipped: what else lies in the folders.

        Raises the error of a single image, and SomeFailed where some are done and others failed.
        """
        with self._events():
            if self._jobs is None:
                self._stream(self._coming)
            else:
                self._run(self._jobs, skipped)
        if self._summary.errors and self._jobs is not None and len(self._jobs) == 1:
            raise self._summary.errors[0]
        self._summary.raise_errors(self._summary.counts.total(), "images", "denoised")

    def _run(self, jobs: Sequence[Job], skipped: str) -> None:
        dry_run = self._options.dry_run
        if not dry_run:
            self._files.tidy(jobs)
        refusable = [job for job in jobs if job.error is not None or not self._options.force]
        settled = {job: outcome for job in refusable if (outcome := self._files.existing_outcome(job))}
        todo = [job for job in jobs if job not in settled]
        with self._display(len(todo)) as display:
            if dry_run:
                self._report([settled.get(job) or self._files.expected_outcome(job) for job in jobs], display)
            else:
                self._report(settled.values(), display)
                self._do(todo, display)
            if len(jobs) > 1 or skipped:
                display.line("; ".join(filter(None, (self._summary.summary(display.seconds), skipped))))

    def _stream(self, jobs: Iterable[Job]) -> None:
        """Jobs as they are listed: none but those in hand is in memory."""
        with self._display(0) as display:
            todo = self._unsettled(jobs, display)
            if self._options.dry_run:
                self._report(map(self._files.expected_outcome, todo), display)
            else:
                self._do(todo, display)
            if self._summary.counts.total() > 1:
                display.line(self._summary.summary(display.seconds))

    def _unsettled(self, jobs: Iterable[Job], display: ProgressDisplay) -> Iterator[Job]:
        """Those that are to be done; the others are reported."""
        for job in jobs:
            force = self._options.force and job.error is None
            outcome = None if force else self._files.existing_outcome(job)
            if outcome is None:
                self._places.setdefault(job.target.parent, job)
                yield job
            else:
                self._report([outcome], display)

    def _display(self, images: int) -> ProgressDisplay:
        animate = not self._options.dry_run and terminal_can_animate()
        return ProgressDisplay(images, animate=animate, quiet=self._options.quiet)

    def _do(self, jobs: Iterable[Job], display: ProgressDisplay) -> None:
        with closing(self._outcomes(jobs, display)) as outcomes:
            for outcome in outcomes:
                self._files.ended(outcome)
                self._report([outcome], display)

    @contextmanager
    def _events(self) -> Iterator[None]:
        """With --json, the first and the last object of a run over more than one image."""
        if not self._options.as_objects or (self._jobs is not None and len(self._jobs) == 1):
            yield
            return
        started = time.monotonic()
        click.echo(start_event(None if self._jobs is None else len(self._jobs), self._model.name))
        complete = False
        try:
            yield
            complete = True
        finally:
            click.echo(end_event(self._summary, time.monotonic() - started, complete=complete))

    def _outcomes(self, jobs: Iterable[Job], display: ProgressDisplay) -> Generator[Outcome, None, None]:
        try:
            if self._executor is None:
                stages = Stages(self._files.read, partial(self._prepare, display), self._files.write)
                yield from run_stages(jobs, stages)
                return
            for outcome in run_on(self._executor, self._work, jobs):
                display.done(outcome.job.source.name)
                yield outcome
        finally:
            self._files.close()
            if self._executor is not None or self._options.shard is not None:
                self._files.tidy(self._places.values() if self._jobs is None else self._jobs)

    def _prepare(self, display: ProgressDisplay) -> Restore:
        single = self._jobs[0].source if self._jobs and len(self._jobs) == 1 else STREAM
        pixels = None if single == STREAM else pixels_of(single)
        # it may import torch: meanwhile the first image is being read
        denoiser = self._work.denoiser(self._options.device, pixels)
        return partial(self._restore, denoiser, display)

    def _restore(self, denoiser: Denoiser, display: ProgressDisplay, job: Job, image: DecodedImage) -> ImageStats:
        display.begin("stdin" if job.source == STREAM else job.source.name, denoiser.passes)
        return self._work.restored(denoiser, self._files, job, image, display.advance)

    def _report(self, outcomes: Iterable[Outcome], display: ProgressDisplay) -> None:
        for outcome in outcomes:
            self._summary.add(outcome)
            if self._options.provenance and outcome.status == "done":
                provenance.write(
                    outcome, self._model, settings_of(self._options, self._model), shlex.join(["med", *sys.argv[1:]])
                )
            if self._options.as_objects:
                click.echo(as_json(outcome, self._model.name))
            if outcome.error is None:
                lines = as_lines(outcome, self._model.name)
            else:
                alone = self._jobs is not None and len(self._jobs) == 1  # its error is raised
                lines = [] if alone else message_lines(outcome.error)
            for line in lines:
                display.line(line, error=outcome.error is not None)


def _load(model: Model, options: DenoiseOptions, device: str, pixels: int | None = None) -> Denoiser:
    from medcli.api import load_on

    return load_on(model, options, device, pixels)
