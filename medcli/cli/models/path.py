"""`med models path`: where the weight file of a model lies."""

from __future__ import annotations

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.zoo import catalog

HELP = "Where a model's weight file lies, for scripts. Nothing is fetched: a model that is not here is an error."


@click.command(name="path", help=HELP, epilog=EXIT_CODES)
@click.argument("name", metavar="ID", shell_complete=options.complete_id)
def command(name: str) -> None:
    entry = catalog.find(name)
    click.echo(catalog.ours(entry, catalog.verify(entry)))
