"""`med manual`: manual pages for man(1), written from the help texts."""

from __future__ import annotations

from pathlib import Path

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Write manual pages, one for each command.

\b
Example:
  med manual man/man1                     then: man -M man med-denoise

In ~/.local/share/man/man1, man finds them by itself.
"""


@click.command(name="manual", help=HELP, epilog=EXIT_CODES)
@click.argument("folder", type=options.FOLDER)
def command(folder: Path) -> None:
    from medcli.cli import med
    from medcli.cli.reference import entries, manual_page
    from medcli.files.atomic import atomic_write

    pages = {f"{entry.words.replace(' ', '-')}.1": manual_page(entry) for entry in entries(med)}
    for name, text in pages.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    click.echo(f"{len(pages)} pages in {folder}", err=True)
