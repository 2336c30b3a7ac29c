"""Logs of one JSON object per line, only ever appended to. A line torn by a killed run is ignored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def parse(content: bytes, start: bytes = b"") -> Iterator[dict[str, Any]]:
    """The objects of all lines but the torn ones.

    start: how a line of this file begins. Raises ValueError for a line that is neither an object nor torn.
    """
    for line in content.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if isinstance(values, dict):
            yield values
        elif not (line.startswith(start) or start.startswith(line)):
            raise ValueError(f"Not a line of this file: {line[:80]!r}")


def append(path: Path, *objects: Mapping[str, Any]) -> None:
    """Adds a line for each object; where the last line is torn, it is ended first. Raises OSError."""
    with path.open("ab+") as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + b"".join(map(line, objects)))


def line(values: Mapping[str, Any]) -> bytes:
    """One object as a line."""
    return json.dumps(values).encode() + b"\n"
