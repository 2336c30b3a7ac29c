"""Atomic writes: a file is written under a temporary name in the same folder and renamed when it is complete.

A temporary file is locked as long as its process lives. One without a lock is left from a killed run, and the next run
in that folder removes it.
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

PREFIX, SUFFIX = ".medcli-", ".part"
# Errors of file systems (gvfs, CIFS, NFS, exFAT) that lack an operation.
UNSUPPORTED = frozenset(
    (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
)
HINTS = {
    errno.ENOSPC: "Make room, or choose another folder with -o.",
    errno.EDQUOT: "Your quota is used up: make room, or choose another folder with -o.",
    errno.EACCES: "Check the permissions of the folder, or choose another folder with -o.",
    errno.EPERM: "Check the permissions of the folder, or choose another folder with -o.",
    errno.EROFS: "The file system is read-only: choose another folder with -o.",
    errno.ENAMETOOLONG: "Choose a shorter name with -o.",
    errno.EIO: "The disk or the connection to it may be failing: choose another folder with -o.",
}
ELSEWHERE = "Choose another folder with -o."


def hint_for(error: OSError) -> str:
    """What to try where writing failed with this error."""
    return HINTS.get(error.errno or 0, ELSEWHERE)


def _silent(note: str) -> None:
    """Ignores notes."""


@contextmanager
def atomic_write(
    target: Path, before: Callable[[Path], None] | None = None, remark: Callable[[str], None] = _silent
) -> Iterator[BinaryIO]:
    """As `open_atomic`, and raises OutputError with a hint where the file cannot be written."""
    try:
        with open_atomic(target, before, remark) as file:
            yield file
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.", hint_for(error)) from error


@contextmanager
def open_atomic(
    target: Path, before: Callable[[Path], None] | None = None, remark: Callable[[str], None] = _silent
) -> Iterator[BinaryIO]:
    """A binary file that becomes `target` when the block ends, or vanishes where it raises.

    `before` is called with the finished temporary file just before it is renamed. Folders are made as needed. File
    systems without permissions, flushing or locks are written to all the same; `remark` is called with a line on each.
    Raises OSError, and OutputError where `target` is a folder or a device.
    """
    target = target.resolve() if target.is_symlink() else target
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} is not a plain file and cannot be replaced.", "Name a file, or use '-o -'.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PREFIX}{secrets.token_hex(6)}{SUFFIX}")
    where = f"{target.parent} is on a file system"
    try:
        with partial.open("x+b") as file:
            try:
                lock(file)
            except OSError:
                remark(f"{where} without locks: temporary files of killed runs stay there.")
            yield file
            file.flush()
            with _unless_supported(lambda: remark(f"{where} without flushing: a power cut may lose results.")):
                os.fsync(file.fileno())
            if target.exists():
                with _unless_supported(lambda: remark(f"{where} without permissions: replaced files lose theirs.")):
                    shutil.copymode(target, partial)
            if before is not None:
                before(partial)
            if os.name == "nt":  # where an open file cannot be renamed; elsewhere it stays locked until it has its name
                file.close()
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _unless_supported(otherwise: Callable[[], None]) -> Iterator[None]:
    """Calls `otherwise` where the file system does not offer what the block does; other errors are raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        otherwise()


def remove_stale(folders: Iterable[Path]) -> None:
    """Removes the temporary files of killed runs from these folders; those of running processes stay."""
    for folder in set(folders):
        for partial in folder.glob(f"{PREFIX}*{SUFFIX}"):
            with suppress(OSError), partial.open("r+b") as file:
                lock(file)
                if os.name == "nt":
                    file.close()
                partial.unlink()


def lock(file: BinaryIO, *, wait: bool = False) -> None:
    """Until the file is closed, or its process is gone. On Windows an open file cannot be removed anyway.

    Raises OSError where another process has locked the file, unless `wait`, and where there are no locks.
    """
    if os.name != "nt":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
