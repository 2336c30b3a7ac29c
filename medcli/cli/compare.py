"""`med compare`: its options. What it does is in `medcli.cli.compare_run`, imported when the command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Show models and strengths side by side, before a long run.

\b
Examples:
  med compare photo.jpg                         writes photo.compare.html beside it
  med compare photo.jpg --models photo,amsnet-fast --strengths 0.5,1 -o page.html
  med compare scan.tif --crop 0,0,40,40 -o sheet.png
  med compare noisy.png --clean reference.png -o page.html

The page is one file for any browser, without network: split slider, side by side, blinking, zoom, and for each version
its figures and the command that makes it. A name that ends in .png gives a contact sheet instead.

\b
Figures:
  noise          standard deviation in the flattest parts, in grey levels of 255
  removed        standard deviation of what was removed
  structure in it  share of it that follows the fine structure of the picture
  time           for the whole picture
  PSNR, SSIM     against --clean, with maps of the errors

With --crop auto, pictures of more than one megapixel are shown at three places of 512x512 pixels: the finest detail, a
flat surface, a dark place. Only these are denoised, with their surroundings.
"""


def _numbers(value: str) -> tuple[float, ...]:
    """`0.5,1`"""
    return tuple(dict.fromkeys(options.strength(part.strip()) for part in value.split(",")))


def _names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Names separated by commas, unless all of it is a file."""
    parts = (value.split(",") if not Path(value).exists() else [value] for value in values)
    return tuple(dict.fromkeys(options.name_or_path(name.strip()) for part in parts for name in part))


@click.command(name="compare", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="PICTURE...", nargs=-1, required=True,
                type=options.UserPath(exists=True, dir_okay=False))  # fmt: skip
@click.option("-o", "--output", type=options.FILE, metavar="FILE",
              help="A page (.html) or a contact sheet (.png).  [default: PICTURE.compare.html]")  # fmt: skip
@click.option("-m", "--models", "--model", "models", multiple=True, default=["photo"], show_default="photo",
              metavar="NAME,...", shell_complete=options.complete_model, callback=_names,
              help="Names or weight files, separated by commas; may be given again.")  # fmt: skip
@click.option("--strengths", type=_numbers, default="1", show_default=True, metavar="LIST", help="Such as 0.5,1.")
@click.option("--crop", default="auto", show_default=True, metavar="auto|whole|X,Y,W,H", help="What is shown.")
@click.option("--clean", type=options.UserPath(exists=True), metavar="FILE|DIR",
              help="The clean image, or a folder with those of the same names.")  # fmt: skip
@options.device_options("fp32", "fp16", "bf16")
@click.option("--ensemble", is_flag=True, help="Mean over eight flips and turns.")
@options.tile_option()
@options.threads()
@options.range_options(nodata=True)
@options.run_options(force="Overwrite the page or sheet.")
def command(**params: Any) -> None:
    from medcli.cli.compare_run import CompareOptions, run_compare

    run_compare(CompareOptions(**params))
