"""`med adapt`: a model learns from the noisy pictures, is judged by them, and the better one denoises them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.errors import InputError, OutputError

if TYPE_CHECKING:
    from medcli.batch.plan import Job
    from medcli.cli.training import Display
    from medcli.images.values import RangeChoice
    from medcli.train.adapt import Adapted, Lesson
    from medcli.train.judge import Look
    from medcli.zoo.model import Model

HELP = """Let a model learn from your own noisy pictures, then denoise them with it.

\b
Examples:
  med adapt cells.png --minutes 3 -o clean.png
  med adapt scans/ --minutes 10 -o clean/ --save mine.safetensors
  med adapt cells.png --dry-run             tells what the noise is like

No clean picture is needed. The model learns to guess hidden pixels from those around them. Some rows of each picture
are kept from it: on them, before and after are compared, and the adapted model is used only where it is clearly
better; otherwise the model as it was. The adapted weights are kept beside the results, or where --save says.

Where neighbouring pixels share their noise, as after demosaicking and JPEG, only models that are asked through masks
('med train --method amsnet') can learn: they do so in sub-images of pixels that are far enough apart. Other models
take noise that is independent from pixel to pixel, as that of microscopes and scientific cameras mostly is; med says
so and denoises with the model as it is. Results go where those of 'med denoise' go.
"""


@dataclass(frozen=True)
class Request:
    """How to adapt. save: where the weights go, None for beside the results."""

    model: str
    minutes: float
    device: str
    precision: str
    seed: int
    save: Path | None
    force: bool
    quiet: bool
    range: RangeChoice = "auto"
    nodata: float | None = None

    def say(self, text: str) -> None:
        """A line on standard error."""
        if not self.quiet:
            click.echo(text, err=True)


@click.command(name="adapt", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=options.PATH)
@click.option("-o", "--output", metavar="OUTPUT", type=options.OutputPath(), help="File or folder.")
@click.option("-m", "--model", default="photo", show_default=True, type=options.name_or_path, metavar="NAME|FILE",
              shell_complete=options.complete_model, help="The model to start from.")  # fmt: skip
@click.option("--minutes", default=5.0, show_default="5", type=click.FloatRange(min=0, min_open=True),
              help="How long to learn.")  # fmt: skip
@click.option("--save", metavar="FILE", type=options.FILE,
              help="Where the adapted weights go.  [default: beside the results]")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=int, help="Another seed learns from other patches.")
@click.option("--device", type=options.device, metavar="DEVICE", default="auto", show_default=True,
              help="auto, cpu, cuda, cuda:N or mps.")  # fmt: skip
@click.option("--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16"]))
@options.threads()
@options.ranges
@click.option("--nodata", type=options.number, metavar="VALUE", help="Means nothing.  [default: as the file says]")
@click.option("-r", "--recursive", is_flag=True, help="Look into subfolders, and mirror them.")
@click.option("-f", "--force", is_flag=True, help="Overwrite.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what the noise is like and what would be done.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
def command(
    inputs: tuple[Path, ...],
    output: options.Output | None,
    model: str,
    minutes: float,
    save: Path | None,
    seed: int,
    device: str,
    precision: str,
    range_: str,
    range_from: Path | None,
    nodata: float | None,
    recursive: bool,
    force: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    from medcli.batch.plan import Naming, make_plan

    place, is_folder = output or options.Output(None, False)
    if Path("-") in (*inputs, place):
        raise click.UsageError("Pictures to adapt to are files: a pipe can be read only once.")
    jobs = make_plan(inputs, Naming(place, folder=is_folder), recursive=recursive, force=force)
    values = options.chosen_range(range_, range_from, nodata)
    request = Request(model, minutes, device, precision, seed, save, force, quiet, values, nodata)
    weights = None if dry_run else _place(request, jobs)
    with TemporaryDirectory(prefix="med-adapt-") as folder:
        chosen = _adapted(request, jobs, Path(folder), weights)
    _denoise(request, jobs, chosen, rehearse=dry_run)


def _place(request: Request, jobs: Sequence[Job]) -> Path:
    """Where adapted weights go. Raises OutputError where something is there already."""
    first = jobs[0]
    beside = (first.root or first.target.parent) / f"{first.target.stem if len(jobs) == 1 else 'adapted'}.safetensors"
    path = request.save or beside
    if path.suffix != ".safetensors":
        raise OutputError(f"--save {path} is no name for weights.", "Let it end in .safetensors.")
    if path.exists() and not request.force:
        raise OutputError(f"{path} exists already.", "Add --force to overwrite it, or name another with --save.")
    return path


def _adapted(request: Request, jobs: Sequence[Job], folder: Path, weights: Path | None) -> Model:
    """The model to use; without a place for weights it is the one that there is."""
    from medcli.data.cache import Reading
    from medcli.images.picture import is_gray
    from medcli.train.adapt import lesson, open_pictures
    from medcli.zoo.model import find_model

    missing = [job.source for job in jobs if not job.source.exists()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.")
    model = find_model(request.model, request.say)
    reading = Reading(request.range, request.nodata)
    pictures = open_pictures([job.source for job in jobs], folder, reading, request.say)
    found = lesson(model.network(), model.card, pictures)
    request.say(_noise(found.seen))
    warning = model.gray_warning
    if warning and all(is_gray(found.pictures[place]) for place in range(len(found.pictures))):
        request.say(warning)
    if found.obstacle:
        request.say(f"not adapted: {found.obstacle}; {request.model} is used as it is")
        _recommend(request, found)
    elif weights is None:
        request.say(f"{request.model} would learn from {len(found.pictures)} pictures for {request.minutes:g} min")
    else:
        return _learned(request, found, folder, weights) or model
    return model


def _recommend(request: Request, found: Lesson) -> None:
    """Models of the zoo that can learn from noise that neighbours share, where that is what was in the way."""
    from medcli.zoo.model import blind_spot_models

    known = " or ".join(f"-m {name}" for name in blind_spot_models())
    if known and found.seen.stride > 1 and not found.card.blind_spot:
        request.say(f"a blind-spot model can learn from such images: {known}")


def _noise(seen: Look) -> str:
    if not seen.stride:
        return "noise: not measured"
    return f"noise: about {seen.sigma:.1f} grey levels; independent {_apart(seen.stride)}"


def _apart(stride: int) -> str:
    return "from pixel to pixel" if stride == 1 else f"only at a stride of {stride} pixels"


def _learned(request: Request, found: Lesson, folder: Path, path: Path) -> Model | None:
    """The adapted model, kept at `path`; None where it is not clearly better."""
    from medcli.cli.training import Display
    from medcli.engine.memory import keep_heap
    from medcli.train.adapt import STEPS, adapt, save
    from medcli.train.machine import choose_machine
    from medcli.zoo.model import Model

    machine = choose_machine(request.device, request.precision, workers=0)
    _make_room(path.parent)
    keep_heap()
    with Display(STEPS, quiet=request.quiet) as display:
        adapted = adapt(
            found,
            folder=folder, machine=machine, minutes=request.minutes, seed=request.seed, report=display.report,
        )  # fmt: skip
        tell(adapted, request.model, display)
    if adapted.verdict is None or not adapted.verdict.better:
        return None
    save(path, adapted, found.card, sorted({Path(name).name for name in found.pictures.names}))
    request.say(f"{path} holds the adapted model: med denoise PICTURE --model {path}")
    return Model(str(path), path)


def _make_room(folder: Path) -> None:
    """Before the learning, not after it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another place with --save."
        raise OutputError(f"{folder} cannot be written: {error.strerror}.", hint) from error


