"""The options of a run of `med denoise` as one object, from the command line to the engine. Imports no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from medcli.batch.executors.choose import ExecutorOptions
from medcli.batch.shards import Shard
from medcli.engine.options import EngineOptions
from medcli.engine.slider_values import NAMES, Sliders, Strength
from medcli.errors import OptionError
from medcli.files.stores import StorePath
from medcli.images.development import Development
from medcli.images.source import MAX_PIXELS

BLACK = "black"
SAME_DEPTH, FLOAT_DEPTH = DEPTHS = "same", "float"
AUTO = "auto"  # in place of a model's name


class Output(NamedTuple):
    """Where results go. is_folder: whether it was written with a slash at its end."""

    path: Path | None
    is_folder: bool


NO_OUTPUT = Output(None, False)


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(EngineOptions, ExecutorOptions):
    """By the names of the parameters that click parses. mask: a file, a folder, or BLACK."""

    inputs: Sequence[Path] = ()
    files_from: Path | None = None
    shard: Shard | None = None
    output: Output = NO_OUTPUT
    model: str = "photo"
    strength: Strength = 1.0
    look: str | None = None
    luma: float | None = None
    chroma: float | None = None
    texture: float | None = None
    protect_highlights: float | None = None
    protect_shadows: float | None = None
    encoding: str = "auto"
    wb: str = "camera"
    exposure: float = 0.0
    highlights: str = "clip"
    space: str = "srgb"
    stage: str = "mosaic"
    prefer: str = "both"
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
    depth: str = SAME_DEPTH
    provenance: bool = False
    force: bool = False
    dry_run: bool = False
    as_objects: bool = False
    quiet: bool = False

    def sliders(self) -> Sliders:
        """What is taken away of the noise. Raises OptionError for a look that is not known."""
        return Sliders.chosen(self.look, self.strength, {name: getattr(self, name) for name in NAMES})

    def development(self) -> Development:
        """How raw files are developed; what enlarges or fills sees them developed."""
        stage = "developed" if self.mask or self.upscale else self.stage
        return Development(self.wb, self.exposure, self.highlights, self.space, stage)

    @property
    def in_stores(self) -> bool:
        """Whether images come from a store or go to one."""
        return any(isinstance(path, StorePath) for path in (*self.inputs, self.output.path))

    @property
    def results_in_store(self) -> bool:
        """Whether they go to one, which is where they come from unless there is another output."""
        return isinstance(self.output.path or next(iter(self.inputs), None), StorePath)

    def check(self) -> None:
        """Raises OptionError for options that exclude each other."""
        if self.in_stores and (self.residual.path or self.keep_time or self.mask not in (None, BLACK)):
            raise OptionError("--residual, --keep-time and files with masks do not go with object stores.")
        if self.in_stores and not self.output.path and not all(isinstance(path, StorePath) for path in self.inputs):
            raise OptionError("With images here and in a store, say where the results go: -o FOLDER")
        if self.mask and self.upscale:
            raise OptionError("--mask and --upscale are two runs: fill the image, then enlarge the result.")
        if self.mask and not self.sliders().neutral:
            raise OptionError(
                "--strength does not go with --mask, nor do sliders: of what is missing there is nothing to keep."
            )
        if self.residual.path and (self.mask or self.upscale):
            raise OptionError("--residual shows what denoising removed: it does not go with --mask or --upscale.")
        if self.upscale and not replace(self.sliders(), strength=1.0).neutral:
            raise OptionError("--upscale goes with a --strength from 0 to 1, not with the sliders.")
        if self.provenance and Path("-") in (*self.inputs, self.output.path):
            raise OptionError("--provenance writes a file beside the result: it does not go with standard streams.")
        if self.depth == FLOAT_DEPTH and self.residual.path:
            raise OptionError("--residual is written in the depth of the source: it does not go with --depth float.")
        if self.model == AUTO and (Path("-") in self.inputs or self.in_stores):
            raise OptionError("--model auto looks at the image first: it takes a file, no pipe and no object store.")
        if self.model == AUTO and (self.mask or self.upscale):
            raise OptionError("--mask and --upscale need a model that was trained for it: name it with --model.")
        if self.in_stores and (self.model == AUTO or self.provenance):
            raise OptionError("--model auto and --provenance do not go with object stores.")
        if not self.inputs and self.files_from is None:
            raise OptionError("Missing argument 'INPUT...': name images, folders, or a list with --files-from.")
        if self.mask and self.mask != BLACK and self.files_from is not None:
            raise OptionError("--mask takes images and folders that are named, not those of --files-from.")
        if not self.alone and Path("-") in (*self.inputs, self.output.path):
            raise OptionError("Standard input and output are for one process: leave --workers and --cluster out.")
        if Path("-") in self.inputs and (len(self.inputs) > 1 or self.files_from is not None):
            raise OptionError("'-' (standard input) is one image and cannot be mixed with others.")
