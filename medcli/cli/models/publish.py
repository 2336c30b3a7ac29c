"""`med models publish`: uploads a trained model to the Hugging Face Hub."""

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
  med models publish run/ --repo me/my-denoiser --dry-run   show what would be uploaded
  med models publish run/ --repo me/my-denoiser

RUN is the folder of a training run, or a weight file. The repository gets the weights, a model card, the recipe if
there is one, a test vector and config.json. A README.md in the run's folder is used as the model card.

The token is read from 'hf auth login' or HF_TOKEN. The row for models.yaml, with revision and checksum, is printed to
standard output.
"""


@click.command(name="publish", help=HELP, epilog=EXIT_CODES)
@click.argument("run", metavar="RUN", type=options.UserPath(exists=True))
@click.option("--repo", required=True, metavar="OWNER/NAME", help="Repository; created if it does not exist.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--pr", "create_pr", is_flag=True, help="Open a pull request, for a repository of another owner.")
@click.option(
    "--folder",
    metavar="DIR",
    type=options.FOLDER,
    help="Build the files here and keep them.  [default: a temporary folder, kept after --dry-run]",
)
@click.option("-n", "--dry-run", is_flag=True, help="Build and show the files without uploading; needs no network.")
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
        click.echo("The weights have no licence, so others may not use them: set 'licence' in the recipe.", err=True)


def _amount(ready: Folder) -> str:
    return f"{len(ready.files)} files, {decimal(sum(ready.files.values()))},"
