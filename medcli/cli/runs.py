"""The folder and the images of a training run where `med train` gets neither."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medcli.errors import OutputError

if TYPE_CHECKING:
    from medcli.train.run import TrainOptions

RUNS = "runs"
ENOUGH = 8  # images


def is_main() -> bool:
    """Whether this is the only process of the run, or the first one under torchrun."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def run_folder(output: Path | None, method: Callable[[], str], *, resume: bool) -> Iterator[Path]:
    """The folder of the run; without `output` a new one in `runs`, or with `resume` the latest there.

    method: name of the run's method. A new folder that is still empty in the end, where the run could not begin, is
    removed. Raises OutputError where it cannot be made, UsageError where there is no run to go on with.
    """
    if output is not None or resume:
        yield output or _latest()
        return
    folder = _claimed(method())
    try:
        yield folder
    finally:
        with suppress(OSError):  # it is not empty, or is not there
            folder.rmdir()
            folder.parent.rmdir()


def _claimed(method: str) -> Path:
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


def _latest() -> Path:
    begun = sorted(Path(RUNS).glob("*/recipe.yaml"), key=lambda path: path.stat().st_mtime)
    if not begun:
        raise click.UsageError(f"There is no run in {RUNS}/ to go on with. Name its folder with -o.")
    return begun[-1].parent


def with_images(run: TrainOptions) -> TrainOptions:
    """With the images below the current folder where none were named.

    Raises UsageError where they are too few, or the run that is to go on has learned from those of another folder.
    """
    from medcli.data.own import images_of_the_user

    if run.data or run.noisy or run.clean or run.pairs:
        return run
    if run.resume and (run.output / "recipe.yaml").is_file():
        _refuse_others(run)
    found = images_of_the_user(Path(), leave_out=[Path(RUNS), run.output])
    if len(found) < ENOUGH:
        here = {0: "no image lies", 1: "only one image lies"}.get(len(found), f"only {len(found)} images lie")
        raise click.UsageError(
            f"There is nothing to train on: {here} below the current folder, and without --data it takes {ENOUGH} or "
            "more (what med itself made does not count). Name a folder of images: --data images/"
        )
    return replace(run, data=found)


def _refuse_others(run: TrainOptions) -> None:
    from medcli.train.recipe import load

    seen = load(str(run.output / "recipe.yaml")).training_data
    if Path.cwd().name not in seen:
        names = ", ".join(seen) or "another folder"
        raise click.UsageError(f"{run.output} learned from the images of {names}: name them again, as with --data.")
