"""One run of `med synth-pairs`: checks of the options, the noise model of --like, the noisy copies, and the report."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import click

from medcli.batch.denoise.report import RunSummary
from medcli.batch.synth import run as synth
from medcli.batch.synth.learned_noise import FORTH, check_levels, open_model
from medcli.batch.synth.run import DEPTHS, NotatedNoise, PairManifest, SynthOptions, SynthOutcome
from medcli.cli import options
from medcli.cli.progress import ProgressDisplay, duration, message_lines, raise_for, say_unless, terminal_can_animate
from medcli.cpu import usable_cores
from medcli.data.folders import nested, skipped
from medcli.errors import InputError, ModelError, OutputError
from medcli.images.formats import FORMATS
from medcli.images.values import RangeChoice
from medcli.noise.notation import parse, parse_pool
from medcli.train.noise_model import PLACE, NoiseModelJob

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SynthPairsOptions:
    """The options of `med synth-pairs`, by the names of the parameters that click parses; None: not given.

    range: what was typed, after `chosen_range` a RangeChoice. option, config: NAME=VALUE.
    """

    clean: Path
    noisy: Path
    noise: str | None = None
    pool: str | None = None
    model: str | None = None
    like: Path | None = None
    minutes: float | None = None
    option: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    sigma: Span | None = None
    temperature: Span | None = None
    direction: str | None = None
    device: str | None = None
    seed: int = 0
    count: int = 1
    depth: str | None = None
    format: str | None = None
    range: RangeChoice = "auto"
    range_from: Path | None = None
    processes: int | None = None
    threads: int | None = None
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    def noise_source(self) -> synth.NoiseSource:
        """Raises RecipeError for what is no noise or pool, ModelError for what is no noise model."""
        if not self.model:
            return NotatedNoise(parse(self.noise) if self.noise else parse_pool(self.pool or "noise"))
        return open_model(
            self.model,
            direction=self.direction or FORTH,
            sigma=self.sigma,
            temperature=self.temperature or (1.0, 1.0),
            device=self.device or "auto",
        )

    def check(self) -> None:
        """Raises UsageError for options that exclude each other or would have no effect."""
        if self.depth and self.format and DEPTHS[self.depth] not in FORMATS[self.format].depths:
            raise click.UsageError(f"{self.format.upper()} cannot hold --depth {self.depth}. TIFF can: --format tiff")
        if sum(map(bool, (self.noise, self.pool, self.model or self.like))) > 1:
            raise click.UsageError(
                "Say what to add: --noise SPEC, --pool NAME, --model NAME or --like DIR, one of them."
            )
        if not self.like and (self.minutes is not None or self.option or self.config):
            raise click.UsageError("--minutes, --option and --config need a folder to learn from: --like DIR.")
        if self.like and self.direction == "noisy-to-clean":
            raise click.UsageError("--like learns how images become noisy. Later, --model takes the other direction.")
        of_model = (self.sigma, self.temperature, self.direction, self.device)
        if not (self.like or self.model) and of_model != (None,) * 4:
            raise click.UsageError("--sigma, --temperature, --direction and --device need a --model or --like.")


def run_synth_pairs(given: SynthPairsOptions) -> None:
    """Raises UsageError, MedcliError, and SomeFailed where some are done and others failed."""
    given.check()
    given = replace(given, range=options.chosen_range(given.range, given.range_from))
    tasks = synth.plan(given.clean, given.noisy, count=given.count, depth=given.depth, format=given.format)
    ready = True
    if given.like is not None:
        job = _noise_model_job(given, given.like)
        ready = _train_noise_model(job, given)
        given = replace(given, model=str(job.place))
    processes = min(given.processes or given.threads or usable_cores(), len(tasks))
    outcomes: Generator[SynthOutcome, None, None]
    if not ready:  # the noise is not known yet, and all is still to be done
        outcomes = (SynthOutcome(task, "planned") for task in tasks)
    else:
        synth_options = SynthOptions(
            given.clean, given.noisy, given.noise_source(), given.seed, given.count, given.depth, given.format,
            given.overwrite, given.range,
        )  # fmt: skip
        outcomes = (
            synth.dry_run(synth_options, tasks) if given.dry_run else synth.synthesise(synth_options, tasks, processes)
        )
    with (
        ProgressDisplay(len(tasks), animate=terminal_can_animate(), quiet=given.quiet) as display,
        closing(outcomes),
    ):
        report(outcomes, given, len(tasks), processes, display, skipped([given.clean]))


def report(
    outcomes: Iterable[SynthOutcome],
    given: SynthPairsOptions,
    count: int,
    processes: int,
    display: ProgressDisplay,
    skipped: str = "",
) -> None:
    """Lines on each of `count` outcomes, and with a model the time that the others will take.

    skipped: other files in the folder, in words.

    Raises SomeFailed where some are done and others failed, MedcliError where none is done.
    """
    summary = RunSummary()
    for made in outcomes:
        display.begin(made.task.output)
        summary.counts[made.status] += 1
        if made.error is not None:
            summary.errors.append(made.error)
        for line in _lines(made, given):
            display.line(line, error=made.error is not None)
        left = count - sum(summary.counts.values())
        # after the first copy of a process that had loaded the model before
        if given.model and left and made.status == "done" and summary.counts["done"] == processes + 1:
            each = made.seconds / processes
            display.line(f"about {each:.2g} s an image, {duration(left * each)} for the {left} that are left")
        display.advance(1, 1)
    display.line("; ".join(filter(None, (summary.summary(display.seconds), skipped))))
    raise_for(summary.errors, count, "noisy copies", "made")


def _lines(made: SynthOutcome, given: SynthPairsOptions) -> list[str]:
    """One line on an image, and one for each conversion."""
    if made.error is not None:
        return message_lines(made.error)
    paths = f"{given.clean / made.task.source} -> {given.noisy / made.task.output}"
    if made.status != "done" or made.row is None:
        return [f"{paths}: {'up to date' if made.status == 'skipped' else 'to do'}"]
    return [f"{paths}: {made.row.drawn}, {made.row.protocol}", *(f"  note: {note}" for note in made.notes)]


def _noise_model_job(given: SynthPairsOptions, like: Path) -> NoiseModelJob:
    """All is checked before hours of training, not after them.

    Raises InputError for images that would be noisy and clean at once, ModelError for a start that is no noise model,
    RecipeError for impossible ranges, OutputError for a broken manifest.
    """
    place = given.noisy / PLACE
    for flag, folder in (("--from", given.clean), ("--to", given.noisy)):
        if nested(like, folder):
            problem = f"The folders of --like and {flag} must be apart: {like} and {folder}."
            raise InputError(problem, "Neither may lie in the other.")
    PairManifest(given.noisy)
    check_levels(given.sigma or (0.0, 0.0), given.temperature or (1.0, 1.0))
    if given.model:
        from medcli.zoo.model import find_model

        given.noise_source()
        if find_model(given.model).path.resolve().is_relative_to(place.resolve()):
            problem = (
                f"{given.model} is the noise model of this very folder, and cannot be the start of another one there."
            )
            raise ModelError(problem, "Choose another --to.")
    return NoiseModelJob(
        like, given.clean, place, given.model or "", given.minutes, options.assigned(given.option, "--option"),
        options.assigned(given.config, "--config"), given.device or "auto", str(given.range),
    )  # fmt: skip


def _train_noise_model(job: NoiseModelJob, given: SynthPairsOptions) -> bool:
    """Whether the model is there in the end: not in a dry run, which trains nothing.

    Raises OutputError for a model that was trained on something else, unless it may be overwritten.
    """
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.noise_model import FEWEST, begin, drafted, frozen, job_state, learn
    from medcli.zoo.modelcard import portable

    say, inputs = say_unless(given.quiet), job.inputs()
    found = job_state(job, inputs)
    anew = found.state == "new" or bool(found.strange)
    if found.state != "new" and found.strange and not given.overwrite:
        raise OutputError(
            f"{job.place} has learned from something else: there is a change in {found.strange}.",
            f"Add --overwrite to learn anew, choose another --to, or take it as it is with --model {job.place}.",
        )
    if not anew and found.differs:
        say("other clean images than the noise was learned beside: it stays as it is")
    if found.state == "done" and not anew:
        say(f"the noise of {job.noisy} is known: {job.place}")
        return True
    if given.dry_run:
        say(f"would {'learn' if anew else 'go on learning'} the noise of {job.noisy} first, in {job.place}")
        return False
    if anew:
        say(f"learning the noise of {job.noisy}; trying how fast that goes here ...")
        recipe, seconds, misfits = drafted(job, say)
        hint = " (--minutes sets another time)" if job.minutes is None else ""
        say(f"{recipe.steps:,} steps of {seconds:.2g} s: about {duration(recipe.steps * seconds)}{hint}")
        if recipe.steps < FEWEST:
            say(f"  note: less than {FEWEST} steps teach little about noise")
        if misfits:
            say(f"  note: noise is learned for either gray or colour: {misfits} images of --from will get no copies")
        begin(job, inputs)
    else:
        recipe = frozen(job)
    keep_freed_memory()
    with TrainDisplay(recipe.steps, quiet=given.quiet) as display:
        learn(recipe, job, portable(["med", *sys.argv[1:]]), display.report, display.say)
    image = job.place / "noise.png"
    shown = f"; {image} shows it beside the real one" if image.exists() else ""
    say(f"the noise of {job.noisy} is learned{shown}")
    return True
