"""`med models export`: a model as ONNX or TorchScript."""

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

HELP = """Export a model to ONNX or TorchScript.

\b
Examples:
  med models export photo --to onnx -o photo.onnx
  med models export run/ --to torchscript -o mine.pt --size 512x512

The file contains only the network, with fp32 weights. Its metadata has the model's id, licence, range of values and the
number of pixels that height and width must be multiples of. Before it is saved, its output is compared with that of the
network. ONNX needs pip install 'medcli[onnx]'.
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
@click.option("--to", "form", required=True, type=click.Choice(["onnx", "torchscript"]), help="File format.")
@click.option("-o", "--output", required=True, metavar="FILE", type=options.FILE, help="Output file.")
@click.option(
    "--size",
    type=str,
    callback=lambda _context, _option, value: _size(value),
    metavar="HxW|dynamic",
    default="dynamic",
    show_default=True,
    help="Height and width of the input.",
)
@options.threads()
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
def command(model: str, form: str, output: Path, size: tuple[int, int] | None, force: bool) -> None:
    from medcli.zoo.export import export
    from medcli.zoo.model import find_model

    if output.exists() and not force:
        raise OutputError(f"{output} exists.", "Overwrite it with --force.")
    found = find_model(model, _say)
    network = found.network()
    written = export(network, found.card, output, form=form, size=size)
    for line in lines(written, form, int(str(network.multiple)), found.card.strategy):
        _say(line)


def _say(line: str) -> None:
    click.echo(line, err=True)


def lines(written: Exported, form: str, multiple: int, strategy: str) -> list[str]:
    """A report on the file. multiple: of height and width, in pixels."""
    from medcli.zoo.export import OPSET, TOLERANCE

    kind = f"ONNX, opset {OPSET}" if form == "onnx" else "TorchScript"
    sides = "x".join(map(str, written.size)) if written.size else "any height and width"
    report = [
        f"{written.path} is ready: {kind}, {decimal(written.bytes)}, for {sides}; "
        f"within {written.difference:.1g} of the network ({TOLERANCE:g} allowed)"
    ]
    if multiple > 1:
        report.append(f"  Height and width must be multiples of {multiple}: pad the input and crop the result.")
    if strategy != "plain":
        report.append(f"  It is only the network: apply the strategy '{strategy}' yourself.")
    return report
