"""`med inspect`: what an image is like, and which model suits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Measure the noise of images and propose a model.

\b
Examples:
  med inspect photo.jpg
  med inspect cells.tif --plot noise.png    noise against brightness, correlation, spectrum
  med inspect shoot/                        a table, and a summary per camera and ISO
  med inspect photo.jpg --json

Size, depth, colour, range of values; noise in brightness and in colour, in grey levels of 255, and how it changes with
brightness; correlation of neighbouring pixels; JPEG quality and blocks, banding, hot pixels; whether the image was
smoothed before. The noise is measured in flat parts: fine texture everywhere counts as noise, and what JPEG has
smoothed is measured too low. Of a stack the first page is measured.
"""


@click.command(name="inspect", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="IMAGE...", nargs=-1, required=True, type=options.UserPath(exists=True))
@click.option("--plot", type=options.FILE, metavar="FILE.png", help="Of one image: its noise as a picture.")
@click.option("--json", "as_objects", is_flag=True, help="One JSON object per image on standard output.")
@options.range_options()
def command(inputs: tuple[Path, ...], plot: Path | None, as_objects: bool, **ranges: Any) -> None:
    from medcli.cli.inspect_run import run_inspect

    run_inspect(inputs, plot, options.chosen_range(ranges["range"], ranges["range_from"]), as_objects=as_objects)
