"""`med models rm`: deletes downloaded models."""

from __future__ import annotations

import click
from rich.filesize import decimal

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.errors import ModelError
from medcli.zoo import catalog

HELP = "Remove downloaded models. Models that are part of medcli are kept."


@click.command(name="rm", help=HELP, epilog=EXIT_CODES)
@click.argument("names", metavar="ID...", nargs=-1, required=True, shell_complete=options.complete_fetched)
def command(names: tuple[str, ...]) -> None:
    known = catalog.entries()
    chosen = [catalog.find(name, known) for name in dict.fromkeys(names)]
    stays = [entry.id for entry in chosen if entry.hub is None]
    if stays:
        raise ModelError(f"'{stays[0]}' is part of medcli and is kept.", "Only downloaded models can be removed.")
    for entry in chosen:
        freed = catalog.remove(entry)
        result = f"removed, {decimal(freed)} freed" if freed else "is not on this machine"
        click.echo(f"{entry.id}: {result}", err=True)
