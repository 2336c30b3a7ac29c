"""What a person sees while a run lasts: lines on standard error, and a bar over tiles and files if it takes a while."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from medcli.errors import MedcliError

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 1.0  # seconds without a bar


def terminal_can_animate() -> bool:
    """Whether a moving bar on standard error makes sense."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def letter(error: MedcliError) -> list[str]:
    """How an error is shown to a person, line by line.

    Names of files and of models are other people's: what would steer the terminal is shown as a replacement mark.
    """
    lines = [f"error: {error.problem}", *(f"  {line}" for line in error.hint.splitlines())]
    return ["".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in line) for line in lines]


class Display:
    """Standard error: lines, and below them a bar that appears once the run has lasted a second.

    files: how many pictures are to be done. animate: whether there may be a bar. quiet: errors only.
    """

    def __init__(self, files: int = 0, *, animate: bool, quiet: bool = False) -> None:
        self._files, self._animate, self._quiet = files, animate and not quiet, quiet
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._name = ""
        self._begun = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._started

    def line(self, text: str, *, error: bool = False) -> None:
        """A line of its own, above the bar if there is one."""
        if self._quiet and not error:
            return
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        """The picture `name` goes into the network."""
        self._name, self._begun = name, self._begun + 1

    def tiles(self, done: int, total: int) -> None:
        """`done` of `total` tiles of the present picture are through."""
        nearly_over = done == total and self._begun == self._files
        if self._bar is None and self._animate and self.seconds > PATIENCE and not nearly_over:
            self._bar = self._started_bar()
        if self._bar is None:
            return
        ids = self._bar.task_ids
        self._bar.update(ids[-1], description=self._name, completed=done, total=total)
        if self._files > 1:
            self._bar.update(ids[0], completed=self._begun - 1 + done / total)

    def _started_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        if self._files > 1:
            bar.add_task(f"{self._files} pictures", total=self._files)
        bar.add_task(self._name, total=None)
        bar.start()
        return bar
