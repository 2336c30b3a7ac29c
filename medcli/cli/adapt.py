"""`med adapt`: a model learns from the noisy images, is judged by them, and the better one denoises them."""

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
    from medcli.batch.denoise.plan import Job
    from medcli.cli.train_display import TrainDisplay
    from medcli.images.values import RangeChoice
    from medcli.train.adapt.run import AdaptationJob, Adapted
    from medcli.train.adapt.sure import NoiseStatistics
    from medcli.zoo.model import Model

HELP = """Let a model learn from your own noisy images, then denoise them with it.

\b
Examples:
  med adapt cells.png --minutes 3 -o clean.png
  med adapt scans/ --minutes 10 -o clean/ --save mine.safetensors
  med adapt cells.png --dry-run             tells what the noise is like

No clean image is needed. The model learns to guess hidden pixels from those around them. Some rows of each image
are kept from it: on them, before and after are compared, and the adapted model is used only where it is clearly
better; otherwise the model as it was. The adapted weights are kept beside the results, or where --save says.

Where neighbouring pixels share their noise, as after demosaicking and JPEG, only models that are asked through masks
('med train --method amsnet') can learn: they do so in sub-images of pixels that are far enough apart. Other models
take noise that is independent from pixel to pixel, as that of microscopes and scientific cameras mostly is; med says
so and denoises with the model as it is. Results go where those of 'med denoise' go.
"""


@dataclass(frozen=True)
class AdaptOptions:
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
    from medcli.batch.denoise.plan import OutputNaming, make_plan

    place, is_folder = output or options.Output(None, False)
    if Path("-") in (*inputs, place):
        raise click.UsageError("Images to adapt to are files: a pipe can be read only once.")
    jobs = make_plan(inputs, OutputNaming(place, folder=is_folder), recursive=recursive, force=force)
    values = options.chosen_range(range_, range_from, nodata)
    adapt_options = AdaptOptions(model, minutes, device, precision, seed, save, force, quiet, values, nodata)
    weights = None if dry_run else _place(adapt_options, jobs)
    with TemporaryDirectory(prefix="med-adapt-") as folder:
        chosen = _adapted(adapt_options, jobs, Path(folder), weights)
    _denoise(adapt_options, jobs, chosen, dry_run=dry_run)


def _place(adapt_options: AdaptOptions, jobs: Sequence[Job]) -> Path:
    """Where adapted weights go. Raises OutputError where something is there already."""
    first = jobs[0]
    beside = (first.root or first.target.parent) / f"{first.target.stem if len(jobs) == 1 else 'adapted'}.safetensors"
    path = adapt_options.save or beside
    if path.suffix != ".safetensors":
        raise OutputError(f"--save {path} is no name for weights.", "Let it end in .safetensors.")
    if path.exists() and not adapt_options.force:
        raise OutputError(f"{path} exists already.", "Add --force to overwrite it, or name another with --save.")
    return path


