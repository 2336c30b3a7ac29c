"""Where residuals go: which file gets what was removed from which image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medcli.batch.denoise.plan import STREAM, Job, is_folder
from medcli.errors import OutputError
from medcli.images.formats import KNOWN, supported


class ResidualTarget(NamedTuple):
    """The file, and the folder whose manifest remembers it; None where a single file is named."""

    path: Path
    root: Path | None


def residual_targets(jobs: Sequence[Job], output: Path, *, folder: bool = False) -> dict[Job, ResidualTarget]:
    """For each job: `output` itself if it names one file, else a file in the folder `output`, in the result's place.

    folder: whether it was written with a slash at its end. Raises OutputError for one file for many images, a name
    without a format, and a file that is an input or a result.
    """
    if output.suffix and not folder and not is_folder(output):
        if len(jobs) > 1 or jobs[0].root is not None:
            raise OutputError(f"--residual {output} names one file, but there can be many.", "Let it name a folder.")
        targets = {jobs[0]: ResidualTarget(output, None)}
    else:
        targets = {job: ResidualTarget(output / _inside(job), output) for job in jobs}
    taken = {os.path.abspath(path) for job in jobs for path in (job.source, job.target)}  # noqa: PTH100 - no links
    for path, _ in targets.values():
        if not supported(path):
            raise OutputError(f"The name {path} does not say which format to write.", f"{KNOWN} are written.")
        if os.path.abspath(path) in taken:  # noqa: PTH100
            raise OutputError(f"The residual {path} would overwrite an image of this run.", "Choose another name.")
    return targets


def _inside(job: Job) -> Path:
    named = job.source if job.target == STREAM else job.target
    if named == STREAM:
        return Path("residual.png")
    return named.relative_to(job.root) if job.root is not None and job.target != STREAM else Path(named.name)
