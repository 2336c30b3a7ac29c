"""What a person sees of a training run: on a terminal a panel that moves, elsewhere one line for each report."""

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
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from medcli.cli.progress import duration
from medcli.train.curves import INPUT, SCORE, is_figure, is_term

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

RECENT = 10  # reports that "recent" averages over
POINTS = 128  # of a trend; twice the width of the widest sparkline
REFRESH = 2  # per second: the clocks run, and the network hardly notices
BARS = "▁▂▃▄▅▆▇█"
NARROW, TREND = 44, 12  # columns: below NARROW no frame and no means, below TREND no sparkline


def clock(seconds: float) -> str:
    """`0:42`, `12:07`, `3:05:00`"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
    """A line of the table, as text. points: what its sparkline shows."""

    name: str
    now: str
    beside: str = ""
    points: Sequence[float] = ()
    heading: bool = False


class Part(NamedTuple):
    """A figure and its unit, which are not to be torn apart."""

    value: str
    unit: str


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
        """Last value; beside it the best of a figure, and of anything else the mean of what came lately."""
        beside = self.best if is_figure(self.name) else sum(self.recent) / len(self.recent)
        name = self.name.removeprefix("val_")
        points = () if name.partition("/")[0] == "gradient" else tuple(self.trend.points)
        return TableRow(name, shown(self.name, self.recent[-1]), shown(self.name, beside), points)


@dataclass(frozen=True)
class PanelState:
    """All that the panel shows, as it was after a report; only the clocks go on.

    line: of the last report, empty before the first. terms, figures: rows of the table. started, reported: on the
    monotonic clock. over: whether the run has ended.
    """

    total: int
    line: Mapping[str, float]
    terms: Sequence[TableRow]
    figures: Sequence[TableRow]
    started: float
    reported: float
    over: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.panel import Panel

        framed = options.max_width >= NARROW
        width = options.max_width - (4 if framed else 0)
        head, foot = packed(self._place(), width), packed(self._pace(), width)
        room = console.height - len(head) - len(foot) - len(self.figures) - 6  # frame, bar, headings, line below
        bar = progress_bar(self._progress, width, "#-" if options.ascii_only else "━─")
        body = Group(*head, bar, *table(self._rows(room), width, sparks=not options.ascii_only), *foot)
        yield Panel(body, title="training", title_align="left", border_style="dim") if framed else body

    @property
    def _progress(self) -> float:
        return min(1.0, max(0.0, self.line.get("progress", 0.0)))

    def _place(self) -> list[Part]:
        """Where the run is."""
        now = time.monotonic()
        elapsed = Part(clock(now - self.started), " elapsed")
        if not self.line:
            return [Part("", f"{self.total} steps, the first report is on its way"), elapsed]
        step = Part(f"step {self.line['step']:.0f}", f" of {self.total}")
        left = Part(duration(self.line.get("seconds_left", 0.0) - (now - self.reported)), " left")
        parts = [step, Part(f"{int(100 * self._progress)} %", ""), elapsed, left]
        return parts[:-1] if self.over or "seconds_left" not in self.line else parts

    def _pace(self) -> list[Part]:
        """How fast it goes, and why it does not go faster."""
        line = self.line
        units = {"steps_per_second": " steps/s", "images_per_second": " images/s"}
        parts = [Part(f"{line[name]:.3g}", unit) for name, unit in units.items() if name in line]
        if "loader_wait" in line:
            parts.append(Part(f"{100 * line['loader_wait']:.0f} %", " loader wait"))
        if "rate" in line:
            parts.append(Part(f"{line['rate']:.2g}", " learning rate"))
        return parts

    def _rows(self, room: int) -> list[TableRow]:
        """Loss terms, `room` of them if there are more, and validation figures, under their headings."""
        terms = list(self.terms)
        if len(terms) > (room := max(1, room)):
            terms[room - 1 :] = [TableRow(f"and {len(terms) - room + 1} more", "", heading=True)]
        above = [TableRow("loss", "now", "recent", heading=True)] if terms else []
        below = [TableRow("validation", "last", "best", heading=True)] if self.figures else []
        return [*above, *terms, *below, *self.figures]


def progress_bar(share: float, width: int, ink: str) -> Text:
    """`share` of `width` columns in the first letter of `ink`, the rest in its second, so that it needs no colour."""
    from rich.text import Text

    done = round(share * width)
    return Text.assemble((ink[0] * done, "green"), (ink[1] * (width - done), "dim"), no_wrap=True)


def packed(parts: Sequence[Part], width: int) -> list[Text]:
    """Parts side by side on as few lines as `width` columns allow, none of them torn."""
    from rich.text import Text

    lines: list[Text] = []
    for part in parts:
        text = Text.assemble((part.value, "bold"), part.unit, no_wrap=True, overflow="crop")
        if lines and lines[-1].cell_len + 3 + text.cell_len <= width:
            lines[-1].append("   ").append_text(text)
        else:
            lines.append(text)
    return lines


def table(rows: Sequence[TableRow], width: int, *, sparks: bool) -> list[Text]:
    """Rows in aligned columns. Where `width` is short they lose first their sparklines, then what stands beside."""
    from rich.text import Text

    names = max((len(row.name) for row in rows), default=0)
    nows = max((len(row.now) for row in rows), default=0)
    besides = max((len(row.beside) for row in rows), default=0)
    left = width - names - nows - besides - 6
    lines = []
    for row in rows:
        text = Text(f"{row.name:<{names}}  ", "dim" if row.heading else "", no_wrap=True, overflow="crop")
        text.append(f"{row.now:>{nows}}", "" if row.heading else "bold")
        if left >= -2:
            text.append(f"  {row.beside:>{besides}}")
        if sparks and left >= TREND and len(row.points) > 1:
            text.append(f"  {sparkline(row.points, min(left, POINTS // 2))}", "green")
        lines.append(text)
    return lines


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


class TrainDisplay:
    """A training run on standard error, from the first message to the last report.

    total_steps: of the whole run, also where it goes on from a checkpoint. quiet: nothing at all is shown; errors are
    told by whoever catches them. stream: written to in place of standard error. On a terminal that can move its cursor
    the reports become a panel that stays as it was last when the block ends, however it ends; the cursor is back then.
    """

    def __init__(self, total_steps: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._total, self._quiet, self._stream = total_steps, quiet, stream or sys.stderr
        self._courses: dict[str, Series] = {}
        self._line: dict[str, float] = {}
        self._started = self._reported = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> TrainDisplay:
        if not self._quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._live = self._started_live()
            register_after_fork(self, TrainDisplay._step_aside)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._frame(over=True))
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
        """Shows a line of the log: "step", loss terms, and what else of the names of `medcli.train.curves` is in it."""
        if self._quiet:
            return
        self._line, self._reported = dict(line), time.monotonic()
        for name, value in line.items():
            if is_term(name) or is_figure(name) or name.partition("/")[0] == "gradient" or name == INPUT:
                self._courses.setdefault(name, Series(name)).add(value)
        if self._live is None:
            self.say(plain(line, self._total))
        else:
            self._live.update(self._frame())

    def _frame(self, *, over: bool = False) -> PanelState:
        rows = {name: course.row() for name, course in self._courses.items()}
        figures = [row for name, row in rows.items() if is_figure(name)]
        if INPUT in rows:
            figures.append(TableRow("noisy input", rows[INPUT].now))
        terms = [row for name, row in rows.items() if not is_figure(name) and name != INPUT]
        return PanelState(self._total, self._line, terms, figures, self._started, self._reported, over)

    def _started_live(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        live = Live(
            self._frame(),
            console=Console(file=self._stream, force_terminal=True),
            refresh_per_second=REFRESH,
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe stays there
            redirect_stderr=sys.stderr.isatty(),
        )
        live.start(refresh=True)
        return live

    def _step_aside(self) -> None:
        """In a forked worker, which has the panel's streams but not its thread: it writes straight to the terminal."""
        from rich.file_proxy import FileProxy

        for name in ("stdout", "stderr"):
            if isinstance(stream := getattr(sys, name), FileProxy):
                setattr(sys, name, stream.rich_proxied_file)
