"""Shards of a run: the part of its images that one task of a job array does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medcli.errors import MedcliError
from medcli.files.checksum import blake2b


@dataclass(frozen=True)
class Shard:
    """Number `number`, from 1 on, of `count` shards.

    Which images are in it depends on their names alone: on every machine, whatever else is in the folder.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8`. Raises MedcliError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise MedcliError(f"'{text}' is no shard.", "Write 3/8 for the third of eight; the first is 1/8.")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, name: str) -> bool:
        """Whether the image of this relative path, with slashes, is in the shard."""
        return int(blake2b(name.encode("utf-8", "surrogateescape"), 16), 16) % self.count == self.number - 1
