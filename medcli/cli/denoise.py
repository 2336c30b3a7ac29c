"""`med denoise`: its options. What it does is in `medcli.cli.denoise_run`, imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from medcli.batch.denoise.options import DEPTHS, NO_OUTPUT, SAME_DEPTH
from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.raw_options import raw_options
from medcli.cli.sliders import slider_options
from medcli.images.formats import FORMATS
from medcli.images.source import MAX_PIXELS

HELP = """Remove the noise from images.

\b
Examples:
  med denoise photo.jpg                     writes photo.denoised.jpg beside it
  med denoise photo.tif -o clean.tif --strength 0.8
  med denoise shoot/ -o clean/ --recursive  mirrors the tree; run it again to go on
  med denoise shoot/ -o clean/ -m auto      a model for each image, by its noise
  med denoise - < noisy.png > clean.png
  med denoise photo.jpg --luma 0.6 --texture 0.5   some grain, fine structure
  med denoise photo.jpg --look film --strength auto
  med denoise IMG.dng -o IMG.tif --exposure 0.5
  med denoise photo.png --residual removed.png     what was removed, about mid-gray
  med denoise torn.png --mask holes.png -m inpaint    fills what is white in holes.png
  med denoise small.png --upscale 2 -m inpaint        twice the pixels on each side

INPUT is an image, several, a folder, an address in a store such as s3://bucket/folder/, or '-' for standard input.
PNG, TIFF, JPEG, WebP and BMP come back in their own format, depth and colours, with their metadata.

\b
Where results go:
  one image    beside it as NAME.denoised.EXT; or -o FILE, or -o FOLDER
  many images  the same for each; -o must be a folder
  a folder       FOLDER.denoised beside it, under the same names; or -o FOLDER
  -              standard output; or -o FILE

A run over many images goes on where an earlier one stopped: results that are up to date (same input, model and
settings) are skipped, other results of its own are made again. It keeps its notes in .medcli.jsonl in the output
folder. Files that med did not create are kept unless --force is given, and an input unless -o names it as well. Hidden
files and earlier results (NAME.denoised.EXT) in a folder are passed over; a folder that holds only what an earlier run
mirrored into it can be the input of the next.

\b
With a model that was trained for it (med train --pool corruption):
  --mask FILE    an image of the same size: what is white there is missing and
                 is filled; all other pixels stay as they are
  --mask DIR     a mask for each image, under the image's name
  --mask black   what is black (0) in all channels is missing; the rest stays
  --upscale N    the image is enlarged, then restored; the DPI is scaled, so
                 the print size stays the same
Without them the model's answer is taken for every pixel.

\b
Sliders, each from 0 to 1:
  --luma, --chroma   how much of the noise in brightness and in colour goes;
                     --luma 0 leaves the grain and takes the colour noise
  --texture          gives fine structure back that went with the noise
  --protect-highlights, --protect-shadows   less change there
  --look NAME        presets: clean, natural, film; other options go on top

\b
Camera raw files (pip install 'medcli[raw]') are developed by LibRaw to 16-bit TIFF,
or what -o and --format say; -o IMG.dng keeps the mosaic for other developers:
  --wb, --exposure, --highlights, --space   as a developer has them
  --stage mosaic     noise is removed before development, where it is best known;
                     developed: after it, as always for other than Bayer sensors
  --prefer raw|jpeg  of a raw file and a JPEG of one name, only one

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

\b
Micrographs and other gray images of photon counters (noise that grows with the
square root of the signal):
  --vst              gain, offset and read noise are measured on each page
  --gain 2.1 --offset 100 --read-noise 3.5   or given, in values of the file

\b
Many images:
  --workers N        N processes share them; one that dies costs nothing but time
  --device cuda:0,cuda:1  one process for each GPU
  --files-from LIST  names from a file, or '-'; relative ones keep their folders
                     below -o
  --shard K/N        for job arrays: part K, by the names of images alone
  --cluster auto     a Ray cluster does the work (pip install 'medcli[ray]')
  --json             events: start, one for each image, end

