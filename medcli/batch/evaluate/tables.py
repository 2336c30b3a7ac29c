"""Scores as tables: for people (cells, Markdown) and for programs (CSV of images, JSON of everything)."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medcli import __version__
from medcli.batch.evaluate.run import IDENTITY, Result, Score
from medcli.metrics import PER_IMAGE

LOSS = 0.1  # dB; an image that loses more than this has been harmed
NOTHING = "-"


@dataclass(frozen=True)
class Protocol:
    """How the numbers were made. noise: notation, empty where both images come from files.

    images, against: folders of the noisy (or, with noise, the clean) and of the clean images. clip, round: as the
    classes of `medcli.batch.pairs` have them. models: how they were run, in words; empty without models.
    range: which values are 0 and 1, as requested.
    """

    noise: str
    images: str
    against: str
    count: int
    clip: bool
    round: bool
    seed: int
    models: str
    range: str = "auto"

    def sentence(self) -> str:
        """All of it in one line, to stand with every table."""
        count = f"{self.count} image{'s' if self.count != 1 else ''}"
        if not self.noise:
            scored = "in the depth of the noisy file" if self.round else "in float"
            made = f"{count} of {self.images} against {self.against}, files as they are"
        else:
            scored = "as 8-bit files would hold them" if self.round else "in float"
            rounding = "rounded to 8 bits" if self.round else "not rounded"
            made = f"{self.noise} on {count} of {self.images}, seed {self.seed}, {self._clipping()}, {rounding}"
        span = f", values {self.range}" if self.range != "auto" else ""
        models = f"; {self.models}" if self.models else ""
        return f"{made}; results scored {scored}, clipped to [0, 1], over all channels{span}{models}."

    def _clipping(self) -> str:
        if self.clip:
            return "clipped after each component"
        if self.round:
            return "clipped at the end"
        return "clipped where it says so" if "clip" in self.noise.split("+") else "not clipped"


@dataclass(frozen=True)
class MethodRow:
    """One method over all images. deviation: over images, of the sample; None for a single image.

    change, worst: mean and least PSNR gain over the noisy input in dB. losing: images that lose more than 0.1 dB.
    seconds: for all images, restoring only. speed: megapixels per second. Both None for the noisy input.
    """

    method: str
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]
    change: float
    worst: float
    losing: int
    seconds: float | None
    speed: float | None
    fid: float | None


@dataclass(frozen=True)
class Table:
    """The scores of one protocol, and their summary."""

    protocol: Protocol
    result: Result

    def rows(self) -> list[MethodRow]:
        """One for each method, the noisy input first."""
        methods = dict.fromkeys(score.method for score in self.result.scores)
        return [self._row(name, [score for score in self.result.scores if score.method == name]) for name in methods]

    def _row(self, method: str, scores: Sequence[Score]) -> MethodRow:
        columns = {name: [score.values[name] for score in scores] for name in scores[0].values}
        changes = [score.change for score in scores]
        seconds = sum(score.seconds for score in scores)
        timed = method != IDENTITY.name
        return MethodRow(
            method=method,
            mean={name: _mean(values) for name, values in columns.items()},
            deviation={name: _deviation(values) for name, values in columns.items()},
            change=_mean(changes),
            worst=min(changes),
            losing=sum(change < -LOSS for change in changes),
            seconds=seconds if timed else None,
            speed=sum(score.pixels for score in scores) / 1e6 / max(seconds, 1e-9) if timed else None,
            fid=self.result.fid.get(method),
        )


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of text) of the summary; figures are mean ± standard deviation over images."""
    rows = table.rows()
    names = list(rows[0].mean)
    fid = ["FID (low is good)"] if table.result.fid else []
    titles = [PER_IMAGE[name].title for name in names]
    headings = ["method", *titles, *fid, "gain dB", "worst dB", "lose > 0.1 dB", "s", "MP/s"]
    return headings, [_cells(row, names) for row in rows]


def markdown(tables: Iterable[Table]) -> str:
    """One table after another, each under the line that says how it was made."""
    return "\n".join(f"{table.protocol.sentence()}\n\n{_markdown(table)}" for table in tables)


def as_csv(tables: Iterable[Table]) -> str:
    """One line for each image and method."""
    lines = [_protocol_columns(table) | image for table in tables for image in _images(table)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_json(tables: Iterable[Table]) -> str:
    """Protocols, summaries and images. Infinite figures are the strings "inf" and "-inf", undefined ones null."""
    content = [
        {
            "protocol": asdict(table.protocol) | {"sentence": table.protocol.sentence()},
            "methods": [asdict(row) for row in table.rows()],
            "images": list(_images(table)),
        }
        for table in tables
    ]
    return json.dumps({"medcli": __version__, "tables": _plain(content)}, indent=1, allow_nan=False) + "\n"


def _cells(row: MethodRow, names: Iterable[str]) -> list[str]:
    figures = []
    for name in names:
        digits, deviation = f".{PER_IMAGE[name].decimals}f", row.deviation[name]
        figures.append(f"{row.mean[name]:{digits}}" + ("" if deviation is None else f" ± {deviation:{digits}}"))
    fid = [] if row.fid is None else [_figure(row.fid, ".2f")]
    change = [_figure(row.change, "+.2f"), _figure(row.worst, "+.2f"), str(row.losing)]
    if row.method == IDENTITY.name:
        change = [NOTHING] * 3
    return [row.method, *figures, *fid, *change, _figure(row.seconds, ".2f"), _figure(row.speed, ".3g")]


def _markdown(table: Table) -> str:
    headings, rows = cells(table)
    aligned = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, aligned, *rows))


def _images(table: Table) -> Iterator[dict[str, Any]]:
    for score in table.result.scores:
        yield {
            "image": score.image,
            "drawn": score.drawn,
            "method": score.method,
            **score.values,
            "gain": score.change,
            "seconds": score.seconds,
            "megapixels_per_second": score.pixels / 1e6 / max(score.seconds, 1e-9),
        }


def _protocol_columns(table: Table) -> dict[str, Any]:
    protocol = table.protocol
    return {"noise": protocol.noise, "clip": protocol.clip, "round": protocol.round, "seed": protocol.seed}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)  # statistics.mean does not bear infinities of both signs


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _plain(value: Any) -> Any:
    """The same with what JSON cannot say put otherwise."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
