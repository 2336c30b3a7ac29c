"""Checksums: what says that bytes are the ones that were published."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits, of the file as it is now. Raises OSError."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            state.update(block)
    return state.hexdigest()


def measure(path: Path) -> tuple[int, str]:
    """(bytes, sha256) of a file; hashed once in a process as long as the file stays the same. Raises OSError."""
    seen = path.stat()
    return seen.st_size, _remembered(path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


@lru_cache(maxsize=64)
def _remembered(path: Path, *_identity: int) -> str:
    return sha256_of(path)
