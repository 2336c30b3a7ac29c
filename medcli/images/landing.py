"""How a result gets its name: written beside its place under a temporary name, whole or not at all.

A temporary file is locked as long as its run lives. One that is not locked belongs to a run that was killed, and the
next run in that folder sweeps it away.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from medcli.errors import OutputError

PREFIX, ENDING = ".medcli-", ".part"
HINT = "Choose another place with -o, or make room."


@contextmanager
def landing(target: Path, before: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A binary file that becomes `target` when the block ends, or vanishes where it raises.

    `before` is called with the finished temporary file just before it is renamed. Folders are made as needed.
    Raises OutputError where the place cannot be written.
    """
    try:
        target = target.resolve() if target.is_symlink() else target
        if target.exists() and not target.is_file():
            raise OutputError(f"{target} is not a plain file and cannot be replaced.", "Name a file, or use '-o -'.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{PREFIX}{secrets.token_hex(6)}{ENDING}")
        with _removed_on_error(partial), partial.open("x+b") as file:
            with suppress(OSError):  # a file system without locks: what a killed run leaves there is not swept
                _lock(file)
            yield file
            _settle(file, partial, target, before)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.", HINT) from error


def _settle(file: BinaryIO, partial: Path, target: Path, before: Callable[[Path], None] | None) -> None:
    file.flush()
    os.fsync(file.fileno())
    if target.exists():
        shutil.copymode(target, partial)
    if before is not None:
        before(partial)
    if os.name == "nt":  # where an open file cannot be renamed; elsewhere it stays locked until it has its name
        file.close()
    partial.replace(target)


@contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(folders: Iterable[Path]) -> None:
    """Removes what killed runs left in these folders; the files of living runs stay."""
    for folder in set(folders):
        for partial in folder.glob(f"{PREFIX}*{ENDING}"):
            with suppress(OSError), partial.open("r+b") as file:
                _lock(file)
                if os.name == "nt":
                    file.close()
                partial.unlink()


def _lock(file: BinaryIO) -> None:
    """Marks a temporary file as ours; raises OSError where a living run holds it. Windows refuses by itself."""
    if os.name != "nt":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
