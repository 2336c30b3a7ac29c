"""Checksums of files and of bytes. The checksums of a model are computed once in a process."""

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


def sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def blake2b(content: bytes, digits: int = 40) -> str:
    """So many hexadecimal digits, an even number."""
    return hashlib.blake2b(content, digest_size=digits // 2).hexdigest()


def sha256_of(path: Path) -> str:
    """Of a file as it is now. Raises OSError."""
    state = hashlib.sha256()
    _read(path, state)
    return state.hexdigest()


def blake2b_of(path: Path) -> str:
    """Of a file as it is now, 40 digits. Raises OSError."""
    state = hashlib.blake2b(digest_size=20)
    _read(path, state)
    return state.hexdigest()


def checksums(path: Path) -> Checksums:
    """Size and checksums of a file, which is read once as long as it stays the same. Raises OSError."""
    seen = path.stat()
    return _cached(path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


@lru_cache(maxsize=64)
def _cached(path: Path, *_identity: int) -> Checksums:
    sha, blake = hashlib.sha256(), hashlib.blake2b(digest_size=20)
    return Checksums(_read(path, sha, blake), sha.hexdigest(), blake.hexdigest())


def _read(path: Path, *states: hashlib._Hash | hashlib.blake2b) -> int:
    """Adds a file's content to each state; returns its size in bytes."""
    size = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            size += len(block)
            for state in states:
                state.update(block)
    return size
