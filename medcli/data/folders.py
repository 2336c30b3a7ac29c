"""Folders of images: what lies in them, and which images of two folders belong together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medcli.errors import InputError
from medcli.images import supported

LISTED = 10  # names in a letter


def images_in(folder: Path, locked: dict[Path, InputError] | None = None) -> list[Path]:
    """Relative paths of the images in a folder and its subfolders, sorted; hidden ones are passed over.

    locked: gets the subfolders that cannot be read, by relative path; None to leave them out.
    Raises InputError where there is no image, and where the folder itself cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Name a folder of images.")
    found: list[Path] = []
    closed: dict[Path, InputError] = {} if locked is None else locked
    for here, subfolders, names in os.walk(folder, onerror=lambda error: _note(error, folder, closed)):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = (Path(here, name) for name in names if not name.startswith("."))
        found += [path.relative_to(folder) for path in paths if supported(path)]
    if not found:
        raise InputError(f"The folder {folder} holds no images.")
    return sorted(found, key=Path.as_posix)


def _note(error: OSError, folder: Path, locked: dict[Path, InputError]) -> None:
    problem = f"The folder {error.filename} cannot be read: {error.strerror}."
    refused = InputError(problem, "Check its permissions.")
    if Path(error.filename) == folder:
        raise refused from error
    locked[Path(error.filename).relative_to(folder)] = refused


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

    Raises InputError where an image has no mate in another folder, or more than one.
    """
    columns = [by_stem(folder) for folder in folders]
    common = set.intersection(*(set(names) for names in columns))
    lonely = [
        str(f / names[key]) for f, names in zip(folders, columns, strict=True) for key in sorted(names.keys() - common)
    ]
    if lonely:
        raise InputError(
            f"{len(lonely)} images have no mate of their name: {listed(lonely)}.",
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
