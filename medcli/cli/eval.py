"""`med eval`: models, classical denoisers and the noisy input itself, measured against clean images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.options import TileSize
from medcli.cli.progress import ProgressDisplay, terminal_can_animate
from medcli.errors import SomeFailed

if TYPE_CHECKING:
    from medcli.batch.evaluate.run import EvaluatedMethod
    from medcli.batch.evaluate.tables import Protocol, Table
    from medcli.batch.pairs import FilePairs, Pixels, SyntheticPairsFromFiles
    from medcli.engine.denoiser import Denoiser
    from medcli.images.values import RangeChoice, ValueRange
    from medcli.metrics import Metric
    from medcli.noise.base import Noise
    from medcli.zoo.model import Model

HELP = """Measure denoisers on images whose clean mate is known.

\b
Examples:
  med eval -m photo --clean kodak/ --noise gaussian:25
  med eval -m photo -m run/ --classical bm3d --clean kodak/ --noise gaussian:15 --noise noise
  med eval -m photo --clean real/clean/ --noisy real/noisy/ --markdown scores.md

The noisy input is always the first row. Every table says how its numbers were made: the noise, whether it was clipped
or rounded, and what was scored. Figures are the mean over images, ± their standard deviation; a gain is PSNR over
that of the noisy input.

\b
Where the noisy images come from:
  --noise SPEC   noise is added to the clean ones in float; may be given again, one table each
  --noisy DIR    pairs of files, matched by relative path; the extension may differ

\b
Metrics:
  psnr           in dB, over all channels, always there
  ssim           11x11 Gaussian window, sigma 1.5, population covariance
  ssim7          7x7 uniform window, sample covariance: scikit-image's own choice
  ms-ssim        five scales; sides of at least 176 pixels
  lpips, fid     lower is better; only with weights that are on this machine, nothing is downloaded

Figures are measured where the range of the values, as 'med denoise' finds it or --range says, is [0, 1]: PSNR has its
width for a peak. Both images of a pair are put on one scale, and clipped to it.
Pixels that mean nothing in one of them (NaN, infinity, GDAL's nodata, --nodata VALUE) do not count in PSNR, nor do
SSIM's windows around them.

A draw of noise depends on the seed, the noise and the image's relative name alone, so neither order nor number of
files changes it.
"""
CLASSICAL = ("bm3d", "nlm", "wavelet")


@dataclass(frozen=True)
class EvalOptions:
    """Which images, and what is done to them before anything is measured. round: None for what is usual.

    range: which of their values are black and white. nodata: which means nothing, None for that of each file.
    """

    clean: Path
    noisy: Path | None
    noise: tuple[str, ...]
    clip: bool | None
    round: bool | None
    seed: int
    limit: int | None
    range: RangeChoice = "auto"
    nodata: float | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How models are run."""

    device: str
    precision: str
    ensemble: bool
    strength: float
    tile: TileSize

    def load(self, names: Iterable[str], say: Callable[[str], None]) -> list[tuple[Model, Denoiser]]:
        """Each model once, in the order of their names; `say` hears of fetching. Raises ModelError, DeviceError."""
        from medcli.api import load
        from medcli.zoo.model import find_model

        found = [find_model(name, say) for name in dict.fromkeys(names)]
        loaded = partial(load, device=self.device, precision=self.precision, tile=self.tile, ensemble=self.ensemble)
        return [(model, loaded(model)) for model in found]

    def methods(self, models: Iterable[tuple[Model, Denoiser]], display: ProgressDisplay) -> list[EvaluatedMethod]:
        from medcli.batch.evaluate.run import EvaluatedMethod

        return [
            EvaluatedMethod(
                model.name, _warned(model, partial(each, strength=self.strength, progress=display.advance), display)
            )
            for model, each in models
        ]

    def words(self, models: Sequence[tuple[Model, Denoiser]]) -> str:
        """How the models were run, for the protocol; empty without models."""
        if not models:
            return ""
        device = models[0][1].device
        passes = ", eight flips and turns" if self.ensemble else ""
        return f"models on {device}, precision {self.precision}, strength {self.strength:g}{passes}"


def _warned(
    model: Model, restore: Callable[..., Pixels], display: ProgressDisplay
) -> Callable[[Pixels, ValueRange], Pixels]:
    """The same, with a line at the first gray image where the model is known not to restore them."""
    from medcli.images.decoded_image import is_gray

    warnings = iter(filter(None, [model.gray_warning]))

    def method(noisy: Pixels, values: ValueRange) -> Pixels:
        if is_gray(noisy) and (line := next(warnings, "")):
            display.line(line)
        return restore(noisy, values=values)

    return method


@dataclass(frozen=True)
class OutputFiles:
    """Where the results go besides standard output."""

    csv: Path | None
    json: Path | None
    markdown: Path | None

    def write(self, tables: Sequence[Table]) -> None:
        """Each file whole, with all tables so far; raises OutputError."""
        from medcli.batch.evaluate.tables import as_csv, as_json, markdown
        from medcli.files.atomic import atomic_write

        for path, form in ((self.csv, as_csv), (self.json, as_json), (self.markdown, markdown)):
            if path is not None:
                with atomic_write(path) as file:
                    file.write(form(tables).encode())


@click.command(name="eval", help=HELP, epilog=EXIT_CODES)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    type=options.name_or_path,
    metavar="NAME|FILE",
    shell_complete=options.complete_model,
    help="A model's name, a weight file or a run's folder; may be given again.",
)
@click.option(
    "--clean",
    required=True,
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Folder of clean images, with its subfolders.",
)
@click.option(
    "--noisy",
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Folder of their noisy mates.",
)
@click.option("--noise", multiple=True, metavar="SPEC", help="Noise to add, such as gaussian:25; may be given again.")
@click.option("--clip/--no-clip", default=None, help="Clip to [0, 1] after each component of --noise.  [default: no]")
@click.option(
    "--round/--no-round",
    "rounded",
    default=None,
    help="Give methods, and score, integers: 8 bits with --noise, the file's with --noisy.  [default: with --noisy]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many images, spread evenly.")
