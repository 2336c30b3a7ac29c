"""Kinds of values that options take, for all commands. Nothing here looks at the machine."""

from __future__ import annotations

import re
from typing import Literal

import click

TileSize = int | Literal["auto"]
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def device(value: str) -> str:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:1`; whether it is there is found out when it is used."""
    if not DEVICES.fullmatch(value):
        raise click.BadParameter(f"'{value}' is none of auto, cpu, cuda, cuda:N and mps.")
    return value


def tile(value: str) -> TileSize:
    """`auto`, or a number of pixels, 0 for the whole picture."""
    if value == "auto":
        return "auto"
    if not value.isdecimal():
        raise click.BadParameter(f"'{value}' is neither 'auto' nor a number of pixels.")
    return int(value)


def strength(value: str) -> float:
    """A number from 0 to 1."""
    number = float(value)
    if not 0 <= number <= 1:
        raise click.BadParameter(f"{value} is not between 0 (nothing changes) and 1 (all of it).")
    return number


def suffix(value: str) -> str:
    """A part of a file name."""
    if {"/", "\\", "\0"} & set(value):
        raise click.BadParameter(f"'{value}' cannot be part of a file name.")
    return value


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Model names that begin like this, for the shell."""
    from medcli.zoo.catalog import entries

    return [name for name in entries() if name.startswith(incomplete)]
