"""`med synth-pairs`: a folder of clean images becomes a folder of their noisy mates, with a manifest."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.noise_model import prepare
from medcli.cli.progress import ProgressDisplay, duration, message_lines, terminal_can_animate
from medcli.cpu import usable_cores
from medcli.errors import InputError, MedcliError, ModelError, SomeFailed

if TYPE_CHECKING:
    from medcli.batch.denoise.report import RunSummary
    from medcli.batch.synth.run import NoiseSource, SynthOptions, SynthOutcome, SynthTask
    from medcli.train.noise_model import NoiseModelJob

HELP = """Make the noisy mate of every clean image, under the same relative name.

\b
Examples:
  med synth-pairs --from clean/ --to noisy/                       the pool 'noise'
  med synth-pairs --from clean/ --to noisy/ --noise gaussian:25
  med synth-pairs --from clean/ --to noisy/ --pool mine.yaml --count 4 --seed 1
  med synth-pairs --from clean/ --to noisy/ --like mine/          noise as in your own noisy images, of any scenes
  med synth-pairs --from clean/ --to noisy/ --model run/          noise that was learned before
  med eval -m photo --clean clean/ --noisy noisy/                 what they are good for

Noise is added in float to the colours, never to alpha. Integers are clipped to black and white after the last component
and rounded; floats are neither. For a clip in between, write it: gaussian:25+clip+speckle:25. Depth, gray, alpha,
profile and metadata come back as they were.

\b
Names and formats:
  PNG, TIFF, BMP   keep their name and format, if it can hold the depth
  JPEG, WebP       become .png: compressed noise would be another noise
  --count N        one folder per draw, 0000/ to N-1, each a whole mirror of the clean folder, so that
                   'med eval' and 'med train' pair each of them by name
  pairs.jsonl      one line per output: source, noise drawn with its parameters, seed, number of the
                   draw, SHA-256 of both files, protocol, version

A draw depends on the seed, the noise and the image's relative name alone: neither the number of processes nor what
else is in the folder changes it. Draw 0 is what 'med eval --noise SPEC' adds to the same image with the same seed.

Run it again to go on where a run was stopped: mates that are up to date (same noise, seed, depth and clean file) are
skipped, other results of its own are made again. Files of anybody else are not replaced without --overwrite.

\b
Noise as in your own images:
  --like           learns the noise of the images in a folder first, beside the clean ones, which may show anything
                   else; how long that takes is measured and said. The model stays in TO/.noise-model, with an image
                   of its noise beside the real one, and --model takes it later. Stopped at any moment, the same
                   command goes on. A model that has learned from other images or settings is never used for these:
                   --overwrite learns anew
  --minutes        of learning  [default: the steps of the recipe 'ludvae', whatever they take]
  -m, --model      a model to start from: less is to be learned
  --option, --config  as of 'med train --method ludvae': match=true, width=16 ...

