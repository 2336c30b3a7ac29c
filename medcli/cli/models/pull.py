"""`med models pull`: models onto this machine, from the Hub or from a bundle."""

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

HELP = """Fetch models, to use them without a network from then on.

\b
Examples:
  med models pull nafnet-sidd-32
  med models pull --all
  med models pull --from-bundle stick/        what 'med models bundle stick/' packed elsewhere

A file is taken only if its checksum is that of the catalogue. What is here already is not fetched again.
"""
BUNDLE_HINT = "Make one with: med models bundle DIR"
SAME = "Bring both machines to the same version of medcli."
AGAIN = "Pack or copy the bundle again."


@click.command(name="pull", help=HELP, epilog=EXIT_CODES)
@click.argument("names", metavar="ID...", nargs=-1, shell_complete=options.complete_id)
@click.option("--all", "everything", is_flag=True, help="Every model of the catalogue.")
@click.option(
    "--from-bundle",
    "bundle",
    type=options.EXISTING_FOLDER,
    metavar="DIR",
    help="Install from this folder; no network. Without ID, all that is in it.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
def command(names: tuple[str, ...], everything: bool, bundle: Path | None, quiet: bool) -> None:
    if bool(names) + everything + (bundle is not None and not names) != 1:
        raise click.UsageError("Name models, or say --all, or --from-bundle DIR.")
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
    """Does the work for every model; one that fails does not stop the others. Raises MedcliError in the end."""
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
        raise SomeFailed(f"{failed} of {len(chosen)} models could not be had.")


def _pull(entry: Entry, say: Say) -> None:
    path = catalog.pull(entry, say)
    say(f"{entry.id}: " + ("comes with medcli" if entry.hub is None else f"ready, {path}"))


def bundled_here(folder: Path) -> Mapping[str, Entry]:
    """What a bundle holds, by id. Raises ModelError where the folder is none."""
    rows = folder / "models.yaml"
    if not rows.is_file():
        raise ModelError(f"{folder} is no bundle of models: it has no models.yaml.", BUNDLE_HINT)
    return catalog.entries(rows)


def _agreed(packed: Entry, known: Mapping[str, Entry]) -> Entry:
    """The entry of this medcli's own catalogue, which alone says what is trusted. Raises ModelError."""
    if packed.id not in known:
        raise ModelError(f"This medcli knows no model '{packed.id}'.", SAME)
    if packed.sha256 != known[packed.id].sha256:
        raise ModelError(f"The bundle's '{packed.id}' is another than this medcli's.", SAME)
    return known[packed.id]


def install(entry: Entry, folder: Path, say: Say) -> None:
    """Copies one model from a bundle into the store, where its checksum is right. Raises MedcliError."""
    from medcli.files.atomic import atomic_write
    from medcli.files.checksum import sha256_of

    def verify(copy: Path) -> None:
        if sha256_of(copy) != entry.sha256:
            raise ModelError(f"{source} is corrupt: its checksum is another.", AGAIN)

    source = folder / entry.plain_name
    if entry.hub is not None and not _is_sound(entry):
        say(f"{entry.id}: {entry.size} from {folder} to {entry.path.parent}")
        with atomic_write(entry.path, before=verify) as file:
            file.writelines(_blocks(source))
    _pull(entry, say)


def _is_sound(entry: Entry) -> bool:
    try:
        return catalog.present(entry) is not None
    except ModelError:  # installed before, and spoiled since
        return False


def _blocks(source: Path) -> Iterable[bytes]:
    """A file in pieces. Raises ModelError where it cannot be read."""
    try:
        with source.open("rb") as file:
            while block := file.read(CHUNK):
                yield block
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}.", AGAIN) from error
