"""The options of a run of `med denoise` as one object, from the command line to the engine. Imports no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medcli.engine.options import EngineOptions
from medcli.errors import OptionError
from medcli.images.source import MAX_PIXELS

BLACK = "black"


class Output(NamedTuple):
    """Where results go. is_folder: whether it was written with a slash at its end."""

    path: Path | None
    is_folder: bool


NO_OUTPUT = Output(None, False)


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(EngineOptions):
    """By the names of the parameters that click parses. mask: a file, a folder, or BLACK."""

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

    def check(self) -> None:
        """Raises OptionError for options that exclude each other."""
        if self.mask and self.upscale:
            raise OptionError("--mask and --upscale are two runs: fill the image, then enlarge the result.")
        if self.mask and self.strength < 1:
            raise OptionError("--strength does not go with --mask: of what is missing there is nothing to keep.")
        if self.residual.path and (self.mask or self.upscale):
            raise OptionError("--residual shows what denoising removed: it does not go with --mask or --upscale.")
        if self.inputs.count(Path("-")) and len(self.inputs) > 1:
            raise OptionError("'-' (standard input) is one image and cannot be mixed with others.")
