"""`med models card`: a model card."""

from __future__ import annotations

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.zoo.catalog import find

HELP = "Print a model card in Markdown, as on the Hugging Face Hub: purpose, limits, licences, scores, network."


@click.command(name="card", help=HELP, epilog=EXIT_CODES)
@click.argument("name", metavar="ID", shell_complete=options.complete_id)
def command(name: str) -> None:
    from medcli.zoo.modelcard import render

    click.echo(render(find(name)), nl=False)
