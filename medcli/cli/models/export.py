"""`med models export`: a model for other programs, as ONNX or TorchScript."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.errors import OutputError

if TYPE_CHECKING:
    from medcli.zoo.export import Exported

HELP = """Write a model for other programs.

\b
Examples:
  med models export photo --to onnx -o photo.onnx
  med models export run/ --to torchscript -o mine.pt --size 512x512

The file holds the network alone, with weights in fp32, and says in its metadata which model it is, its licence, the
range of its values and the multiple of pixels that height and width must have. Before it gets its name it is run and
compared with the network. ONNX needs pip install 'medcli[onnx]'.
"""
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


def _size(value: str) -> tuple[int, int] | None:
    """`dynamic`, or height and width in pixels."""
    found = SIZE.fullmatch(value)
    if not found and value != "dynamic":
        raise click.BadParameter(f"'{value}' is neither 'dynamic' nor a height and width like 512x768.")
    return (int(found[1]), int(found[2])) if found else None


@click.command(name="export", help=HELP, epilog=EXIT_CODES)
@click.argument("model", metavar="MODEL", type=options.name_or_path, shell_complete=options.complete_model)
@click.option("--to", "form", required=True, type=click.Choice(["onnx", "torchscript"]), help="The form of the file.")
@click.option("-o", "--output", required=True, metavar="FILE", type=options.FILE, help="The file.")
@click.option(
    "--size",
    type=str,
    callback=lambda _context, _option, value: _size(value),
    metavar="HxW|dynamic",
    default="dynamic",
    show_default=True,
    help="Of the images it takes.",
)
@options.threads()
@click.option("-f", "--force", is_flag=True, help="Overwrite.")
def command(model: str, form: str, output: Path, size: tuple[int, int] | None, force: bool) -> None:
    from medcli.zoo.export import export
    from medcli.zoo.model import find_model

    if output.exists() and not force:
        raise OutputError(f"{output} is there already.", "Overwrite it with --force.")
    found = find_model(model, _say)
    network = found.network()
    written = export(network, found.card, output, form=form, size=size)
    for line in lines(written, form, int(str(network.multiple)), found.card.strategy):
        _say(line)


def _say(line: str) -> None:
    click.echo(line, err=True)


def lines(written: Exported, form: str, multiple: int, strategy: str) -> list[str]:
    """What a person should know of the file. multiple: of height and width, in pixels."""
    from medcli.zoo.export import OPSET, TOLERANCE

    kind = f"ONNX, opset {OPSET}" if form == "onnx" else "TorchScript"
    sides = "x".join(map(str, written.size)) if written.size else "any height and width"
    told = [
        f"{written.path} is ready: {kind}, {decimal(written.bytes)}, for {sides}; "
        f"within {written.difference:.1g} of the network ({TOLERANCE:g} allowed)"
    ]
    if multiple > 1:
        told.append(f"  Height and width must be multiples of {multiple}: whoever runs it pads, and crops the result.")
    if strategy != "plain":
        told.append(f"  It is the network alone: the strategy '{strategy}' is left to whoever runs it.")
    return told
