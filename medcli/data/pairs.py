"""`pairs.jsonl`: which noisy and clean files form a pair, how the pair was made, and the checksums of both files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.data.folders import MANIFEST as MANIFEST
from medcli.data.folders import listed
from medcli.errors import InputError
from medcli.files import jsonl
from medcli.files.checksum import sha256_of

PAGES = " | "  # between what was drawn for one page and for the next
Side = Literal["noisy", "clean"]


@dataclass(frozen=True)
class PairRecord:
    """A line of the manifest.

    source: relative to `folder`, the folder of the source images; that and output: relative to the manifest's folder.
    draw: its number, from 0. makes: which of the two the output is. noise, fingerprint: its name and its full notation;
    drawn: the parameters that were sampled, page by page where pages differ. depth: as requested, None for that of the
    source; protocol: how values were clipped and rounded. medcli: the version that made the file, which is no part of
    its identity. range: which values are black and white, as requested.
    """

    source: str
    folder: str
    output: str
    makes: Side
    draw: int
    seed: int
    noise: str
    fingerprint: str
    drawn: str
    depth: str | None
    protocol: str
    source_sha256: str
    output_sha256: str
    medcli: str
    range: str = "auto"


def parsed(content: bytes) -> Iterator[PairRecord]:
    """The records of a manifest; a line that a killed run has torn is passed over.

    Raises ValueError, TypeError for what is no manifest.
    """
    for values in jsonl.parse(content, start=b'{"source": '):
        if "spelled" in values:  # as version 0.1.0 called it
            values["fingerprint"] = values.pop("spelled")
        yield PairRecord(**values)


def way(start: Path, end: Path) -> str:
    """The path from one folder to another, with slashes; absolute where they lie on different drives."""
    try:
        return Path(os.path.relpath(end.resolve(), start.resolve())).as_posix()
    except ValueError:  # Windows
        return end.resolve().as_posix()


def present(path: Path) -> str:
    """SHA-256 of the file there; empty where there is none."""
    return sha256_of(path) if path.is_file() else ""


def recorded_pairs(folder: Path, sources: Path | None = None) -> list[tuple[Path, Path]]:
    """(noisy, clean) of each line of the folder's manifest, every draw of it.

    sources: the folder of the source images, if they were moved. Raises InputError where there is
    no manifest, and where a file of a pair is gone or was changed since.
    """
    rows = _rows(folder)
    files = [((sources or (folder / row.folder).resolve()) / row.source, folder / row.output) for row in rows]
    _check_files(folder, rows, files)
    return [pair[::-1] if row.makes == "noisy" else pair for row, pair in zip(rows, files, strict=True)]


def recorded_noises(folder: Path) -> dict[str, set[str]]:
    """Of each noise in the folder's manifest, to the last number, all that was drawn of it.

    Raises InputError where there is no manifest.
    """
    found: dict[str, set[str]] = {}
    for row in _rows(folder):
        found.setdefault(row.fingerprint, set()).update(row.drawn.split(PAGES))
    return found


def _rows(folder: Path) -> list[PairRecord]:
    path = folder / MANIFEST
    hint = "'med synth-pairs' writes it. Two folders of equal names are given with --noisy and --clean."
    if not path.is_file():
        raise InputError(f"{folder} holds no {MANIFEST}, which says what belongs together.", hint)
    try:
        rows = list({row.output: row for row in parsed(path.read_bytes())}.values())
    except (ValueError, TypeError):
        raise InputError(f"{path} is not a manifest of noisy images.", hint) from None
    if not rows:
        raise InputError(f"{path} names no pair.", "Make some: med synth-pairs")
    return rows


def _check_files(folder: Path, rows: Sequence[PairRecord], files: Sequence[tuple[Path, Path]]) -> None:
    """Each file must be there, and unchanged since the pair was made."""
    sources = {path: row.source_sha256 for row, (path, _) in zip(rows, files, strict=True)}
    outputs = {path: row.output_sha256 for row, (_, path) in zip(rows, files, strict=True)}
    if gone := [str(path) for path in (*sources, *outputs) if not path.is_file()]:
        raise InputError(
            f"{len(gone)} files of {folder / MANIFEST} are gone: {listed(gone)}.",
            "If the clean images were moved, say where they are with --clean. Where some were removed, remove their "
            "noisy images too, and run 'med synth-pairs' again.",
        )
    if changed := [str(path) for path, checksum in (sources | outputs).items() if present(path) != checksum]:
        raise InputError(
            f"{len(changed)} files of {folder / MANIFEST} were changed since the pairs were made: {listed(changed)}.",
            "Run 'med synth-pairs' again as before, or name with --clean the folder of which they were made.",
        )