def tell(adapted: Adapted, model: str, display: Display) -> None:
    """What the criterion said of both models, and which is used."""
    if adapted.interrupted:
        display.say(f"stopped after {adapted.steps} steps; what was learned is judged")
    verdict = adapted.verdict
    if verdict is None:
        display.say(f"nothing was learned; {model} is used as it is")
        return
    holes, used, strong = (f"{g:+.3f} ± {2 * e:.3f}" for g, e in zip(verdict.gains, verdict.errors, strict=True))
    display.say(f"on rows kept aside: hidden pixels {model} {verdict.before:.3f}, adapted {verdict.after:.3f} (RMS)")
    display.say(f"gain in units of the noise: hidden {holes}; as used {used}, and {strong} if the noise is stronger")
    which = "the adapted model is better and is used" if verdict.better else f"not clearly better: {model} is used"
    display.say(which)


def _denoise(request: Request, jobs: Sequence[Job], model: Model, *, rehearse: bool) -> None:
    from medcli.batch.files import Files, Settings, Streams
    from medcli.batch.restore import Denoise
    from medcli.cli import session

    settings = Settings(
        model.checksums.blake2b, precision=request.precision, range=str(request.range), nodata=request.nodata
    )
    files = Files(jobs, settings, Streams(sys.stdin.buffer, sys.stdout.buffer))
    asked = session.Request(
        model, Denoise(), request.device, request.precision, False, "auto", None,
        range=request.range, nodata=request.nodata,
    )  # fmt: skip
    run = session.Session(asked, files, jobs, quiet=request.quiet)
    (run.rehearse if rehearse else run.perform)(force=request.force)
