"""`med models import`: converts checkpoints of other projects to weight files of medcli."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

if TYPE_CHECKING:
    from medcli.zoo.convert import Found

HELP = """Convert a checkpoint of another project to a weight file of medcli.

\b
Examples:
  med models import dncnn_color_blind.pth -o dncnn.safetensors --licence MIT
  med models import NAFNet-SIDD-width32.pth -o nafnet.safetensors
  med models import mine.pth --arch unet --config net.yaml --map names.yaml -o mine.safetensors

FILE is a .pth or safetensors file. Architecture and configuration are detected from the names and shapes of its
tensors: DnCNN of KAIR and DeepInverse, NAFNet of BasicSR, Restormer as published. Other files need --arch, --config
and, unless the tensors have medcli's names, --map: YAML lines of 'old name: new name', for a tensor or a dotted
prefix, or 'old name: null' to omit it.

A .pth file is a pickle, which can contain code. It is read in a separate process that accepts only tensors; a file that
needs anything else is rejected, and the error names it.
"""


@click.command(name="import", help=HELP, epilog=EXIT_CODES)
@click.argument("file", metavar="FILE", type=options.FILE)
@click.option("-o", "--output", required=True, metavar="FILE", type=options.FILE)
@click.option("--arch", metavar="NAME", help="Architecture.  [default: detected from the tensors' names]")
@click.option("--config", metavar="FILE|YAML", default="", help="Arguments of the architecture, in YAML or JSON.")
@click.option("--map", "names", metavar="FILE", type=options.FILE, help="Old to new names.")
@click.option("--id", "name", metavar="NAME", help="Id of the model.  [default: the output's name]")
@click.option("--licence", metavar="SPDX", default="", help="Licence of the weights, stored in the file.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def command(
    file: Path,
    output: Path,
    arch: str | None,
    config: str,
    names: Path | None,
    name: str | None,
    licence: str,
    force: bool,
    quiet: bool,
) -> None:
    from medcli.errors import OutputError
    from medcli.zoo.convert import ImportOptions, import_file

    if output.suffix != ".safetensors":
        raise click.UsageError(f"A weight file must end in .safetensors: {output.name}.")
    if output.exists() and not force:
        raise OutputError(f"{output} exists.", "Give another name, or overwrite it with --force.")
    found = import_file(
        file, output, ImportOptions(name or output.stem, arch, _config(config), _renames(names), licence)
    )
    if not quiet:
        for line in _report(file, output, found):
            click.echo(line)


def _config(text: str) -> dict[str, Any]:
    """Arguments of an architecture, from a file or from the text itself."""
    is_file = os.path.isfile(text)  # noqa: PTH113 - no error for text too long for a path
    loaded = _yaml_file(Path(text)) if is_file else _yaml(text, "--config")
    return {str(key): value for key, value in loaded.items()}


def _renames(path: Path | None) -> dict[str, str | None]:
    if path is None:
        return {}
    loaded = _yaml_file(path)
    return {str(old): None if new is None else str(new) for old, new in loaded.items()}


def _yaml_file(path: Path) -> dict[Any, Any]:
    try:
        return _yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}.") from error


def _yaml(text: str, where: str) -> dict[Any, Any]:
    """A mapping, empty for empty text."""
    import yaml

    try:
        loaded = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # invalid dates, endless brackets
        raise click.UsageError(f"{where} is not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise click.UsageError(f"{where} must be lines of 'name: value', not {text[:40]!r}.")
    return loaded


def _report(file: Path, output: Path, found: Found) -> list[str]:
    from medcli.zoo.checkpoint_formats import NAMINGS

    card = found.card
    origin = NAMINGS[found.naming].origin if found.naming else "medcli"
    before = f", each behind '{found.prefix}'" if found.prefix else ""
    config = "  ".join(f"{key} {value}" for key, value in card.config.items())
    return [
        f"{file}: {card.architecture}, {found.tensors} tensors in the naming of {origin}{before}",
        f"  {config}",
        f"  {found.parameters:,} parameters{'; ' + found.remark if found.remark else ''}",
        *([] if card.licence else ["  licence unknown: set it with --licence before sharing the file"]),
        f"{output} is ready: med denoise IMAGE --model {output}",
    ]