def _adapted(adapt_options: AdaptOptions, jobs: Sequence[Job], folder: Path, weights: Path | None) -> Model:
    """The model to use; without a place for weights it is the one that there is."""
    from medcli.data.cache import Reading
    from medcli.images.decoded_image import is_gray
    from medcli.train.adapt.run import adaptation_job, open_images
    from medcli.zoo.model import find_model

    missing = [job.source for job in jobs if not job.source.exists()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.")
    model = find_model(adapt_options.model, adapt_options.say)
    reading = Reading(adapt_options.range, adapt_options.nodata)
    images = open_images([job.source for job in jobs], folder, reading, adapt_options.say)
    found = adaptation_job(model.network(), model.card, images)
    adapt_options.say(_noise(found.seen))
    warning = model.gray_warning
    if warning and all(is_gray(found.images[place]) for place in range(len(found.images))):
        adapt_options.say(warning)
    if found.obstacle:
        adapt_options.say(f"not adapted: {found.obstacle}; {adapt_options.model} is used as it is")
        _recommend(adapt_options, found)
    elif weights is None:
        adapt_options.say(
            f"{adapt_options.model} would learn from {len(found.images)} images for {adapt_options.minutes:g} min"
        )
    else:
        return _learned(adapt_options, found, folder, weights) or model
    return model


def _recommend(adapt_options: AdaptOptions, found: AdaptationJob) -> None:
    """Models of the zoo that can learn from noise that neighbours share, where that is what was in the way."""
    from medcli.zoo.model import blind_spot_models

    known = " or ".join(f"-m {name}" for name in blind_spot_models())
    if known and found.seen.stride > 1 and not found.card.blind_spot:
        adapt_options.say(f"a blind-spot model can learn from such images: {known}")


def _noise(seen: NoiseStatistics) -> str:
    if not seen.stride:
        return "noise: not measured"
    return f"noise: about {seen.sigma:.1f} grey levels; independent {_apart(seen.stride)}"


def _apart(stride: int) -> str:
    return "from pixel to pixel" if stride == 1 else f"only at a stride of {stride} pixels"


def _learned(adapt_options: AdaptOptions, found: AdaptationJob, folder: Path, path: Path) -> Model | None:
    """The adapted model, kept at `path`; None where it is not clearly better."""
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.adapt.run import STEPS, adapt, save
    from medcli.train.hardware import choose_hardware
    from medcli.zoo.model import Model

    hardware = choose_hardware(adapt_options.device, adapt_options.precision, workers=0)
    _make_room(path.parent)
    keep_freed_memory()
    with TrainDisplay(STEPS, quiet=adapt_options.quiet) as display:
        adapted = adapt(
            found,
            folder=folder,
            hardware=hardware,
            minutes=adapt_options.minutes,
            seed=adapt_options.seed,
            report=display.report,
        )
        tell(adapted, adapt_options.model, display)
    if adapted.comparison is None or not adapted.comparison.better:
        return None
    save(path, adapted, found.card, sorted({Path(name).name for name in found.images.names}))
    adapt_options.say(f"{path} holds the adapted model: med denoise IMAGE --model {path}")
    return Model(str(path), path)


def _make_room(folder: Path) -> None:
    """Before the learning, not after it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another place with --save."
        raise OutputError(f"{folder} cannot be written: {error.strerror}.", hint) from error


def tell(adapted: Adapted, model: str, display: TrainDisplay) -> None:
    """What the criterion said of both models, and which is used."""
    if adapted.interrupted:
        display.say(f"stopped after {adapted.steps} steps; what was learned is judged")
    comparison = adapted.comparison
    if comparison is None:
        display.say(f"nothing was learned; {model} is used as it is")
        return
    holes, used, strong = (f"{g:+.3f} ± {2 * e:.3f}" for g, e in zip(comparison.gains, comparison.errors, strict=True))
    display.say(
        f"on rows kept aside: hidden pixels {model} {comparison.before:.3f}, adapted {comparison.after:.3f} (RMS)"
    )
    display.say(f"gain in units of the noise: hidden {holes}; as used {used}, and {strong} if the noise is stronger")
    which = "the adapted model is better and is used" if comparison.better else f"not clearly better: {model} is used"
    display.say(which)


def _denoise(adapt_options: AdaptOptions, jobs: Sequence[Job], model: Model, *, dry_run: bool) -> None:
    from medcli.batch.denoise.files import ImageFiles, Settings, Streams
    from medcli.batch.denoise.restore import Denoise
    from medcli.cli import denoise_run

    settings = Settings(
        model.checksums.blake2b,
        precision=adapt_options.precision,
        range=str(adapt_options.range),
        nodata=adapt_options.nodata,
    )
    files = ImageFiles(jobs, settings, Streams(sys.stdin.buffer, sys.stdout.buffer))
    asked = denoise_run.DenoiseOptions(
        model, Denoise(), adapt_options.device, adapt_options.precision, False, "auto", None,
        range=adapt_options.range, nodata=adapt_options.nodata,
    )  # fmt: skip
    run = denoise_run.DenoiseRun(asked, files, jobs, quiet=adapt_options.quiet)
    (run.dry_run if dry_run else run.execute)(force=adapt_options.force)