\b
A model instead of a noise, or after --like:
  --sigma          of the white noise under which the model reads what an image shows: the higher, the more noise
                   comes out  [default: from the model's sigma_y, which gives what was learned, to its sigma_x]
  --temperature    factor on what the model draws: 1 as learned, 0 for none
  --direction      noisy-to-clean makes the clean mates of noisy images  [default: clean-to-noisy]

Every option can be set in the environment: MED_SYNTH_PAIRS_SEED, ...
"""

RANGE = re.compile(r"(\d+\.?\d*|\.\d+)(?:-(\d+\.?\d*|\.\d+))?")


@dataclass(frozen=True)
class Learned:
    """What was said of a noise model. sigma, temperature: None for the usual."""

    model: str | None
    direction: str | None
    sigma: tuple[float, float] | None
    temperature: tuple[float, float] | None
    device: str | None


@dataclass(frozen=True)
class Taught:
    """What was said of noise to be learned first. option, config: NAME=VALUE."""

    like: Path | None
    minutes: float | None
    option: tuple[str, ...]
    config: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """clean, noisy: folders. count: of mates. processes: at work side by side. slow: whether their pace is told."""

    clean: Path
    noisy: Path
    count: int
    processes: int
    slow: bool


def span(value: str) -> tuple[float, float]:
    """`25` or `5-50`: a number, 0 or more, or two of them."""
    if not (match := RANGE.fullmatch(value)):
        raise click.BadParameter(f"'{value}' is neither a number such as 25 nor a range such as 5-50.")
    return float(match[1]), float(match[2] or match[1])


@click.command(name="synth-pairs", help=HELP, epilog=EXIT_CODES)
@click.option(
    "--from",
    "clean",
    required=True,
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Folder of clean images, with its subfolders.",
)
@click.option(
    "--to",
    "noisy",
    required=True,
    type=options.FOLDER,
    metavar="DIR",
    help="Folder for their mates; neither may lie in the other.",
)
@click.option("--noise", metavar="SPEC", help="Noise to add, such as gaussian:25 or poisson:30+gaussian:5-10.")
@click.option(
    "--pool",
    type=options.name_or_path,
    metavar="NAME|YAML",
    help="Noises to draw from, one per image.  [default: noise]",
)
@click.option(
    "-m",
    "--model",
    type=options.name_or_path,
    shell_complete=options.complete_model,
    metavar="NAME|PATH",
    help="A learned noise.",
)
@click.option(
    "--like",
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Folder of noisy images whose noise to learn.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="With --like.  [default: see above]")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="With --like: of the method.")
@click.option("--config", multiple=True, metavar="NAME=VALUE", help="With --like: of the network.")
@click.option("--sigma", type=span, metavar="LOW-HIGH", help="Of a model: in grey levels.  [default: see above]")
@click.option("--temperature", type=span, metavar="LOW-HIGH", help="Of a model.  [default: 1]")
@click.option("--direction", type=click.Choice(["clean-to-noisy", "noisy-to-clean"]), help="Of a model.")
@click.option("--device", type=options.device, metavar="DEVICE", help="Of a model.  [default: auto]")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other noise.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Draws per image.")
@click.option("--depth", type=click.Choice(["8", "16", "float"]), help="Of the mates.  [default: as the clean file]")
@click.option(
    "--format", "format_", type=options.ImageFormat(["png", "tiff", "bmp"]), help="Of mates.  [default: as above]"
)
@options.ranges
@click.option("--processes", type=click.IntRange(min=1), metavar="N", help="At work side by side.  [default: cores]")
@options.threads(exposed=True, help="Of learning with --like, and the default of --processes.  [default: cores]")
@click.option("--overwrite", is_flag=True, help="Replace files of anybody; make again what is up to date.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
def command(
    clean: Path,
    noisy: Path,
    noise: str | None,
    pool: str | None,
    model: str | None,
    like: Path | None,
    minutes: float | None,
    option: tuple[str, ...],
    config: tuple[str, ...],
    sigma: tuple[float, float] | None,
    temperature: tuple[float, float] | None,
    direction: str | None,
    device: str | None,
    seed: int,
    count: int,
    depth: str | None,
    format_: str | None,
    range_: str,
    range_from: Path | None,
    processes: int | None,
    threads: int | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    from medcli.batch.synth.run import SynthOptions, plan
    from medcli.data.folders import skipped

    _check(depth, format_)
    learned, taught = Learned(model, direction, sigma, temperature, device), Taught(like, minutes, option, config)
    _refuse_mixtures(noise, pool, learned, taught)
    values = options.chosen_range(range_, range_from)
    tasks = plan(clean, noisy, count=count, depth=depth, format=format_)
    if like is not None:
        job = replace(_lesson(clean, noisy, like, taught, learned), range=str(values))
        ready = prepare(job, overwrite=overwrite, dry_run=dry_run, quiet=quiet)
        learned = replace(learned, model=str(job.place))
    noise_source = _drawer(noise, pool, learned) if like is None or ready else None
    processes = min(processes or threads or usable_cores(), len(tasks))
    work = Work(clean, noisy, len(tasks), processes, slow=bool(learned.model))
    order = (
        SynthOptions(clean, noisy, noise_source, seed, count, depth, format_, overwrite, values)
        if noise_source
        else None
    )
    made = _outcomes(order, tasks, work.processes, dry_run=dry_run)
    with ProgressDisplay(len(tasks), animate=terminal_can_animate(), quiet=quiet) as display, closing(made):
        tell_all(made, work, display, skipped([clean]))


def _refuse_mixtures(noise: str | None, pool: str | None, learned: Learned, taught: Taught) -> None:
    """Refuses what contradicts itself, or would be passed over."""
    if sum(map(bool, (noise, pool, learned.model or taught.like))) > 1:
        raise click.UsageError("Say what to add: --noise SPEC, --pool NAME, --model NAME or --like DIR, one of them.")
    if not taught.like and taught != Taught(None, None, (), ()):
        raise click.UsageError("--minutes, --option and --config need a folder to learn from: --like DIR.")
    if taught.like and learned.direction == "noisy-to-clean":
        raise click.UsageError("--like learns how images become noisy. Later, --model takes the other direction.")
    if not (taught.like or learned.model) and learned != Learned(None, None, None, None, None):
        raise click.UsageError("--sigma, --temperature, --direction and --device need a --model or --like.")


def _check(depth: str | None, format_: str | None) -> None:
    """Refuses a depth that the format cannot hold."""
    from medcli.batch.synth.run import DEPTHS
    from medcli.images.formats import FORMATS

    if depth and format_ and DEPTHS[depth] not in FORMATS[format_].depths:
        raise click.UsageError(f"{format_.upper()} cannot hold --depth {depth}. TIFF can: --format tiff")


def _drawer(noise: str | None, pool: str | None, learned: Learned) -> NoiseSource:
    """Raises RecipeError for what is no noise or pool, ModelError for what is no noise model."""
    if learned.model:
        return _learned(learned, learned.model)
    from medcli.batch.synth.run import NotatedNoise
    from medcli.noise.notation import parse, parse_pool

    return NotatedNoise(parse(noise) if noise else parse_pool(pool or "noise"))


def _lesson(clean: Path, noisy: Path, like: Path, taught: Taught, learned: Learned) -> NoiseModelJob:
    """What is wrong is told before hours of learning, not after them.

    Raises InputError for images that would be noisy and clean at once, ModelError for a start without noise,
    RecipeError for a range that makes no sense, OutputError for a manifest that is none.
    """
    from medcli.batch.synth.learned_noise import check_levels
    from medcli.batch.synth.run import PairManifest
    from medcli.data.folders import nested
    from medcli.train.noise_model import PLACE, NoiseModelJob

    for flag, folder in (("--from", clean), ("--to", noisy)):
        if nested(like, folder):
            problem = f"The folders of --like and {flag} must be apart: {like} and {folder}."
            raise InputError(problem, "Neither may lie in the other.")
    PairManifest(noisy)
    check_levels(learned.sigma or (0.0, 0.0), learned.temperature or (1.0, 1.0))
    if learned.model:
        _refuse_start(learned, learned.model, noisy / PLACE)
    return NoiseModelJob(
        like,
        clean,
        noisy / PLACE,
        learned.model or "",
        taught.minutes,
        options.assigned(taught.option, "--option"),
        options.assigned(taught.config, "--config"),
        learned.device or "auto",
    )


def _refuse_start(learned: Learned, model: str, place: Path) -> None:
    """A start must make noise, and lie where it is not overwritten."""
    from medcli.zoo.model import find_model

    _learned(learned, model)
    if find_model(model).path.resolve().is_relative_to(place.resolve()):
        problem = f"{model} is the noise model of this very folder, and cannot be the start of another one there."
        raise ModelError(problem, "Choose another --to.")


def _learned(learned: Learned, model: str) -> NoiseSource:
    from medcli.batch.synth.learned_noise import FORTH, open_model

    return open_model(
        model,
        direction=learned.direction or FORTH,
        sigma=learned.sigma,
        temperature=learned.temperature or (1.0, 1.0),
        device=learned.device or "auto",
    )


def _outcomes(
    order: SynthOptions | None, tasks: Sequence[SynthTask], processes: int, *, dry_run: bool
) -> Generator[SynthOutcome, None, None]:
    """order: None where the noise is not known yet, and all is still to be done."""
    from medcli.batch.synth import run as synth

    if order is None:
        return (synth.SynthOutcome(task, "planned") for task in tasks)
    return synth.dry_run(order, tasks) if dry_run else synth.synthesise(order, tasks, processes)


def tell_all(outcomes: Iterable[SynthOutcome], work: Work, display: ProgressDisplay, skipped: str = "") -> None:
    """skipped: other files in the folder, in words.

    Raises SomeFailed where some are done and others failed, MedcliError where none is done."""
    from medcli.batch.denoise.report import RunSummary

    run_summary = RunSummary()
    for made in outcomes:
        display.begin(made.task.output)
        run_summary.counts[made.status] += 1
        if made.error is not None:
            run_summary.errors.append(made.error)
        for line in [*_lines(made, work), *_pace(run_summary, made, work)]:
            display.line(line, error=made.error is not None)
        display.advance(1, 1)
    display.line("; ".join(filter(None, (run_summary.summary(display.seconds), skipped))))
    _conclude(run_summary.errors, work.count)


def _lines(made: SynthOutcome, work: Work) -> list[str]:
    """One line on an image, and one for each thing that was converted on its way."""
    if made.error is not None:
        return message_lines(made.error)
    way = f"{work.clean / made.task.source} -> {work.noisy / made.task.output}"
    if made.status != "done" or made.row is None:
        return [f"{way}: {'up to date' if made.status == 'skipped' else 'to do'}"]
    return [f"{way}: {made.row.drawn}, {made.row.protocol}", *(f"  note: {note}" for note in made.notes)]


def _pace(run_summary: RunSummary, made: SynthOutcome, work: Work) -> list[str]:
    """A line on how long the others will take, after the first mate of a process that had loaded the model before."""
    left = work.count - sum(run_summary.counts.values())
    if not (work.slow and left and made.status == "done" and run_summary.counts["done"] == work.processes + 1):
        return []
    each = made.seconds / work.processes
    return [f"about {each:.2g} s an image, {duration(left * each)} for the {left} that are left"]


def _conclude(errors: Sequence[MedcliError], count: int) -> None:
    why = "\n".join(error.problem for error in errors)
    if errors and len(errors) == count:
        raise MedcliError(f"None of {count} noisy mates could be made:", why)
    if errors:
        raise SomeFailed(f"{len(errors)} of {count} noisy mates failed:", why)
