"""The options of `med denoise` as one object, from the command line to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcli.cli.options import NO_OUTPUT, Output
from medcli.engine.options import EngineOptions
from medcli.images.source import MAX_PIXELS

BLACK = "black"


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(EngineOptions):
    """By the names of the parameters that click parses. range: what was typed, after `chosen_range` a RangeChoice."""

    inputs: Sequence[Path] = ()
    output: Output = NO_OUTPUT
    model: str = "photo"
    strength: float = 1.0
    residual: Output = NO_OUTPUT
    mask: str | None = None
    upscale: int | None = None
    range_from: Path | None = None
    recursive: bool = False
    suffix: str | None = None
    format: str | None = None
    quality: int | None = None
    max_pixels: int = MAX_PIXELS
    keep_time: bool = False
    force: bool = False
    dry_run: bool = False
    as_objects: bool = False
    quiet: bool = False
