"""The course of a run as an image: `log.jsonl` in, `curves.png` out. Also what the names in a line of the log mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from medcli.files import jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, float]

FACTS = frozenset(
    {"step", "progress", "gradient", "rate", "steps_per_second", "images_per_second", "seconds_left", "loader_wait"}
)
INPUT = "psnr_input"
SCORE = "val_score"  # for validation without clean images; higher is better
SIZE, DPI = (12, 8), 100  # inches and pixels per inch: 1200 x 800 pixels
COLOURS = ("#1f5fa8", "#c8501e", "#2c8a4b", "#8a4bb0", "#a67c00", "#b02a5b", "#3a8f9e", "#5c5c5c")
STROKES = ("-", "--", ":", "-.")
GRAY = "#666666"
LOOK: dict[Any, object] = {  # whatever the reader's own matplotlib is set to
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "font.size": 11,
    "text.color": "black",
    "axes.labelcolor": "black",
    "xtick.color": "black",
    "ytick.color": "black",
    "legend.frameon": False,
}


def is_figure(name: str) -> bool:
    """Whether a name in the log is of something measured on validation images."""
    return name == "psnr" or name.startswith("val_")


def is_term(name: str) -> bool:
    """Whether a name in the log is of a loss term: all are that are nothing else."""
    return name.partition("/")[0] not in FACTS and name != INPUT and not is_figure(name)


def draw(log: Path, out: Path) -> None:
    """Draws loss terms, validation PSNR and learning rate over the steps of `log`, 1200 x 800 pixels, as PNG.

    log: one JSON object per line; a last line that is half written is left out, and where a resumed run repeats steps,
    it replaces all that came after them. Without a line to draw no file is made. Raises OutputError where `out` cannot
    be written.
    """
    lines = read_log(log)
    panels = _panels(lines)
    if not panels:
        return
    import matplotlib

    from medcli.files.atomic import atomic_write

    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.rcParams.update(LOOK)
        figure = _figure(lines, panels, f"{log.parent.name}, step {lines[-1]['step']:.0f}")
        with atomic_write(out) as file:
            figure.savefig(file, format="png")


def read_log(log: Path) -> list[dict[str, float]]:
    """The lines of a log by growing step, each with its numbers alone; empty where there is no log.

    What validation said of a step joins the line of that step; all else that comes again replaces what was there.
    """
    lines: list[dict[str, float]] = []
    for line in _parsed(log):
        while lines and lines[-1]["step"] > line["step"]:
            lines.pop()
        again = bool(lines) and lines[-1]["step"] == line["step"]
        if again and not any(name in lines[-1] for name in line if name != "step"):
            lines[-1] |= line
        else:
            lines[len(lines) - again :] = [line]
    return lines


def _parsed(log: Path) -> Iterator[dict[str, float]]:
    for line in jsonl.parse(log.read_bytes() if log.is_file() else b""):
        if _is_number(line.get("step")):
            yield {name: value for name, value in line.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Panel(NamedTuple):
    """One diagram of the figure: how tall it is beside the others, what it shows, and how that is drawn."""

    height: float
    names: Sequence[str]
    draw: Callable[[Axes, Sequence[Line], Sequence[str]], None]


def _panels(lines: Sequence[Line]) -> list[_Panel]:
    """Those that have something to show, from top to bottom."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    terms = [name for name in names if is_term(name)]
    figures = [name for name in names if is_figure(name)]
    levels = [name for name in figures if "psnr" in name] or [name for name in figures if name == SCORE]
    rates = [name for name in names if name.partition("/")[0] == "rate"]
    panels = (_Panel(3, terms, _draw_terms), _Panel(2.2, levels, _draw_psnr), _Panel(1.2, rates, _draw_rate))
    return [panel for panel in panels if panel.names]


def _figure(lines: Sequence[Line], panels: Sequence[_Panel], title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    heights = {"height_ratios": [panel.height for panel in panels]}
    rows = figure.subplots(len(panels), sharex=True, squeeze=False, gridspec_kw=heights)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        panel.draw(axes, lines, panel.names)
    rows[-1].set_xlabel("step")
    rows[-1].set_xlim(0, 1.01 * max(1, lines[-1]["step"]))
    figure.align_ylabels(list(rows))
    return figure


def _draw_terms(axes: Axes, lines: Sequence[Line], names: Sequence[str]) -> None:
    """Each term as it was reported, faint, and its running mean."""
    seen: list[float] = []
    for name, (colour, stroke) in zip(names, _pens(), strict=False):
        steps, values = _series(lines, name)
        smooth = running_mean(values, len(values) // 40)
        if smooth != values:
            axes.plot(steps, values, color=colour, alpha=0.35, linewidth=0.8)
        label = f"{name}  {smooth[-1]:.4g}" if smooth else name
        axes.plot(steps, smooth, stroke, color=colour, linewidth=1.8, label=label, marker=_marker(values))
        seen += values
    axes.set_ylabel("loss")
    _fit(axes, seen)
    _name_lines(axes)


def _draw_psnr(axes: Axes, lines: Sequence[Line], names: Sequence[str]) -> None:
    """Measured levels with their best, above the level of the noisy input."""
    for name, (colour, stroke) in zip(names, _pens(), strict=False):
        steps, values = _series(lines, name)
        level, step = max(zip(values, steps, strict=True), default=(math.nan, 0))
        label = f"{name}\nbest {level:.4g} at {step:.0f}"
        axes.plot(steps, values, stroke, color=colour, linewidth=1.8, label=label, marker=_marker(values))
    _, levels = _series(lines, INPUT)
    if levels:
        axes.axhline(levels[-1], color=GRAY, linestyle="--", linewidth=1.2, label=f"noisy input {levels[-1]:.2f}")
    axes.set_ylabel("validation PSNR, dB" if "psnr" in names[0] else "validation")
    axes.margins(y=0.12)
    _name_lines(axes)


def _draw_rate(axes: Axes, lines: Sequence[Line], names: Sequence[str]) -> None:
    for name, (colour, stroke) in zip(names, _pens(), strict=False):
        steps, values = _series(lines, name)
        pen = (GRAY, "-") if len(names) == 1 else (colour, stroke)
        axes.plot(steps, values, pen[1], color=pen[0], linewidth=1.8, label=name, marker=_marker(values))
    if len(names) > 1:
        _name_lines(axes)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value averaged with `reach` neighbours on either side.

    Near the start with fewer on both, so that a steep fall keeps its height; at the end with those that there are.
    """
    reaches = [min(reach, i) for i in range(len(values))]
    return [fmean(values[i - r : i + r + 1]) for i, r in enumerate(reaches)]


def _series(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """(steps, values) of one name where it is finite."""
    points = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def _fit(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where positive values span decades; else one that a few outliers do not stretch."""
    if not values:
        return
    ordered = sorted(values)
    low, high = ordered[len(values) // 100], ordered[-1 - len(values) // 100]
    if ordered[0] > 0 and high > 30 * low:
        axes.set_yscale("log")
    elif (room := 0.08 * (high - low)) > 0 and ordered[-1] - ordered[0] > 1.5 * (high - low):
        axes.set_ylim(low - room, high + room)


def _name_lines(axes: Axes) -> None:
    """Names and last or best values of the lines, beside the diagram, where they hide nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=10)


def _pens() -> Iterator[tuple[str, str]]:
    """(colour, stroke), each pair once."""
    return ((colour, stroke) for stroke in STROKES for colour in COLOURS)


def _marker(values: Sequence[float]) -> str:
    """Few points are marked: a single one would make no line."""
    return "o" if len(values) <= 30 else ""
