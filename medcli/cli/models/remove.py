"""`med models rm`: room on the disk."""

from __future__ import annotations

import click
from rich.filesize import decimal

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.errors import ModelError
from medcli.zoo import catalog

HELP = "Remove fetched models from this machine. Those that come with medcli stay."


@click.command(name="rm", help=HELP, epilog=EXIT_CODES)
@click.argument("names", metavar="ID...", nargs=-1, required=True, shell_complete=options.complete_fetched)
def command(names: tuple[str, ...]) -> None:
    known = catalog.entries()
    chosen = [catalog.find(name, known) for name in dict.fromkeys(names)]
    stays = [entry.id for entry in chosen if entry.hub is None]
    if stays:
        raise ModelError(f"'{stays[0]}' comes with medcli and stays.", "Only fetched models can be removed.")
    for entry in chosen:
        freed = catalog.remove(entry)
        result = f"removed, {decimal(freed)} freed" if freed else "is not on this machine"
        click.echo(f"{entry.id}: {result}", err=True)
