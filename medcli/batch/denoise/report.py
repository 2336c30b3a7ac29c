"""What became of an image, for people (one line) and for programs (one JSON object)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Literal

from medcli import __version__
from medcli.batch.denoise.plan import STREAM, Job
from medcli.engine.residual import RemovedStats
from medcli.errors import MedcliError, SomeFailed
from medcli.images.values import UNIT, ValueRange

Status = Literal["done", "skipped", "failed", "planned"]


@dataclass(frozen=True)
class ImageStats:
    """What is worth knowing of an image that was denoised.

    width, height: pixels of the result's first page. pixels: of all pages. tile: side in pixels, 0 where the
    image ran whole. precision: fp32, fp16 or bf16. runtime: torch, onnx or openvino. device: on which.
    seconds: spent on denoising, without reading and writing.
    values: which were black and white for the network; by_type: whether the pixels' type alone says so.
    removed: what the residual says, where it was wanted.
    """

    width: int
    height: int
    pages: int
    pixels: int
    tile: int
    precision: str
    runtime: str
    seconds: float
    device: str = ""
    values: ValueRange = UNIT
    by_type: bool = True
    removed: RemovedStats | None = None

    @property
    def speed(self) -> float:
        """Megapixels per second."""
        return self.pixels / 1e6 / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Outcome:
    """The end of one job; `facts` where it is done, `error` where it failed. notes: one line per conversion."""

    job: Job
    status: Status
    facts: ImageStats | None = None
    notes: tuple[str, ...] = ()
    error: MedcliError | None = None


def as_json(outcome: Outcome, model: str) -> str:
    """One line on an image; the same keys whatever the status, null where there is nothing to say."""
    facts = outcome.facts
    return json.dumps(
        {
            "event": "image",
            "status": outcome.status,
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "model": model,
            "device": facts and facts.device,
            "runtime": facts and facts.runtime,
            "precision": facts and facts.precision,
            "tile": facts and facts.tile,
            "width": facts and facts.width,
            "height": facts and facts.height,
            "pages": facts and facts.pages,
            "range": facts and [facts.values.low, facts.values.high],
            "seconds": facts and round(facts.seconds, 3),
            "megapixels_per_second": facts and round(facts.speed, 3),
            "removed": facts and facts.removed and asdict(facts.removed),
            "notes": outcome.notes,
            "error": outcome.error and outcome.error.problem,
        }
    )


def start_event(images: int | None, model: str) -> str:
    """The line before those on images. images: their number, None while they are still being listed."""
    return json.dumps({"event": "start", "images": images, "model": model, "medcli": __version__})


def end_event(summary: RunSummary, seconds: float, *, complete: bool) -> str:
    """The line after those on images. complete: whether the run came to its end."""
    counts = {status: summary.counts[status] for status in ("done", "skipped", "failed", "planned")}
    return json.dumps({"event": "end", "complete": complete, **counts, "seconds": round(seconds, 3)})


def as_lines(outcome: Outcome, model: str) -> list[str]:
    """One line on an image that has not failed, and one for each thing that was converted on its way."""
    source = "stdin" if outcome.job.source == STREAM else str(outcome.job.source)
    target = "stdout" if outcome.job.target == STREAM else str(outcome.job.target)
    if outcome.facts is None:
        return [f"{source} -> {target}: {'up to date' if outcome.status == 'skipped' else 'to do'}"]
    facts = outcome.facts
    details = [
        model,
        f"{facts.runtime} on {facts.device}",
        facts.precision,
        f"tile {facts.tile}" if facts.tile else "untiled",
        _size(facts),
    ]
    details += [] if facts.by_type else [f"range {facts.values.words}"]
    details += [facts.removed.words] if facts.removed else []
    speed = [f"{facts.seconds:.2f} s", f"{facts.speed:.2f} MP/s"]
    return [f"{source} -> {target}: {', '.join(details + speed)}", *(f"  note: {note}" for note in outcome.notes)]


def _size(facts: ImageStats) -> str:
    return f"{facts.width}x{facts.height}" + (f", {facts.pages} pages" if facts.pages > 1 else "")


@dataclass
class RunSummary:
    """Counts of a run, and its errors."""

    counts: Counter[Status] = field(default_factory=Counter)
    errors: list[MedcliError] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        if outcome.error is not None:
            self.errors.append(outcome.error)

    def summary(self, seconds: float) -> str:
        """`12 done, 3 up to date, 1 failed in 34.2 s`"""
        words: dict[Status, str] = {"done": "done", "planned": "to do", "skipped": "up to date", "failed": "failed"}
        parts = [f"{self.counts[status]} {word}" for status, word in words.items() if self.counts[status]]
        return f"{', '.join(parts)} in {seconds:.1f} s"

    def raise_errors(self, count: int, what: str, done: str) -> None:
        """Raises MedcliError where all of `count` failed, SomeFailed where only some did, each with the problems."""
        why = "\n".join(error.problem for error in self.errors)
        if self.errors and len(self.errors) == count:
            raise MedcliError(f"None of {count} {what} could be {done}:", why)
        if self.errors:
            raise SomeFailed(f"{len(self.errors)} of {count} {what} failed:", why)
