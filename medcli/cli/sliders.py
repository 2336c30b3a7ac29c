"""The sliders of a darkroom as options of `med denoise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from medcli.cli.options import strength

SLIDERS = (
    ("--luma", "Of the noise in brightness, how much goes.  [default: 1]"),
    ("--chroma", "Of the noise in colour, how much goes.  [default: 1]"),
    ("--texture", "Of the fine structure that went too, how much comes back.  [default: 0]"),
    ("--protect-highlights", "Less change in bright parts.  [default: 0]"),
    ("--protect-shadows", "Less change in dark parts.  [default: 0]"),
)
ENCODINGS = ("auto", "as-is", "linear", "pq", "hlg")


def _complete_look(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from medcli.engine.slider_values import looks

    return [CompletionItem(name) for name in looks() if name.startswith(incomplete)]


def slider_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--look`, the sliders, and `--encoding`."""
    encoding = click.option(
        "--encoding", type=click.Choice(ENCODINGS), default="auto", show_default=True,
        help="How numbers encode light; as-is: like sRGB.",
    )  # fmt: skip
    command = encoding(command)
    for name, text in reversed(SLIDERS):
        command = click.option(name, type=strength, metavar="0..1", help=text)(command)
    look = click.option("--look", metavar="NAME", shell_complete=_complete_look, help="A preset of the sliders.")
    return look(command)
