"""What a person sees of a training run: on a terminal a live panel, elsewhere one line for each report."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.util import register_after_fork
from statistics import fmean
from types import TracebackType
from typing import NamedTuple, TextIO

import click
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from medcli.cli.progress import duration
from medcli.train.curves import INPUT, SCORE, is_figure, is_term

RECENT = 10  # reports that "recent" averages over
POINTS = 128  # of a trend; twice the width of the widest sparkline
REFRESH = 2  # per second, for the clocks
BARS = "▁▂▃▄▅▆▇█"
NARROW, TREND = 44, 12  # columns: below NARROW no frame, below TREND no sparkline
UNITS = {"steps_per_second": "steps/s", "images_per_second": "images/s"}


def shown(name: str, value: float) -> str:
    """A value of the log in as many digits as are worth reading."""
    return f"{value:.2f}" if "psnr" in name else f"{value:#.4g}".rstrip(".")


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars for finite values, each a mean of an equal stretch. The outermost twentieths are cut off."""
    count = min(width, len(values))
    ends = [len(values) * i // max(1, count) for i in range(count + 1)]
    means = [fmean(values[start:end]) for start, end in pairwise(ends)]
    if not means:
        return ""
    ordered = sorted(means)
    low, high = ordered[count // 20], ordered[-1 - count // 20]
    shares = [(mean - low) / (high - low) if high > low else 0.5 for mean in means]
    return "".join(BARS[round(min(1.0, max(0.0, share)) * (len(BARS) - 1))] for share in shares)


class Trend:
    """A series of any length as at most POINTS means over equal stretches of it. What is not finite is left out."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self._stretch = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """The next value of the series."""
        if not math.isfinite(value):
            return
        self._pending.append(value)
        if len(self._pending) == self._stretch:
            self.points.append(fmean(self._pending))
            self._pending = []
        if len(self.points) == POINTS:
            self.points = [fmean(pair) for pair in zip(self.points[::2], self.points[1::2], strict=True)]
            self._stretch *= 2


class TableRow(NamedTuple):
    """A line of the table, as text. points: for its sparkline."""

    name: str
    now: str
    beside: str = ""
    points: Sequence[float] = ()


@dataclass
class Series:
    """One name of the log as the run has seen it so far."""

    name: str
    trend: Trend = field(default_factory=Trend)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    best: float = math.nan

    def add(self, value: float) -> None:
        """The value of the next report that has the name."""
        self.trend.add(value)
        self.recent.append(value)
        if math.isnan(self.best) or (value > self.best if self.rises else value < self.best):
            self.best = value

    @property
    def rises(self) -> bool:
        """Whether a larger value is a better one: so it is for PSNR, SSIM and scores, not for errors and distances."""
        return self.name == SCORE or "psnr" in self.name or "ssim" in self.name

    def row(self) -> TableRow:
        """Name, last value, the best of a figure or the recent mean of anything else, and the trend."""
        beside = self.best if is_figure(self.name) else sum(self.recent) / len(self.recent)
        name = self.name.removeprefix("val_")
        points = () if name.partition("/")[0] == "gradient" else tuple(self.trend.points)
        return TableRow(name, shown(self.name, self.recent[-1]), shown(self.name, beside), points)


def plain(line: Mapping[str, float], total: int) -> str:
    """`step 100/20000  log_mse -2.31  psnr 31.02 (input 24.61)  7.1 steps/s  12 min left`"""
    parts = [f"step {line['step']:.0f}/{total}"]
    for name, value in line.items():
        if is_term(name) or is_figure(name):
            noisy = f" (input {shown(INPUT, line[INPUT])})" if name == "psnr" and INPUT in line else ""
            parts.append(f"{name} {shown(name, value)}{noisy}")
    if "steps_per_second" in line:
        parts.append(f"{line['steps_per_second']:.3g} steps/s")
    if "seconds_left" in line:
        parts.append(f"{duration(line['seconds_left'])} left")
    return "  ".join(parts)


def table(terms: Sequence[TableRow], figures: Sequence[TableRow], width: int, *, sparks: bool) -> Table:
    """Loss terms and validation figures in aligned columns: the columns on the right are left out where `width` is
    too small."""
    sections = ((TableRow("loss", "now", "recent"), terms), (TableRow("validation", "last", "best"), figures))
    rows = [row for heading, part in sections if part for row in (heading, *part)]
    columns = zip(*(row[:3] for row in rows), strict=True)
    left = width - sum(max(map(len, column)) + 2 for column in columns)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, overflow="crop")
    for _ in range(2 if left >= -2 else 1):
        grid.add_column(justify="right", no_wrap=True, overflow="crop")
    bars = min(left, POINTS // 2) if sparks and left >= TREND else 0
    headings = [heading for heading, _ in sections]
    for row in rows:
        cells = [row.name, row.now, row.beside][: len(grid.columns)]
        spark = [Text(sparkline(row.points, bars), "green")] if bars and len(row.points) > 1 else []
        grid.add_row(*map(Text, cells), *spark, style="dim" if row in headings else "")
    return grid


class TrainDisplay:
    """A training run on standard error, from the first message to the last report.

    total_steps: of the whole run, also where it is resumed from a checkpoint. quiet: nothing is shown. stream: written
    to in place of standard error. On a terminal that can move its cursor the reports become a panel, which stays as it
    was last when the block ends, however it ends; the cursor is visible again then.
    """

    def __init__(self, total_steps: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._total, self._quiet, self._stream = total_steps, quiet, stream or sys.stderr
        self._series: dict[str, Series] = {}
        self._line: Mapping[str, float] = {}
        self._rows: tuple[Sequence[TableRow], Sequence[TableRow]] = ((), ())  # replaced whole: another thread draws
        self._reported = time.monotonic()
        self._live: Live | None = None
        columns = (BarColumn(None), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(TextColumn("{task.description}"), *columns, auto_refresh=False, expand=True)
        self._task = self._progress.add_task(f"{total_steps} steps, the first report is on its way", total=100)

    def __enter__(self) -> TrainDisplay:
        if not self._quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._live = Live(
                self,
                console=Console(file=self._stream, force_terminal=True),
                refresh_per_second=REFRESH,
                redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe stays there
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start(refresh=True)
            register_after_fork(self, TrainDisplay._stop_drawing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._line = {name: value for name, value in self._line.items() if name != "seconds_left"}
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line of its own, above the panel if there is one."""
        if self._quiet:
            return
        if self._live is None:
            click.echo(text, file=self._stream)
        else:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def report(self, line: Mapping[str, float]) -> None:
        """Shows a line of the log: "step", loss terms, and the other names of `medcli.train.curves`."""
        if self._quiet:
            return
        self._line, self._reported = dict(line), time.monotonic()
        for name, value in line.items():
            if is_term(name) or is_figure(name) or name.partition("/")[0] == "gradient" or name == INPUT:
                self._series.setdefault(name, Series(name)).add(value)
        rows = {name: series.row() for name, series in self._series.items()}
        figures = [row for name, row in rows.items() if is_figure(name)]
        if INPUT in rows:
            figures.append(TableRow("noisy input", rows[INPUT].now))
        self._rows = [row for name, row in rows.items() if not is_figure(name) and name != INPUT], figures
        share = min(1.0, max(0.0, line.get("progress", 0.0)))
        step = f"step {line['step']:.0f} of {self._total}"
        self._progress.update(self._task, description=step, completed=100 * share)
        if self._live is None:
            self.say(plain(line, self._total))
        else:
            self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        framed = options.max_width >= NARROW
        width = options.max_width - (4 if framed else 0)
        terms, figures = self._rows
        room = max(1, console.height - len(figures) - 8)  # frame, progress, headings, two lines of speed, cursor
        if len(terms) > room:
            terms = [*terms[: room - 1], TableRow(f"and {len(terms) - room + 1} more", "")]
        body = Group(
            self._progress, table(terms, figures, width, sparks=not options.ascii_only), Text("   ".join(self._speed()))
        )
        yield Panel(body, title="training", title_align="left", border_style="dim") if framed else body

    def _speed(self) -> list[str]:
        """How fast the run is, how long it takes and what slows it down."""
        line = self._line
        parts = [f"{line[name]:.3g} {unit}" for name, unit in UNITS.items() if name in line]
        if "seconds_left" in line:
            parts.append(f"{duration(line['seconds_left'] - (time.monotonic() - self._reported))} left")
        if "loader_wait" in line:
            parts.append(f"{100 * line['loader_wait']:.0f} % loader wait")
        if "rate" in line:
            parts.append(f"{line['rate']:.2g} learning rate")
        return parts

    def _stop_drawing(self) -> None:
        """In a forked worker, which has the panel's streams but not its thread: it writes straight to the terminal."""
        for name in ("stdout", "stderr"):
            if isinstance(stream := getattr(sys, name), FileProxy):
                setattr(sys, name, stream.rich_proxied_file)
