"""`med denoise`: what was typed becomes a list of jobs, and the jobs become a run."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click
from click.core import ParameterSource

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.options import Output, TileSize
from medcli.images.formats import FORMATS
from medcli.images.source import MAX_PIXELS

if TYPE_CHECKING:
    from medcli.batch.denoise.plan import Job
    from medcli.batch.denoise.restore import ImageTask
    from medcli.batch.denoise.upscale import Upscale
    from medcli.zoo.model import Model

BLACK = "black"
HELP = """Remove the noise from images.

\b
Examples:
  med denoise photo.jpg                     writes photo.denoised.jpg beside it
  med denoise photo.tif -o clean.tif --strength 0.8
  med denoise shoot/ -o clean/ --recursive  mirrors the tree; run it again to go on
  med denoise - < noisy.png > clean.png
  med denoise torn.png --mask holes.png -m run/    fills what is white in holes.png
  med denoise small.png --upscale 2 -m run/        twice the pixels on each side

INPUT is an image, several, a folder, or '-' for standard input. PNG, TIFF, JPEG, WebP and BMP come back in their own
format, depth and colours, with their metadata.

\b
Where results go:
  one image    beside it as NAME.denoised.EXT; or -o FILE, or -o FOLDER
  many images  the same for each; -o must be a folder
  a folder       FOLDER.denoised beside it, under the same names; or -o FOLDER
  -              standard output; or -o FILE

A run over many images goes on where an earlier one stopped: results that are up to date (same input, model and
settings) are skipped, other results of its own are made again. It keeps its notes in .medcli.jsonl in the output
folder. Files of anybody else are not overwritten without --force, and an input only if -o names it as well. Hidden
files and earlier results (NAME.denoised.EXT) in a folder are passed over; a folder that holds only what an earlier run
mirrored into it can be the input of the next.

\b
With a model that was trained for it (med train --pool corruption):
  --mask FILE    an image of the same size: what is white there is missing and
                 is filled; all other pixels stay as they are
  --mask DIR     a mask for each image, under the image's name
  --mask black   what is black (0) in all channels is missing; the rest stays
  --upscale N    the image is enlarged, then restored; it prints at its old
                 size, as its resolution grows with it
Without them the model's answer is taken for every pixel.

\b
Which values are black and white:
  --range auto       8 bits: 0 and 255. Wider integers and floats: the type's own
                     (0 to 65535; 0 to 1) if the image fills half of it, else
                     robust ends of its values, one range for all its pages
  --range dtype      the type's own ends, whatever the image holds
  --range LOW:HIGH   these; --range-from FIRST those of an image, for a series
