"""Checksums of files. A weight file is read once in a process for all the checksums that are compared with."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

CHUNK = 1 << 20


class Checksums(NamedTuple):
    """bytes: size of the file; sha256: 64 hexadecimal digits, as in the catalogue; blake2b: 40, as in manifests."""

    bytes: int
    sha256: str
    blake2b: str


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits, of the file as it is now. Raises OSError."""
    return _read(path)[1]


def checksums(path: Path) -> Checksums:
    """Size and checksums of a file, which is read once as long as it stays the same. Raises OSError."""
    seen = path.stat()
    return _remembered(path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


@lru_cache(maxsize=64)
def _remembered(path: Path, *_identity: int) -> Checksums:
    return _read(path)


def _read(path: Path) -> Checksums:
    size, sha256, blake2b = 0, hashlib.sha256(), hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            size += len(block)
            sha256.update(block)
            blake2b.update(block)
    return Checksums(size, sha256.hexdigest(), blake2b.hexdigest())
