"""One run of `med eval`: checks of the options, pairs, methods and metrics, one table for each noise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text  # as it is: a file name may look like markup

from medcli.api import load_model
from medcli.batch.evaluate.run import EvaluatedMethod, baseline, evaluate
from medcli.batch.evaluate.tables import Protocol, Table, as_csv, as_json, cells, markdown
from medcli.batch.pairs import FilePairs, Pixels, SyntheticPairsFromFiles, thinned
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, say_unless, terminal_can_animate
from medcli.data.folders import images_in, matched, skipped, unreadable
from medcli.engine.denoiser import Denoiser
from medcli.engine.options import EngineOptions
from medcli.errors import SomeFailed
from medcli.files.atomic import atomic_write
from medcli.images.decoded_image import is_gray
from medcli.images.values import ValueRange
from medcli.metrics import FID, PER_IMAGE, Fid, Metric, check_names
from medcli.noise.base import Noise
from medcli.noise.notation import parse
from medcli.zoo.model import Model, find_model


@dataclass(frozen=True, kw_only=True)
class EvalOptions(EngineOptions):
    """The options of `med eval`, by the names of the parameters that click parses.

    rounded: None for the default. range: what was typed, after `chosen_range` a RangeChoice.
    """

    models: tuple[str, ...]
    clean: Path
    noisy: Path | None
    noise: tuple[str, ...]
    clip: bool | None
    rounded: bool | None
    noise_seed: int
    limit: int | None
    metrics: str
    classical: tuple[str, ...]
    csv: Path | None
    json: Path | None
    markdown: Path | None
    strength: float
    range_from: Path | None
    quiet: bool

    def check(self) -> None:
        """Raises UsageError for options that exclude each other."""
        if bool(self.noise) == (self.noisy is not None):
            raise click.UsageError("Say where the noisy images come from: --noise SPEC or --noisy DIR, one of them.")
        if self.noisy is not None and self.clip is not None:
            raise click.UsageError(
                "--clip and --no-clip say how --noise is added; the files of --noisy are as they are."
            )
        if self.clip is False and self.rounded and self.noise:
            raise click.UsageError("--round makes 8-bit images, which end at black and white: leave --no-clip out.")


@dataclass(frozen=True)
class EvalTask:
    """What one table is about. noise: None where both images of a pair come from files."""

    noise: Noise | None
    pairs: SyntheticPairsFromFiles | FilePairs
    baselines: Sequence[EvaluatedMethod]


def run_eval(options: EvalOptions) -> None:
    """Prints a table for each noise, and writes all so far to the files that are named. Raises MedcliError."""
    options = replace(options, range=chosen_range(options.range, options.range_from, options.nodata))
    options.check()
    metrics, fid = _metrics(options.metrics)
    classical = dict.fromkeys(options.classical)
    tasks = [EvalTask(noise, pairs, [baseline(name, noise) for name in classical]) for noise, pairs in _pairs(options)]
    models = [find_model(name, say_unless(options.quiet)) for name in dict.fromkeys(options.models)]
    engine = replace(options, range="auto", nodata=None)  # each pair has its own, see `medcli.batch.pairs`
    denoisers = [load_model(model, engine) for model in models]
    tables: list[Table] = []
    for task in tasks:
        steps = len(task.pairs) * (1 + len(denoisers) + len(task.baselines))
        with ProgressDisplay(steps, animate=terminal_can_animate(), quiet=options.quiet) as display:
            methods = [
                _method(model, denoiser, options, display) for model, denoiser in zip(models, denoisers, strict=True)
            ]
            result = evaluate(task.pairs, [*methods, *task.baselines], metrics, fid=fid, begin=display.begin)
        tables.append(Table(_protocol(options, task, denoisers), result))
        show(tables[-1], first=len(tables) == 1)
        for path, form in ((options.csv, as_csv), (options.json, as_json), (options.markdown, markdown)):
            if path is not None:
                with atomic_write(path) as file:
                    file.write(form(tables).encode())
    folders = [folder for folder in (options.clean, options.noisy) if folder is not None]
    if others := skipped(folders):
        say_unless(options.quiet)(others)
    if locked := unreadable(folders):
        why = "\n".join(error.problem for error in locked)
        raise SomeFailed(f"The images of {len(locked)} folders are left out:", why)


def _method(model: Model, denoiser: Denoiser, options: EvalOptions, display: ProgressDisplay) -> EvaluatedMethod:
    """With a line at the first gray image where the model is known not to restore them."""
    restore = partial(denoiser, strength=options.strength, progress=display.advance)
    warnings = iter([model.gray_warning] if model.gray_warning else [])

    def method(noisy: Pixels, values: ValueRange) -> Pixels:
        if is_gray(noisy) and (line := next(warnings, "")):
            display.line(line)
        return restore(noisy, values=values)

    return EvaluatedMethod(model.name, method)


def _metrics(names: str) -> tuple[Mapping[str, Metric], bool]:
    """(metrics by name, whether FID is wanted); raises MedcliError for unknown ones and for what they lack."""
    wanted = tuple(dict.fromkeys(("psnr", *(name.strip() for name in names.split(",") if name.strip()))))
    check_names(wanted)
    if FID in wanted:
        Fid()  # raises before the work, not after it
    return {name: PER_IMAGE[name].make() for name in wanted if name != FID}, FID in wanted


def _pairs(options: EvalOptions) -> Iterator[tuple[Noise | None, SyntheticPairsFromFiles | FilePairs]]:
    """Pairs for each table, with the noise that is added."""
    values, nodata = options.range, options.nodata
    if options.noisy is not None:
        names = thinned(matched(options.noisy, options.clean), options.limit)
        rounded = options.rounded is not False
        yield None, FilePairs(options.noisy, options.clean, names, rounded, values, nodata)
        return
    images = thinned(images_in(options.clean), options.limit)
    clip, rounded, seed = bool(options.clip), bool(options.rounded), options.noise_seed
    for noise in map(parse, options.noise):
        yield noise, SyntheticPairsFromFiles(options.clean, images, noise, seed, clip, rounded, values, nodata)


def _protocol(options: EvalOptions, task: EvalTask, denoisers: Sequence[Denoiser]) -> Protocol:
    models = ""
    if denoisers:
        passes = ", eight flips and turns" if options.ensemble else ""
        device, precision = denoisers[0].device, options.precision
        models = f"models on {device}, precision {precision}, strength {options.strength:g}{passes}"
    return Protocol(
        noise="" if task.noise is None else str(task.noise),
        images=str(options.clean if options.noisy is None else options.noisy),
        against=str(options.clean),
        count=len(task.pairs),
        clip=bool(options.clip),
        round=task.pairs.round,
        seed=options.noise_seed,
        models=models,
        range=str(options.range),
    )


def show(table: Table, *, first: bool) -> None:
    """On standard output: drawn on a terminal, Markdown elsewhere."""
    click.echo("" if first else "\n", nl=False)
    if not sys.stdout.isatty():
        click.echo(markdown([table]), nl=False)
        return
    headings, rows = cells(table)
    drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for index, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    for name, *figures in rows:
        drawn.add_row(Text(name), *(Text(figure.replace(" ± ", "\n±")) for figure in figures))
    console = Console()
    console.print(Text(table.protocol.sentence()))
    console.print(drawn)
