"""How a result gets its name: written beside its place under a temporary name, whole or not at all.

A temporary file is locked as long as its run lives. One that is not locked belongs to a run that was killed, and the
next run in that folder sweeps it away.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from medcli.errors import OutputError

PREFIX, ENDING = ".medcli-", ".part"
# What shares (gvfs, CIFS, NFS, exFAT) answer to what they do not offer.
UNSUPPORTED = frozenset(
    (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
)
HINTS = {
    errno.ENOSPC: "Make room, or choose another place with -o.",
    errno.EDQUOT: "Your quota is used up: make room, or choose another place with -o.",
    errno.EACCES: "Check the permissions of the folder, or choose another place with -o.",
    errno.EPERM: "Check the permissions of the folder, or choose another place with -o.",
    errno.EROFS: "The file system is read-only: choose another place with -o.",
    errno.ENAMETOOLONG: "Choose a shorter name with -o.",
    errno.EIO: "The disk or the connection to it may be failing: choose another place with -o.",
}
ELSEWHERE = "Choose another place with -o."


def hint_for(error: OSError) -> str:
    """What to try where writing failed with this error."""
    return HINTS.get(error.errno or 0, ELSEWHERE)


def _silent(note: str) -> None:
    """Where nobody asks for notes."""


@contextmanager
def atomic_write(
    target: Path, before: Callable[[Path], None] | None = None, remark: Callable[[str], None] = _silent
) -> Iterator[BinaryIO]:
    """A binary file that becomes `target` when the block ends, or vanishes where it raises.

    `before` is called with the finished temporary file just before it is renamed. Folders are made as needed. A share
    that knows no permissions, flushing or locks is written to all the same; `remark` is called with a line on each.
    Raises OutputError where the place cannot be written.
    """
    try:
        target = target.resolve() if target.is_symlink() else target
        if target.exists() and not target.is_file():
            raise OutputError(f"{target} is not a plain file and cannot be replaced.", "Name a file, or use '-o -'.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{PREFIX}{secrets.token_hex(6)}{ENDING}")
        with _removed_on_error(partial), partial.open("x+b") as file:
            try:
                _lock(file)
            except OSError:
                remark(f"{target.parent} is on a file system without locks: what a killed run leaves there stays.")
            yield file
            _settle(file, partial, target, before, remark)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.", hint_for(error)) from error


def _settle(
    file: BinaryIO,
    partial: Path,
    target: Path,
    before: Callable[[Path], None] | None,
    remark: Callable[[str], None],
) -> None:
    file.flush()
    where = f"{target.parent} is on a file system that"
    with _optional(lambda: remark(f"{where} cannot be told to flush: after a power cut, results may be missing.")):
        os.fsync(file.fileno())
    if target.exists():
        with _optional(lambda: remark(f"{where} keeps no permissions: those of files that were replaced are gone.")):
            shutil.copymode(target, partial)
    if before is not None:
        before(partial)
    if os.name == "nt":  # where an open file cannot be renamed; elsewhere it stays locked until it has its name
        file.close()
    partial.replace(target)


@contextmanager
def _optional(otherwise: Callable[[], None]) -> Iterator[None]:
    """For what a share may refuse; a disk that is full or broken is another matter."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        otherwise()


@contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_stale(folders: Iterable[Path]) -> None:
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
