"""Random generators whose seed is a hash of a key, so that a draw depends on nothing but its key."""

from __future__ import annotations

import hashlib

from torch import Generator


def derived_seed(*key: int | str) -> int:
    """A hash of the key, a seed of 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def keyed_generator(*key: int | str) -> Generator:
    """A CPU generator seeded by a hash of the key."""
    return Generator().manual_seed(derived_seed(*key))
