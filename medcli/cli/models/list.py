"""`med models list`: one line per model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Literal

import click

from medcli.cli.lazy import EXIT_CODES
from medcli.zoo.catalog import DOMAINS, Entry, as_row, entries, where

HELP = """List the models.

\b
Where they are stored:
  bundled   part of medcli
  cached    downloaded or installed; no network is needed
  hub       will be downloaded from the Hugging Face Hub
"""
HEADINGS = ("model", "title", "domain", "size", "where", "licence")


@click.command(name="list", help=HELP, epilog=EXIT_CODES)
@click.option("--domain", type=click.Choice(list(DOMAINS)), help="Only models for this kind of image.")
@click.option("--json", "as_objects", is_flag=True, help="Print all details as a JSON list.")
def command(domain: str | None, as_objects: bool) -> None:
    chosen = [entry for entry in entries().values() if domain in (None, entry.domain)]
    if as_objects:
        rows = [as_row(entry) | {"where": where(entry)} for entry in chosen]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif not chosen:
        click.echo(f"There is no model for the domain '{domain}' yet.", err=True)
    elif sys.stdout.isatty():
        _draw(chosen)
    else:
        click.echo("\n".join(plain([HEADINGS, *map(cells, chosen)])))


def cells(entry: Entry) -> tuple[str, ...]:
    """A model's line of the table."""
    return entry.id, entry.title, entry.domain, entry.size, where(entry), entry.licence


def plain(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns separated by two spaces, for pipes and files."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _draw(chosen: Sequence[Entry]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for heading in HEADINGS:
        justify: Literal["left", "right"] = "right" if heading == "size" else "left"
        drawn.add_column(heading, justify=justify, no_wrap=heading not in ("title", "licence"))
    for entry in chosen:
        drawn.add_row(*map(Text, cells(entry)))
    Console().print(drawn)