@click.option("--metrics", default="psnr,ssim,ssim7", show_default=True, metavar="LIST", help="Separated by commas.")
@click.option(
    "--classical",
    multiple=True,
    type=click.Choice(CLASSICAL),
    help="A denoiser that was not trained; may be given again.",
)
@click.option("--csv", type=options.FILE, metavar="FILE", help="One line per image.")
@click.option("--json", type=options.FILE, metavar="FILE", help="All there is.")
@click.option("--markdown", type=options.FILE, metavar="FILE", help="The tables.")
@click.option("--device", type=options.device, metavar="DEVICE", default="auto", show_default=True, help="For models.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "fp16", "bf16"]), default="auto", show_default=True)
@click.option("--ensemble", is_flag=True, help="Models answer with the mean over eight flips and turns.")
@click.option("--strength", type=options.strength, default=1.0, show_default="1", metavar="0..1", help="Of models.")
@click.option("--tile", type=options.tile, metavar="auto|N|0", default="auto", show_default=True, help="Of models.")
@options.threads()
@options.ranges
@options.nodata
@click.option("-q", "--quiet", is_flag=True, help="No bar; only tables and errors.")
def command(
    models: tuple[str, ...],
    clean: Path,
    noisy: Path | None,
    noise: tuple[str, ...],
    clip: bool | None,
    rounded: bool | None,
    seed: int,
    limit: int | None,
    metrics: str,
    classical: tuple[str, ...],
    csv: Path | None,
    json: Path | None,
    markdown: Path | None,
    device: str,
    precision: str,
    ensemble: bool,
    strength: float,
    tile: TileSize,
    range_: str,
    range_from: Path | None,
    nodata: float | None,
    quiet: bool,
) -> None:
    from medcli.batch.evaluate.run import evaluate
    from medcli.batch.evaluate.tables import Table
    from medcli.data.folders import skipped, unreadable
    from medcli.zoo.fetch import ignore

    values = options.chosen_range(range_, range_from, nodata)
    request = EvalOptions(clean, noisy, noise, clip, rounded, seed, limit, values, nodata)
    _check(request)
    rulers, fid = _rulers(metrics)
    tasks = [EvalTask(each, pairs, _baselines(classical, each)) for each, pairs in _sources(request)]
    machine = EngineOptions(device, precision, ensemble, strength, tile)
    loaded = machine.load(models, ignore if quiet else partial(click.echo, err=True))
    tables: list[Table] = []
    for task in tasks:
        steps = len(task.pairs) * (1 + len(loaded) + len(task.baselines))
        with ProgressDisplay(steps, animate=terminal_can_animate(), quiet=quiet) as display:
            methods = [*machine.methods(loaded, display), *task.baselines]
            result = evaluate(task.pairs, methods, rulers, fid=fid, begin=display.begin)
        tables.append(Table(_protocol(request, task, machine.words(loaded)), result))
        _show(tables[-1], first=len(tables) == 1)
        OutputFiles(csv, json, markdown).write(tables)
    folders = [folder for folder in (clean, noisy) if folder is not None]
    if (others := skipped(folders)) and not quiet:
        click.echo(others, err=True)
    if locked := unreadable(folders):
        why = "\n".join(error.problem for error in locked)
        raise SomeFailed(f"The images of {len(locked)} folders are left out:", why)


@dataclass(frozen=True)
class EvalTask:
    """What one table is about. noise: None where both images of a pair come from files."""

    noise: Noise | None
    pairs: SyntheticPairsFromFiles | FilePairs
    baselines: Sequence[EvaluatedMethod]


def _check(request: EvalOptions) -> None:
    """Refuses combinations that contradict themselves."""
    if bool(request.noise) == (request.noisy is not None):
        raise click.UsageError("Say where the noisy images come from: --noise SPEC or --noisy DIR, one of them.")
    if request.noisy is not None and request.clip is not None:
        raise click.UsageError("--clip and --no-clip say how --noise is added; the files of --noisy are as they are.")
    if request.clip is False and request.round and request.noise:
        raise click.UsageError("--round makes 8-bit images, which end at black and white: leave --no-clip out.")


def _rulers(names: str) -> tuple[dict[str, Metric], bool]:
    """(metrics by name, whether FID is asked for); raises MedcliError for unknown ones and for what they lack."""
    from medcli.metrics import FID, PER_IMAGE, Fid, check_names

    asked = tuple(dict.fromkeys(("psnr", *(name.strip() for name in names.split(",") if name.strip()))))
    check_names(asked)
    if FID in asked:
        Fid()  # what it lacks is said before the work, not after it
    return {name: PER_IMAGE[name].make() for name in asked if name != FID}, FID in asked


def _sources(request: EvalOptions) -> Iterator[tuple[Noise | None, SyntheticPairsFromFiles | FilePairs]]:
    from medcli.batch.pairs import FilePairs, SyntheticPairsFromFiles, thinned
    from medcli.data.folders import images_in, matched
    from medcli.noise.notation import parse

    if request.noisy is not None:
        names = thinned(matched(request.noisy, request.clean), request.limit)
        rounded = request.round is not False
        yield None, FilePairs(request.noisy, request.clean, names, rounded, request.range, request.nodata)
        return
    images = thinned(images_in(request.clean), request.limit)
    rounded = bool(request.round)
    for noise in map(parse, request.noise):
        clip = bool(request.clip)
        pairs = SyntheticPairsFromFiles(
            request.clean, images, noise, request.seed, clip, rounded, request.range, request.nodata
        )
        yield noise, pairs


def _baselines(names: Iterable[str], noise: Noise | None) -> list[EvaluatedMethod]:
    from medcli.batch.evaluate.run import baseline

    return [baseline(name, noise) for name in dict.fromkeys(names)]


def _protocol(request: EvalOptions, task: EvalTask, models: str) -> Protocol:
    from medcli.batch.evaluate.tables import Protocol

    return Protocol(
        noise="" if task.noise is None else str(task.noise),
        images=str(request.clean if request.noisy is None else request.noisy),
        against=str(request.clean),
        count=len(task.pairs),
        clip=bool(request.clip),
        round=task.pairs.round,
        seed=request.seed,
        models=models,
        range=str(request.range),
    )


def _show(table: Table, *, first: bool) -> None:
    """On standard output: drawn on a terminal, Markdown elsewhere."""
    from medcli.batch.evaluate.tables import cells, markdown

    click.echo("" if first else "\n", nl=False)
    if not sys.stdout.isatty():
        click.echo(markdown([table]), nl=False)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text  # as it is: a file name may look like markup

    headings, rows = cells(table)
    drawn = Drawn(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for place, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="right" if place else "left", overflow="fold")
    for name, *figures in rows:
        drawn.add_row(Text(name), *(Text(figure.replace(" ± ", "\n±")) for figure in figures))
    console = Console()
    console.print(Text(table.protocol.sentence()))
    console.print(drawn)
