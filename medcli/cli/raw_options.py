"""Options of `med denoise` for camera raw files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from medcli.images.development import HIGHLIGHTS, SPACES, STAGES, Development

PREFERENCES = ("both", "raw", "jpeg")


def white_balance(value: str) -> str:
    """camera, auto, daylight, or R:G:B."""
    try:
        _ = Development(wb=value).multipliers
    except ValueError:
        raise click.BadParameter(f"'{value}' is none of camera, auto, daylight and R:G:B, such as 2.1:1:1.6.") from None
    return value


def raw_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--wb`, `--exposure`, `--highlights`, `--space`, `--stage`, `--prefer`."""
    options = (
        click.option("--wb", type=white_balance, default="camera", show_default=True,
                     metavar="camera|auto|daylight|R:G:B", help="Raw files: white balance."),
        click.option("--exposure", type=click.FloatRange(-2, 3), default=0.0, show_default="0", metavar="STOPS",
                     help="Raw files: -2 to 3 stops brighter."),
        click.option("--highlights", type=click.Choice(HIGHLIGHTS), default="clip", show_default=True,
                     help="Raw files: what becomes of channels that are clipped."),
        click.option("--space", type=click.Choice(SPACES), default="srgb", show_default=True,
                     help="Raw files: colour space of the result, with its profile."),
        click.option("--stage", type=click.Choice(STAGES), default="mosaic", show_default=True,
                     help="Raw files: where noise is removed."),
        click.option("--prefer", type=click.Choice(PREFERENCES), default="both", show_default=True,
                     help="Of a raw file and a JPEG of the same name in a folder."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
