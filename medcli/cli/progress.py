"""Progress of a run on standard error: lines, and a bar over tiles and files if it takes longer."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from unicodedata import category

import click

from medcli.errors import MedcliError

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 1.0  # seconds without a bar, or an estimate
LONG = 10.0  # seconds that are worth a word beforehand


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`, `2 d 04 h`; `?` where it is not finite"""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    minutes, hours = round(whole / 60), round(whole / 3600)
    if whole < 60:
        return f"{whole} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24:02} h"


def terminal_can_animate() -> bool:
    """Whether a moving bar on standard error makes sense."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def message_lines(error: MedcliError) -> list[str]:
    """How an error is shown to a person, line by line."""
    return [printable(line) for line in (f"error: {error.problem}", *(f"  {line}" for line in error.hint.splitlines()))]


def say_unless(quiet: bool) -> Callable[[str], None]:
    """Prints a line on standard error, or with `quiet` nothing."""
    return (lambda _text: None) if quiet else (lambda text: click.echo(text, err=True))


def printable(text: str) -> str:
    """Control characters in names of files and models are replaced, so that they do not reach the terminal.

    Spaces of all widths stay, and the joiners that some scripts are written with.
    """
    kept = (mark.isprintable() or mark in "\n\t\u200c\u200d" or category(mark) == "Zs" for mark in text)
    return "".join(mark if keep else "\ufffd" for mark, keep in zip(text, kept, strict=True))


class ProgressDisplay:
    """Standard error: lines, and below them a bar that appears once the run has lasted a second.

    files: how many images are to be done. animate: whether there may be a bar. quiet: errors only.
    """

    def __init__(self, files: int = 0, *, animate: bool, quiet: bool = False) -> None:
        self._files, self._animate, self._quiet = files, animate and not quiet, quiet
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._name, self._passes = "", 1
        self._begun = 0
        self._since = self._started  # of the present image
        self._estimated = False

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
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
        text = printable(text)
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str, passes: int = 1) -> None:
        """The image `name` goes into the network, so many times."""
        self._name, self._passes, self._begun = printable(name), passes, self._begun + 1

    def done(self, name: str) -> None:
        """A worker has done the image `name`."""
        self.begin(name)
        self.advance(1, 1)

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` parts of the work on the present image are over."""
        self._estimate(done, total)
        nearly_over = done == total and self._begun == self._files
        if self._bar is None and self._animate and self.seconds > PATIENCE and not nearly_over:
            self._bar = self._started_bar()
        if self._bar is None:
            return
        ids = self._bar.task_ids
        self._bar.update(ids[-1], description=self._name, completed=done, total=total)
        if self._files > 1:
            self._bar.update(ids[0], completed=self._begun - 1 + done / total)

    def _estimate(self, done: int, total: int) -> None:
        """Reports once, at the first long image, how long several passes take: from the time of the first parts."""
        now = time.monotonic()
        if done == 0:
            self._since = now
        if self._estimated or self._passes == 1 or not 0 < done < total or now - self._since < PATIENCE:
            return
        whole = (now - self._since) * total / done
        if whole > LONG:
            self._estimated = True
            first = f", the first of {self._files} images" if self._files > 1 and self._begun == 1 else ""
            self.line(
                f"{self._passes} passes of the network per image: about {duration(whole)} for {self._name}{first}"
            )

    def _started_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        if self._files > 1:
            bar.add_task(f"{self._files} images", total=self._files)
        bar.add_task(self._name, total=None)
        bar.start()
        return bar
