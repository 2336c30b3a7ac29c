"""Folders of images: what lies in them, and which images of two folders belong together."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from medcli.errors import InputError
from medcli.images import supported

LISTED = 10  # names in a message
KINDS_LISTED = 6  # extensions of skipped files
MANIFEST = "pairs.jsonl"  # in a folder of noisy images that 'med synth-pairs' has made


def images_in(folder: Path, locked: dict[Path, InputError] | None = None) -> list[Path]:
    """Relative paths of the images in a folder and its subfolders, sorted; hidden ones are passed over.

    locked: gets the subfolders that cannot be read, by relative path; None to leave them out.
    Raises InputError where there is no image, and where the folder itself cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Name a folder of images.")
    closed: dict[Path, InputError] = {} if locked is None else locked
    paths = (path for path in _files(folder, closed) if supported(path))
    if not (found := [path.relative_to(folder) for path in paths]):
        raise InputError(f"The folder {folder} holds no images.", skipped([folder]))
    return sorted(found, key=Path.as_posix)


def _files(folder: Path, locked: dict[Path, InputError]) -> Iterator[Path]:
    """All files in a folder and its subfolders but hidden ones; locked: as for `images_in`."""
    for here, subfolders, names in os.walk(folder, onerror=partial(_note, folder=folder, locked=locked)):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def _note(error: OSError, folder: Path, locked: dict[Path, InputError]) -> None:
    problem = f"The folder {error.filename} cannot be read: {error.strerror}."
    refused = InputError(problem, "Check its permissions.")
    if Path(error.filename) == folder:
        raise refused from error
    locked[Path(error.filename).relative_to(folder)] = refused


def skipped(folders: Sequence[Path], recursive: bool = True, results: str | None = None) -> str:
    """What lies in the folders and is no image by its extension: `3 skipped: .heic`, empty for nothing.

    Hidden files and manifests do not count. results: ending of the names of subfolders that are passed over.
    """
    found: Counter[str] = Counter()
    for _, subfolders, names in chain.from_iterable(os.walk(folder) for folder in folders):
        visible = [name for name in subfolders if recursive and not name.startswith(".")]
        subfolders[:] = [name for name in visible if results is None or not name.endswith(results)]
        others = (Path(name) for name in names if not (supported(name) or name.startswith(".") or name == MANIFEST))
        found.update(path.suffix.lower() or path.name for path in others)
    kinds = found.most_common(KINDS_LISTED)
    listed = [kind if len(found) == 1 else f"{kind} ({count})" for kind, count in kinds]
    more = ", ..." if len(found) > len(kinds) else ""
    return f"{found.total()} skipped: {', '.join(listed)}{more}" if found else ""


def unreadable(folders: Sequence[Path]) -> list[InputError]:
    """One error for each subfolder that cannot be read. Raises InputError where one of the folders cannot."""
    found: list[InputError] = []
    for folder in folders:
        locked: dict[Path, InputError] = {}
        deque(_files(folder, locked), maxlen=0)
        found += locked.values()
    return found


def nested(one: Path, other: Path) -> bool:
    """Whether one of two folders lies in the other, or both are the same; they need not be there yet."""
    return any(
        each.exists() and each.samefile(outer)
        for inner, outer in ((one, other), (other, one))
        if outer.exists()
        for each in (inner, *inner.resolve().parents)
    )


def matched(*folders: Path) -> list[tuple[Path, ...]]:
    """The images of equal name, one of each folder, by relative path whatever the extensions, sorted.

    Raises InputError where an image has no counterpart in another folder, or more than one.
    """
    columns = [by_stem(folder) for folder in folders]
    common = set.intersection(*(set(names) for names in columns))
    lonely = [
        str(f / names[key]) for f, names in zip(folders, columns, strict=True) for key in sorted(names.keys() - common)
    ]
    if lonely:
        raise InputError(
            f"{len(lonely)} images have no counterpart of the same name: {listed(lonely)}.",
            f"Every image must be in each of {', '.join(map(str, folders))}; only the extension may differ.",
        )
    return [tuple(names[key] for names in columns) for key in sorted(common)]


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by relative path without extension; raises InputError where two have the same."""
    found: dict[str, Path] = {}
    for name in images_in(folder):
        first = found.setdefault(name.with_suffix("").as_posix(), name)
        if first is not name:
            raise InputError(f"{folder / first} and {folder / name} differ only in their extension.", "Remove one.")
    return found