Values outside are mapped back as they are, nothing is clipped. What is no data
(NaN, infinity, GDAL's nodata, --nodata VALUE) and what lies further outside than
the range is wide comes back bit for bit, and does not spread.

Every option can be set in the environment: MED_DENOISE_MODEL, MED_DENOISE_DEVICE, ...
"""


@click.command(name="denoise", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=options.UserPath(stream="/dev/stdin"))
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    type=options.OutputPath(stream="/dev/stdout"),
    help="File, folder, or - for stdout.",
)
@click.option(
    "-m",
    "--model",
    default="photo",
    show_default=True,
    type=options.name_or_path,
    metavar="NAME|FILE",
    shell_complete=options.complete_model,
    help="A model's name, or a weight file.",
)
@click.option(
    "--device",
    type=options.device,
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N or mps.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: half where it is faster and as good.",
)
@click.option(
    "--strength",
    type=options.strength,
    default=1.0,
    show_default="1",
    metavar="0..1",
    help="0 copies the file, 1 is the network's answer.",
)
@click.option("--ensemble", is_flag=True, help="Mean over eight flips and turns: a little better, 8 times the work.")
@click.option("--mask", type=options.name_or_path, metavar="FILE|DIR|black", help="Fill in missing pixels.")
@click.option("--upscale", type=click.IntRange(min=2), metavar="N", help="Enlarge N times, as the model has learned.")
@click.option(
    "--refine",
    type=options.rounds,
    is_flag=False,
    flag_value="8",
    metavar="[T]",
    help="Models with masks: refine by T more guesses, 8 unless given. A little better, T times the work.",
)
@click.option(
    "--samples", type=click.IntRange(1, 64), metavar="N", help="Models with masks: mean over N draws of them."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="Models with masks: another draw.")
@click.option(
    "--tile",
    type=options.tile,
    metavar="auto|N|0",
    default="auto",
    show_default=True,
    help="Side in pixels; 0: the whole at once.",
)
@click.option(
    "--overlap", type=click.IntRange(min=0), metavar="N", help="Of tiles, in pixels.  [default: what the network needs]"
)
@options.ranges
@click.option("--nodata", type=options.number, metavar="VALUE", help="Means nothing.  [default: as the file says]")
@click.option("-r", "--recursive", is_flag=True, help="Look into subfolders, and mirror them.")
@click.option(
    "--suffix",
    type=options.suffix,
    metavar="S",
    help="Before the extension of results.  [default: .denoised beside the input, else none]",
)
@click.option(
    "--format", "format_", type=options.ImageFormat(list(FORMATS)), help="Of results.  [default: the input's]"
)
@click.option(
    "--quality", type=click.IntRange(1, 100), metavar="1..100", help="Of JPEG and WebP.  [default: the input's]"
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    default=MAX_PIXELS,
    show_default=True,
    help="Refuse larger images before they are decoded.",
)
@options.threads()
@click.option("--keep-time", is_flag=True, help="Give results the modification time of their inputs.")
@click.option("-f", "--force", is_flag=True, help="Overwrite; make results again that are up to date.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_objects", is_flag=True, help="One JSON object per image on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
def command(
    inputs: tuple[Path, ...],
    output: Output | None,
    model: str,
    device: str,
    precision: str,
    strength: float,
    ensemble: bool,
    mask: str | None,
    upscale: int | None,
    refine: int | None,
    samples: int | None,
    seed: int | None,
    tile: TileSize,
    overlap: int | None,
    range_: str,
    range_from: Path | None,
    nodata: float | None,
    recursive: bool,
    suffix: str | None,
    format_: str | None,
    quality: int | None,
    max_pixels: int,
    keep_time: bool,
    force: bool,
    dry_run: bool,
    as_objects: bool,
    quiet: bool,
) -> None:
    from medcli.batch.denoise.files import ImageFiles, Settings, Streams
    from medcli.batch.denoise.inpaint import Inpaint
    from medcli.batch.denoise.plan import SUFFIX, OutputNaming, make_plan
    from medcli.batch.denoise.restore import Denoise
    from medcli.cli.denoise_run import DenoiseOptions, DenoiseRun
    from medcli.data.folders import skipped
    from medcli.zoo.description import NOISE_DOMAIN
    from medcli.zoo.model import find_model

    def tell(text: str) -> None:  # of a model that is fetched on its first use
        if not quiet:
            click.echo(text, err=True)

    place, is_folder = output or Output(None, False)
    _check_streams(inputs, place, as_objects)
    _check_task(mask, upscale, strength)
    jobs = make_plan(
        inputs, OutputNaming(place, suffix, format_, is_folder), recursive=recursive, force=force, say=tell
    )
    _check_idle("--suffix", jobs[0].target == place, f"-o {place} is the whole name of the result.")
    _check_idle("--overlap", tile == 0, "--tile 0 takes the whole image at once.")
    values = options.chosen_range(range_, range_from, nodata)
    found = find_model(model, tell)
    if found.domain == NOISE_DOMAIN:
        tell(f"{model} generates noise (med synth-pairs --model); the denoisers are in 'med models list'.")
    blind_spot = {"--refine": refine, "--samples": samples, "--seed": seed}
    found.require_blind_spot(name for name, value in blind_spot.items() if value is not None)
    masks = _masks(mask, found, jobs, inputs)
    task: ImageTask = Denoise(strength)
    if mask:
        task = Inpaint(masks, max_pixels)
    elif upscale:
        task = _enlarging(upscale, found, strength, max_pixels, format_)
    settings = Settings(
        found.checksums.blake2b, strength, ensemble, precision, format_, quality,
        upscale or 1, BLACK if mask else "", refine, samples, seed, str(values), nodata,
    )  # fmt: skip
    streams = Streams(_received(inputs, dry_run), _binary(sys.stdout))
    files = ImageFiles(jobs, settings, streams, masks=masks, max_pixels=max_pixels, keep_time=keep_time)
    request = DenoiseOptions(
        found, task, device, precision, ensemble, tile, overlap, refine, samples, seed, values, nodata
    )
    passed = skipped(inputs, recursive, SUFFIX)
    session = DenoiseRun(request, files, jobs, skipped=passed, as_objects=as_objects, quiet=quiet)
    if dry_run:
        session.dry_run(force=force)
    else:
        session.execute(force=force)


def _check_streams(inputs: tuple[Path, ...], output: Path | None, as_objects: bool) -> None:
    """Refuses what would mix two things in one stream, or pour bytes into a terminal."""
    dash = Path("-")
    if dash in inputs and len(inputs) > 1:
        raise click.UsageError("'-' (standard input) is one image and cannot be mixed with others.")
    if dash in inputs and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("Nothing is piped into standard input. Try: med denoise - < noisy.png > clean.png")
    if output != dash and (output or dash not in inputs):
        return
    if as_objects:
        raise click.UsageError("--json and the image would mix on standard output. Name a file with -o.")
    if sys.stdout is None:
        raise click.UsageError("Standard output is closed. Send the image to a file: -o clean.png")
    if sys.stdout.isatty():
        raise click.UsageError("Standard output is a terminal. Send the image to a file: -o clean.png")


def _received(inputs: tuple[Path, ...], dry_run: bool) -> BinaryIO:
    """Standard input, read to its end where it is an input: a thread that waits for a pipe could not be interrupted."""
    stdin = _binary(sys.stdin)
    return io.BytesIO(stdin.read()) if Path("-") in inputs and not dry_run else stdin


def _binary(stream: TextIO | None) -> BinaryIO:
    """The bytes below a standard stream; none where the process was started without it."""
    return io.BytesIO() if stream is None else stream.buffer


def _check_task(mask: str | None, upscale: int | None, strength: float) -> None:
    if mask and upscale:
        raise click.UsageError("--mask and --upscale are two runs: fill the image, then enlarge the result.")
    if mask and strength < 1:
        raise click.UsageError("--strength does not go with --mask: of what is missing there is nothing to keep.")


def _check_idle(option: str, idle: bool, why: str) -> None:
    """Refuses an option that was typed, not set in the environment, where it would change nothing."""
    source = click.get_current_context().get_parameter_source(option.lstrip("-"))
    if idle and source is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"{option} has no meaning here: {why}")


def _masks(mask: str | None, model: Model, jobs: Sequence[Job], inputs: Sequence[Path]) -> dict[Job, Path]:
    """The mask's file of each job; none without --mask, and where black pixels are what is missing."""
    if mask is None:
        return {}
    from medcli.batch.denoise.inpaint import mask_of_each_job

    model.capabilities.require_inpainting()
    return {} if mask == BLACK else mask_of_each_job(Path(mask), jobs, inputs)


def _enlarging(factor: int, model: Model, strength: float, max_pixels: int, format: str | None) -> Upscale:
    from medcli.batch.denoise.upscale import Upscale

    return Upscale(factor, model.capabilities.upscale_filter(factor), strength, max_pixels, format)
