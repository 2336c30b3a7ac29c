"""The folder and the images of a training run where neither is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from medcli.data.own import images_of_the_user
from medcli.errors import OptionError, OutputError
from medcli.train.recipe import load
from medcli.train.run import RECIPE, TrainOptions

RUNS = "runs"
ENOUGH = 8  # images


@contextmanager
def run_folder(output: Path | None, method: Callable[[], str], *, resume: bool) -> Iterator[Path]:
    """The folder of the run; without `output` a new one in `runs`, or with `resume` the latest there.

    method: name of the run's method. A new folder that is still empty in the end, where the run could not begin, is
    removed. Raises OutputError where it cannot be made, OptionError where there is no run to continue.
    """
    if output is not None or resume:
        yield output or _latest()
        return
    folder = _new_folder(method())
    try:
        yield folder
    finally:
        with suppress(OSError):  # it is not empty, or is not there
            folder.rmdir()
            folder.parent.rmdir()


def _latest() -> Path:
    runs = sorted(Path(RUNS).glob(f"*/{RECIPE}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise OptionError(f"There is no run in {RUNS}/ to continue.", "Name its folder with -o.")
    return runs[-1].parent


def _new_folder(method: str) -> Path:
    """Made at once, so that another run that starts now takes the next number; torchrun starts one run, not several."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    for number in count(1):
        folder = Path(RUNS, f"{method}-{number}")
        try:
            if alone:
                folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.parent.is_dir():
                raise OutputError(f"{folder.parent} is no folder.", "Name one for the run with -o.") from None
            continue
        except OSError as error:
            problem = f"{folder} cannot be made: {error.strerror}."
            raise OutputError(problem, "Name a folder for the run with -o.") from error
        if alone or not folder.exists():
            return folder
    raise AssertionError


def with_images(run: TrainOptions) -> TrainOptions:
    """With the images below the current folder where none were named.

    Raises OptionError where they are too few, or the run to continue was trained on those of another folder.
    """
    if run.data or run.noisy or run.clean or run.pairs:
        return run
    if run.resume and (run.output / RECIPE).is_file():
        folders = load(str(run.output / RECIPE)).training_data
        if Path.cwd().name not in folders:
            names = ", ".join(folders) or "another folder"
            raise OptionError(f"{run.output} was trained on the images of {names}.", "Name them again, as with --data.")
    found = images_of_the_user(Path(), leave_out=[Path(RUNS), run.output])
    if len(found) < ENOUGH:
        here = {0: "no image lies", 1: "only one image lies"}.get(len(found), f"only {len(found)} images lie")
        raise OptionError(
            f"There is nothing to train on: {here} below the current folder, and without --data it takes {ENOUGH} or "
            "more (results of med do not count).",
            "Name a folder of images: --data images/",
        )
    return replace(run, data=found)
