"""`med models import`: other people's checkpoints become weight files that `med denoise` takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

if TYPE_CHECKING:
    from medcli.zoo.convert import Found

HELP = """Turn a foreign checkpoint into a weight file of medcli.

\b
Examples:
  med models import dncnn_color_blind.pth -o dncnn.safetensors --licence MIT
  med models import NAFNet-SIDD-width32.pth -o nafnet.safetensors
  med models import mine.pth --arch unet --config net.yaml --map names.yaml -o mine.safetensors

FILE is a .pth file or safetensors. Architecture and configuration are read off the names and shapes of its tensors:
DnCNN as KAIR and DeepInverse name it, NAFNet as BasicSR does, Restormer as published. Any other file needs --arch,
--config and, unless its names are ours, --map: YAML lines of 'old name: new name', for a tensor or for all below a
dotted name, or 'old name: null' to leave it out.

A .pth file is a program. It is read in a process of its own that loads tensors and runs nothing else; a file that
asks for more is refused, with the name of what it asked for.
"""


@click.command(name="import", help=HELP, epilog=EXIT_CODES)
@click.argument("file", metavar="FILE", type=options.FILE)
@click.option("-o", "--output", required=True, metavar="FILE", type=options.FILE)
@click.option("--arch", metavar="NAME", help="Architecture.  [default: what the tensors' names say]")
@click.option("--config", metavar="FILE|YAML", default="", help="Its arguments, in YAML or JSON.")
@click.option("--map", "names", metavar="FILE", type=options.FILE, help="Old to new names.")
@click.option("--id", "name", metavar="NAME", help="Of the model.  [default: the output's name]")
@click.option("--licence", metavar="SPDX", default="", help="Of the weights; goes into the file.")
@click.option("-f", "--force", is_flag=True, help="Overwrite.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
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
        raise click.UsageError(f"A weight file is called .safetensors, not {output.name}.")
    if output.exists() and not force:
        raise OutputError(f"{output} exists.", "Give another name, or --force to overwrite it.")
    wish = ImportOptions(name or output.stem, arch, _config(config), _renames(names), licence)
    found = import_file(file, output, wish)
    if not quiet:
        for line in _report(file, output, found):
            click.echo(line)


def _config(text: str) -> dict[str, Any]:
    """Arguments of an architecture from a file, or from what was typed itself."""
    is_file = os.path.isfile(text)  # noqa: PTH113 - what was typed may be longer than a name can be
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a day that is none; brackets without end
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
        *([] if card.licence else ["  licence unknown: say it with --licence before passing the file on"]),
        f"{output} is ready: med denoise IMAGE --model {output}",
    ]
