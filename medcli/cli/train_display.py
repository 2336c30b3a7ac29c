"""What a person sees of a training run: on a terminal a live panel, elsewhere one line for each report."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TextIO

import click
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from medcli.cli.progress import duration
from medcli.train.curves import INPUT, SCORE, is_figure, is_term

RECENT = 10  # reports that "recent" averages over
BARS = "▁▂▃▄▅▆▇█"
Row = tuple[str, str, str, Sequence[float]]  # name, last value, best or recent one, all of them for a sparkline
HEADINGS: tuple[Row, Row] = (("loss", "now", "recent", ()), ("validation", "last", "best", ()))
SHORTEST, LONGEST = 12, 64  # columns of a sparkline

SPEED = {
    "steps_per_second": "{:.3g} steps/s",
    "images_per_second": "{:.3g} images/s",
    "seconds_left": "{} left",
    "loader_wait": "{:.0%} loader wait",
    "rate": "{:.2g} learning rate",
}


def shown(name: str, value: float) -> str:
    """A value of the log in as many digits as are worth reading."""
    return f"{value:.2f}" if "psnr" in name else f"{value:#.4g}".rstrip(".")


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars for finite values, each a mean of an equal stretch. The outermost twentieths are cut off."""
    count = min(width, len(values))
    means = [fmean(values[len(values) * i // count : len(values) * (i + 1) // count]) for i in range(count)]
    ordered = sorted(means) or [0.0]
    low, high = ordered[count // 20], ordered[-1 - count // 20]
    shares = [(min(max(mean, low), high) - low) / (high - low or 1.0) for mean in means]
    return "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)


def row(name: str, values: Sequence[float]) -> Row:
    """The last value, the best one of a validation figure or the recent mean of anything else, and the trend."""
    finite, recent = [value for value in values if math.isfinite(value)], values[-RECENT:]
    if is_figure(name):
        best = max if name == SCORE or "psnr" in name or "ssim" in name else min  # of errors and distances
        beside = best(finite, default=math.nan)
    else:
        beside = sum(recent) / len(recent)
    return (name.removeprefix("val_"), shown(name, values[-1]), shown(name, beside), finite)


def plain(line: Mapping[str, float], total: int) -> str:
    """`step 100/20000  log_mse -2.31  psnr 31.02 (input 24.61)  7.1 steps/s  12 min left`"""
    parts = [f"step {line['step']:.0f}/{total}"]
    for name, value in line.items():
        if is_term(name) or is_figure(name):
            noisy = f" (input {shown(INPUT, line[INPUT])})" if name == "psnr" and INPUT in line else ""
            parts.append(f"{name} {shown(name, value)}{noisy}")
    return "  ".join(parts + speed({name: line[name] for name in ("steps_per_second", "seconds_left") if name in line}))


def speed(line: dict[str, float], elapsed: float = 0.0) -> list[str]:
    """How fast the run is, how long it takes and what slows it down. elapsed: seconds since the report."""
    left = {"seconds_left": duration(line["seconds_left"] - elapsed)} if "seconds_left" in line else {}
    return [form.format((line | left)[name]) for name, form in SPEED.items() if name in line]


def table(terms: Sequence[Row], figures: Sequence[Row], width: int, *, sparks: bool) -> Table:
    """Loss terms and validation figures in aligned columns: the columns on the right are left out where `width` is
    too small."""
    rows = [each for heading, part in zip(HEADINGS, (terms, figures), strict=True) if part for each in (heading, *part)]
    left = width - sum(max(map(len, column)) + 2 for column in zip(*(each[:3] for each in rows), strict=True))
    bars = min(left, LONGEST) if sparks and left >= SHORTEST else 0
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, overflow="crop")
    for _ in range(2 if left >= -2 else 1):
        grid.add_column(justify="right", no_wrap=True, overflow="crop")
    for each in rows:
        cells = [Text(cell) for cell in each[:3]][: len(grid.columns)]
        spark = [Text(sparkline(each[3], bars), "green")] if bars and len(each[3]) > 1 else []
        grid.add_row(*cells, *spark, style="dim" if each in HEADINGS else "")
    return grid


class TrainDisplay:
    """A training run on standard error, from the first message to the last report.

    total_steps: of the whole run, also where it is resumed from a checkpoint. quiet: nothing is shown. stream: written
    to in place of standard error. On a terminal that can move its cursor the reports become a panel, which stays as it
    was last when the block ends, however it ends; the cursor is visible again then.
    """

    def __init__(self, total_steps: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self._total, self._stream = quiet, total_steps, stream or sys.stderr
        self._values: dict[str, list[float]] = {}
        self._rows: tuple[Sequence[Row], Sequence[Row]] = ((), ())  # replaced whole: another thread draws
        self._line: dict[str, float] = {}
        self._reported = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, auto_refresh=False, expand=True)
        self._task = self._progress.add_task(f"{total_steps} steps, the first report is on its way", total=100)
        console = Console(file=self._stream, force_terminal=True)
        # messages come through `say`, and workers that are forked keep their streams
        self._live = Live(self, console=console, refresh_per_second=2, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> TrainDisplay:
        if not self.quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._line.pop("seconds_left", None)
        self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the panel if there is one."""
        if self._live.is_started:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            click.echo(text, file=self._stream)

    def report(self, line: Mapping[str, float]) -> None:
        """Shows a line of the log: "step", loss terms, and the other names of `medcli.train.curves`."""
        self._line, self._reported = {**self._line, **line}, time.monotonic()
        for name, value in line.items():
            self._values.setdefault(name, []).append(value)
        terms = [row(*each) for each in self._values.items() if is_term(each[0]) or each[0].startswith("gradient")]
        figures = [row(*each) for each in self._values.items() if is_figure(each[0])]
        if INPUT in self._values:
            figures.append(("noisy input", shown(INPUT, self._values[INPUT][-1]), "", ()))
        self._rows = terms, figures
        step = f"step {line['step']:.0f} of {self._total}"
        share = 100 * line["progress"] if "progress" in line else None  # a validation leaves it
        self._progress.update(self._task, description=step, completed=share)
        if self._live.is_started:
            self._live.refresh()
        else:
            self.say(plain(line, self._total))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        terms, figures = self._rows
        room = max(1, console.height - len(figures) - 8)  # frame, progress, headings, two lines of speed, cursor
        if len(terms) > room:
            terms = [*terms[: room - 1], (f"and {len(terms) - room + 1} more", "", "", ())]
        grid = table(terms, figures, options.max_width - 4, sparks=not options.ascii_only)
        body = Group(self._progress, grid, Text("   ".join(speed(self._line, time.monotonic() - self._reported))))
        yield Panel(body, title="training", title_align="left", border_style="dim")
