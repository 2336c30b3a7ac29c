"""`med adapt`: a model learns from noisy images; if it is better afterwards, it denoises them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from medcli.cli import options
from medcli.cli.denoise_options import DenoiseOptions
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.progress import say_unless
from medcli.errors import InputError, OutputError

if TYPE_CHECKING:
    from medcli.batch.denoise.plan import Job
    from medcli.train.adapt.run import AdaptationJob, Adapted
    from medcli.zoo.model import Model

HELP = """Let a model learn from your own noisy images, then denoise them with it.

\b
Examples:
  med adapt cells.png --minutes 3 -o clean.png
  med adapt scans/ --minutes 10 -o clean/ --save mine.safetensors
  med adapt cells.png --dry-run             only measures the noise

No clean image is needed. The model learns to guess hidden pixels from those around them. Some rows of each image
are kept from it: on them, before and after are compared, and the adapted model is used only where it is clearly
better; otherwise the model as it was. The adapted weights are kept beside the results, or where --save says.

Spatially correlated noise, as after demosaicking and JPEG, needs a blind-spot model ('med train --method amsnet'),
which learns in sub-images of pixels that are far enough apart. Other models need noise that is independent from pixel
to pixel, as that of microscopes and scientific cameras mostly is; otherwise med denoises with the model as it is.
Results go where those of 'med denoise' go.
"""


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(DenoiseOptions):
    """The options of `med adapt` as click parses them. seed: of the training. save: None for beside the results."""

    minutes: float
    train_seed: int
    save: Path | None


@click.command(name="adapt", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=options.PATH)
@options.output_option("File or folder.")
@options.model_option("The model to start from.", default="photo")
@click.option("--minutes", default=5.0, show_default="5", type=click.FloatRange(min=0, min_open=True),
              help="How long to train.")  # fmt: skip
@click.option("--save", metavar="FILE", type=options.FILE,
              help="Where the adapted weights go.  [default: beside the results]")  # fmt: skip
@click.option("--seed", "train_seed", default=0, show_default=True, type=int, envvar="MED_ADAPT_SEED",
              help="Random seed.")  # fmt: skip
@options.device_options("fp32", "bf16")
@options.threads()
@options.range_options(nodata=True)
@options.recursive_option
@options.run_options(force="Overwrite.", dry_run="Measure the noise and say what would be done.")
def command(**params: Any) -> None:
    from medcli.batch.denoise.files import ImageFiles, Streams
    from medcli.batch.denoise.plan import OutputNaming, make_plan
    from medcli.batch.denoise.restore import Denoise
    from medcli.cli.denoise_run import DenoiseRun, settings

    given = AdaptOptions(**params)
    target, is_folder = given.output
    if Path("-") in (*given.inputs, target):
        raise click.UsageError("Images to adapt to are files: a pipe can be read only once.")
    naming = OutputNaming(target, folder=is_folder)
    jobs = make_plan(given.inputs, naming, recursive=given.recursive, force=given.force)
    given = replace(given, range=options.chosen_range(given.range, given.range_from, given.nodata))
    weights = None if given.dry_run else _weights_path(given, jobs)
    with TemporaryDirectory(prefix="med-adapt-") as folder:
        model = _adapted(given, jobs, Path(folder), weights)
    files = ImageFiles(jobs, settings(given, model), Streams(sys.stdin.buffer, sys.stdout.buffer))
    DenoiseRun(given, model, Denoise(), files, jobs).start()


def _weights_path(given: AdaptOptions, jobs: Sequence[Job]) -> Path:
    """Where adapted weights go. Raises OutputError where something is there already."""
    first = jobs[0]
    beside = (first.root or first.target.parent) / f"{first.target.stem if len(jobs) == 1 else 'adapted'}.safetensors"
    path = given.save or beside
    if path.suffix != ".safetensors":
        raise OutputError(f"--save {path} is no name for weights.", "Let it end in .safetensors.")
    if path.exists() and not given.force:
        raise OutputError(f"{path} exists already.", "Add --force to overwrite it, or name another with --save.")
    return path


def _adapted(given: AdaptOptions, jobs: Sequence[Job], folder: Path, weights: Path | None) -> Model:
    """The model to use: the adapted one, which is kept as `weights`, or the one that there is."""
    from medcli.data.cache import Reading
    from medcli.images.decoded_image import is_gray
    from medcli.train.adapt.run import adaptation_job, open_images
    from medcli.zoo.model import blind_spot_models, find_model

    say = say_unless(given.quiet)
    missing = [job.source for job in jobs if not job.source.exists()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.")
    model = find_model(given.model, say)
    images = open_images([job.source for job in jobs], folder, Reading(given.range, given.nodata), say)
    found = adaptation_job(model.network(), model.card, images)
    sigma, stride = found.seen.sigma, found.seen.stride
    apart = "from pixel to pixel" if stride == 1 else f"only at a stride of {stride} pixels"
    say(f"noise: about {sigma:.1f} grey levels; independent {apart}" if stride else "noise: not measured")
    warning = model.gray_warning
    if warning and all(is_gray(found.images[index]) for index in range(len(found.images))):
        say(warning)
    if found.obstacle:
        say(f"not adapted: {found.obstacle}; {given.model} is used as it is")
        others = " or ".join(f"-m {name}" for name in blind_spot_models())
        if others and stride > 1 and not found.card.blind_spot:
            say(f"a blind-spot model can learn from such images: {others}")
    elif weights is None:
        say(f"{given.model} would learn from {len(found.images)} images for {given.minutes:g} min")
    else:
        return _train(given, found, folder, weights) or model
    return model


def _train(given: AdaptOptions, found: AdaptationJob, folder: Path, path: Path) -> Model | None:
    """The adapted model, kept at `path`; None where it is not clearly better."""
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.adapt.run import STEPS, adapt, save
    from medcli.train.hardware import choose_hardware
    from medcli.zoo.model import Model

    hardware = choose_hardware(given.device, given.precision, workers=0)
    try:  # before the training, not after it
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{path.parent} cannot be written: {error.strerror}."
        raise OutputError(problem, "Name another folder with --save.") from error
    keep_freed_memory()
    with TrainDisplay(STEPS, quiet=given.quiet) as display:
        adapted = adapt(
            found,
            folder=folder,
            hardware=hardware,
            minutes=given.minutes,
            seed=given.train_seed,
            report=display.report,
        )
        describe(adapted, given.model, display.say)
    if adapted.comparison is None or not adapted.comparison.better:
        return None
    save(path, adapted, found.card, sorted({Path(name).name for name in found.images.names}))
    say_unless(given.quiet)(f"{path} holds the adapted model: med denoise IMAGE --model {path}")
    return Model(str(path), path)


def describe(adapted: Adapted, model: str, say: Callable[[str], None]) -> None:
    """How both models compare, and which is used."""
    if adapted.interrupted:
        say(f"stopped after {adapted.steps} steps; the model as it is now is compared")
    comparison = adapted.comparison
    if comparison is None:
        say(f"nothing was learned; {model} is used as it is")
        return
    holes, used, strong = (f"{g:+.3f} ± {2 * e:.3f}" for g, e in zip(comparison.gains, comparison.errors, strict=True))
    say(f"on rows kept aside: hidden pixels {model} {comparison.before:.3f}, adapted {comparison.after:.3f} (RMS)")
    say(f"gain in units of the noise: hidden {holes}; as used {used}, and {strong} if the noise is stronger")
    say("the adapted model is better and is used" if comparison.better else f"not clearly better: {model} is used")