Every option can be set in the environment: MED_DENOISE_MODEL, MED_DENOISE_DEVICE, ...
"""


@click.command(name="denoise", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=options.UserPath(stream="/dev/stdin", stores=True))
@click.option("--files-from", type=options.UserPath(stream="/dev/stdin", dir_okay=False), metavar="LIST|-",
              help="More inputs: one a line, or ended by zero bytes.")  # fmt: skip
@click.option("--shard", type=options.shard, metavar="K/N", help="Only the K-th of N parts, as in a job array.")
@options.output_option("File, folder, or - for stdout.", stream="/dev/stdout", stores=True)
@options.model_option("A name, a weight file, or auto: by the noise of each image.", default="photo")
@options.device_options("fp32", "fp16", "bf16", several=True)
@options.runtime_option()
@click.option("--strength", type=options.strength_or_auto, default=1.0, show_default="1", metavar="0..1|auto",
              help="0 copies the file, 1 is the network's output, auto what the noise explains.")  # fmt: skip
@slider_options
@raw_options
@click.option("--residual", type=options.OutputPath(), default=None, metavar="FILE|DIR",
              callback=lambda _ctx, _param, value: value or NO_OUTPUT,
              help="Write what was removed, about mid-gray.")  # fmt: skip
@click.option("--ensemble", is_flag=True, help="Mean over eight flips and turns: a little better, 8 times the work.")
@click.option("--vst", is_flag=True, help="Gray images of photon counters: make their noise Gaussian first.")
@click.option("--gain", type=float, metavar="G", help="Of --vst: value of one electron.  [default: measured]")
@click.option("--offset", type=float, metavar="M", help="Of --vst: value of no light.  [default: measured]")
@click.option("--read-noise", type=float, metavar="S",
              help="Of --vst: its deviation, in values.  [default: measured]")  # fmt: skip
@options.sharpen_options()
@click.option("--mask", type=options.name_or_path, metavar="FILE|DIR|black", help="Fill in missing pixels.")
@click.option("--upscale", type=click.IntRange(min=2), metavar="N", help="Enlarge N times, as the model has learned.")
@click.option("--refine", type=options.rounds, is_flag=False, flag_value="8", metavar="[T]",
              help="Blind-spot models: refine with T extra passes, 8 unless given.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1, 64), metavar="N", help="Blind-spot models: mean over N random masks.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="Blind-spot models: random seed.")
@options.tile_option()
@click.option("--overlap", type=click.IntRange(min=0), metavar="N",
              help="Of tiles, in pixels.  [default: what the network needs]")  # fmt: skip
@options.range_options(nodata=True)
@options.recursive_option
@click.option("--suffix", type=options.suffix, metavar="S",
              help="Before the extension of results.  [default: .denoised beside the input, else none]")  # fmt: skip
@click.option(
    "--format",
    type=options.ImageFormat([name for name, form in FORMATS.items() if not form.result]),
    help="Of results.  [default: the input's]",
)
@click.option("--quality", type=click.IntRange(1, 100), metavar="1..100",
              help="Of JPEG and WebP.  [default: the input's]")  # fmt: skip
@click.option("--depth", type=click.Choice(DEPTHS), default=SAME_DEPTH, show_default="the input's",
              help="float: results are neither rounded nor clipped (TIFF).")  # fmt: skip
@click.option("--provenance", is_flag=True, help="Write RESULT.json: command, model, checksums, noise.")
@click.option("--max-pixels", type=click.IntRange(min=1), metavar="N", default=MAX_PIXELS, show_default=True,
              help="Refuse larger images before they are decoded.")  # fmt: skip
@options.threads(exposed=True)
@options.worker_options()
@click.option("--keep-time", is_flag=True, help="Give results the modification time of their inputs.")
@click.option("--json", "as_objects", is_flag=True, help="Events on standard output, one JSON object a line.")
@options.run_options(
    force="Overwrite; make results again that are up to date.", dry_run="Say what would be done, and do nothing."
)
def command(**params: Any) -> None:
    from medcli.batch.denoise.options import DenoiseOptions
    from medcli.cli.denoise_run import run_denoise

    run_denoise(DenoiseOptions(**params))
