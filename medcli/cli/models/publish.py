"""`med models publish`: a trained model, with all that others need, to the Hugging Face Hub."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

if TYPE_CHECKING:
    from medcli.zoo.publish import Folder

HELP = """Publish a trained model on the Hugging Face Hub.

\b
Examples:
  med models publish run/ --repo me/my-denoiser --dry-run   shows what would be public
  med models publish run/ --repo me/my-denoiser

RUN is the folder of a training run, or a weight file. The repository gets the weights, a page that describes them, the
recipe if there is one, a vector to test them with, and config.json. A README.md in the run's folder becomes the page.

The token is that of 'hf auth login', or HF_TOKEN. The row for models.yaml, with revision and checksum, goes to
standard output.
"""


@click.command(name="publish", help=HELP, epilog=EXIT_CODES)
@click.argument("run", metavar="RUN", type=options.UserPath(exists=True))
@click.option("--repo", required=True, metavar="OWNER/NAME", help="Where to; made if it is not there.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--pr", "create_pr", is_flag=True, help="As a pull request, to a repository of somebody else.")
@click.option(
    "--folder",
    metavar="DIR",
    type=options.FOLDER,
    help="Build it here and keep it.  [default: a temporary folder; it stays after --dry-run]",
)
@click.option("-n", "--dry-run", is_flag=True, help="Build and show what would be published, without a network.")
def command(run: Path, repo: str, private: bool, create_pr: bool, folder: Path | None, dry_run: bool) -> None:
    from medcli.zoo import publish

    publish.check_repo(repo)
    if dry_run:
        kept = folder or Path(tempfile.gettempdir()) / f"medcli-{secrets.token_hex(4)}"
        _show(publish.prepare(run, kept, repo), repo)
        return
    with tempfile.TemporaryDirectory(prefix="medcli-") as temporary:
        ready = publish.prepare(run, folder or Path(temporary), repo)
        _warn(ready)
        commit = publish.upload(ready, repo, private=private, create_pr=create_pr)
        click.echo(f"{_amount(ready)} are at {commit.url}", err=True)
        click.echo(publish.row(ready, repo, commit.revision), nl=False)


def _show(ready: Folder, repo: str) -> None:
    """The folder and its page, to standard output."""
    click.echo(f"{ready.path}: {_amount(ready)} for {repo}")
    for name, size in ready.files.items():
        click.echo(f"  {size:>12,}  {name}")
    click.echo(f"\n{ready.page}", nl=False)
    _warn(ready)


def _warn(ready: Folder) -> None:
    if not ready.card.licence:
        click.echo("The weights name no licence, so nobody may use them: give the recipe a 'licence'.", err=True)


def _amount(ready: Folder) -> str:
    return f"{len(ready.files)} files, {decimal(sum(ready.files.values()))},"
