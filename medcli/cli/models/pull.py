"""`med models pull`: downloads models from the Hub, or installs them from a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.progress import message_lines
from medcli.errors import MedcliError, ModelError, SomeFailed
from medcli.files.checksum import CHUNK
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry
from medcli.zoo.fetch import Say, ignore

HELP = """Download models for offline use.

\b
Examples:
  med models pull nafnet-sidd-32
  med models pull --all
  med models pull --from-bundle stick/        made by 'med models bundle stick/' elsewhere

A file is used only if its checksum matches the catalogue. Models that are present are not downloaded again.
"""
BUNDLE_HINT = "Make one with: med models bundle DIR"
SAME = "Install the same version of medcli on both machines."
AGAIN = "Pack or copy the bundle again."


@click.command(name="pull", help=HELP, epilog=EXIT_CODES)
@click.argument("names", metavar="ID...", nargs=-1, shell_complete=options.complete_id)
@click.option("--all", "everything", is_flag=True, help="All models of the catalogue.")
@click.option(
    "--from-bundle",
    "bundle",
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Install from this folder, offline. Without ID: all models in it.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
def command(names: tuple[str, ...], everything: bool, bundle: Path | None, quiet: bool) -> None:
    if bool(names) + everything + (bundle is not None and not names) != 1:
        raise click.UsageError("Give model names, --all, or --from-bundle DIR.")
    known = catalog.entries()
    say = ignore if quiet else partial(click.echo, err=True)
    if bundle is not None:
        packed = bundled_here(bundle)
        work = partial(install, folder=bundle, say=say)
        chosen = [_agreed(catalog.find(name, packed), known) for name in dict.fromkeys(names) or packed]
    else:
        work = partial(_pull, say=say)
        chosen = [catalog.find(name, known) for name in dict.fromkeys(names) or known]
    each(chosen, work)


def each(chosen: list[Entry], work: Callable[[Entry], None]) -> None:
    """Does the work for every model, also if some fail. Raises MedcliError at the end."""
    failed = 0
    for entry in chosen:
        try:
            work(entry)
        except MedcliError as error:
            if len(chosen) == 1:
                raise
            failed += 1
            click.echo("\n".join(message_lines(error)), err=True)
    if failed:
        raise SomeFailed(f"{failed} of {len(chosen)} models are not available.")


def _pull(entry: Entry, say: Say) -> None:
    path = catalog.pull(entry, say)
    say(f"{entry.id}: " + ("part of medcli" if entry.hub is None else f"ready, {path}"))


def bundled_here(folder: Path) -> Mapping[str, Entry]:
    """The models of a bundle by id. Raises ModelError if the folder is not a bundle."""
    rows = folder / "models.yaml"
    if not rows.is_file():
        raise ModelError(f"{folder} is not a bundle of models: it has no models.yaml.", BUNDLE_HINT)
    return catalog.entries(rows)


def _agreed(packed: Entry, known: Mapping[str, Entry]) -> Entry:
    """The entry of the installed catalogue, the only one that is trusted. Raises ModelError."""
    if packed.id not in known:
        raise ModelError(f"This version of medcli has no model '{packed.id}'.", SAME)
    if packed.sha256 != known[packed.id].sha256:
        raise ModelError(f"The bundle's '{packed.id}' differs from that of this version of medcli.", SAME)
    return known[packed.id]


def install(entry: Entry, folder: Path, say: Say) -> None:
    """Copies one model from a bundle to the store if its checksum matches. Raises MedcliError."""
    from medcli.files.atomic import atomic_write
    from medcli.files.checksum import sha256_of

    def verify(copy: Path) -> None:
        if sha256_of(copy) != entry.sha256:
            raise ModelError(f"{source} is corrupt: its checksum differs.", AGAIN)

    source = folder / entry.plain_name
    if entry.hub is not None and not _is_sound(entry):
        say(f"{entry.id}: {entry.size} from {folder} to {entry.path.parent}")
        with atomic_write(entry.path, before=verify) as file:
            file.writelines(_blocks(source))
    _pull(entry, say)


def _is_sound(entry: Entry) -> bool:
    try:
        return catalog.present(entry) is not None
    except ModelError:  # installed, but corrupt now
        return False


def _blocks(source: Path) -> Iterable[bytes]:
    """A file in blocks. Raises ModelError if it cannot be read."""
    try:
        with source.open("rb") as file:
            while block := file.read(CHUNK):
                yield block
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}.", AGAIN) from error
