"""`med models bundle`: models in a folder for offline machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import click
import yaml
from rich.filesize import decimal

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.errors import OutputError
from medcli.files.checksum import sha256_of
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry

HELP = """Pack models for offline machines.

\b
Examples:
  med models bundle stick/                      every model on this machine
  med models bundle stick/ nafnet-sidd-32

DIR gets the published weights, their test vectors, the rows of the catalogue and SHA256SUMS for 'sha256sum -c'.
On the other machine: med models pull --from-bundle DIR
"""
SUMS, ROWS = "SHA256SUMS", "models.yaml"


@click.command(name="bundle", help=HELP, epilog=EXIT_CODES)
@click.argument("folder", metavar="DIR", type=options.FOLDER)
@click.argument("names", metavar="[ID]...", nargs=-1, shell_complete=options.complete_id)
def command(folder: Path, names: tuple[str, ...]) -> None:
    known = catalog.entries()
    chosen = [catalog.find(name, known) for name in dict.fromkeys(names)]
    chosen = chosen or [entry for entry in known.values() if catalog.is_here(entry)]
    sources = {entry.plain_name: catalog.verify(entry) for entry in chosen}
    sources |= {entry.vector_name: entry.vector for entry in chosen if entry.vector.exists()}
    pack(folder, sources, chosen)
    total = sum(source.stat().st_size for source in sources.values())
    click.echo(f"{folder}: {', '.join(entry.id for entry in chosen)}; {decimal(total)}", err=True)


def pack(folder: Path, sources: dict[str, Path], chosen: Iterable[Entry]) -> None:
    """Writes the bundle: name -> source file. Raises OutputError for a folder that is not empty."""
    rows = {"models": [catalog.as_row(entry) for entry in chosen]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty.", "Name a new folder.")
        for name, source in sources.items():
            shutil.copyfile(source, folder / name)
        sums = [f"{sha256_of(folder / name)}  {name}\n" for name in sources]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
        (folder / ROWS).write_text(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        hint = "Choose another folder, or free disk space."
        raise OutputError(f"{folder} cannot be written: {error.strerror}.", hint) from error
