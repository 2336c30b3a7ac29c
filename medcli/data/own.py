"""Images below a folder that are the user's, not results of earlier commands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from medcli.files import jsonl
from medcli.images import supported

RESULTS = (".medcli.jsonl", "pairs.jsonl")  # each line names one as its `output`, relative to the file's folder
ENVIRONMENT = "pyvenv.cfg"  # its folder holds packages, and they their test images


def images_of_the_user(folder: Path, leave_out: Sequence[Path] = ()) -> list[Path]:
    """All in it and its subfolders, sorted, below `folder` as it is spelled.

    Left out are hidden ones, folders of `leave_out`, results of earlier commands (those that their manifests name, and
    NAME.denoised.EXT), folders of training runs and environments of Python.
    """
    outside = {path.resolve() for path in leave_out}
    found: list[Path] = []
    made: set[Path] = set()
    for here, subfolders, names in os.walk(folder):
        folder_here = Path(here)
        if folder_here.resolve() in outside or ENVIRONMENT in names or {"recipe.yaml", "log.jsonl"} <= set(names):
            subfolders.clear()
            continue
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [folder_here / name for name in names if not name.startswith(".") and ".denoised." not in name]
        made.update(output for notes in RESULTS if notes in names for output in _outputs(folder_here / notes))
    return sorted((path for path in found if supported(path) and path not in made), key=Path.as_posix)


def _outputs(notes: Path) -> Iterator[Path]:
    """What the lines of a manifest name; none where it cannot be read or is of another program."""
    with suppress(OSError):
        for values in jsonl.parse(notes.read_bytes()):
            if isinstance(output := values.get("output"), str):
                yield notes.parent / output
