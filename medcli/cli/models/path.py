"""`med models path`: path of a model's weight file."""

from __future__ import annotations

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.zoo import catalog

HELP = "Print the path of a model's weight file, for scripts. Nothing is downloaded: a missing model is an error."


@click.command(name="path", help=HELP, epilog=EXIT_CODES)
@click.argument("name", metavar="ID", shell_complete=options.complete_id)
def command(name: str) -> None:
    entry = catalog.find(name)
    click.echo(catalog.ours(entry, catalog.verify(entry)))
