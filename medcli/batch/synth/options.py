"""The options of a run of `med synth-pairs` as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcli.batch.executors.choose import ExecutorOptions
from medcli.batch.executors.dispatch import Executor
from medcli.batch.executors.inline import Inline
from medcli.batch.executors.processes import Processes
from medcli.batch.synth.learned_noise import CLEAN_TO_NOISY, check_levels, open_model
from medcli.batch.synth.run import DEPTHS, NoiseSource, NotatedNoise, SynthOptions
from medcli.cpu import usable_cores
from medcli.errors import OptionError
from medcli.images.formats import FORMATS
from medcli.images.values import RangeChoice
from medcli.noise.notation import parse, parse_pool
from medcli.train.noise_model import PLACE, NoiseModelJob

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SynthPairsOptions:
    """The options of `med synth-pairs`, by the names of the parameters that click parses; None: not given.

    option, config: of the noise model of `like`.
    """

    clean: Path
    noisy: Path
    noise: str | None = None
    pool: str | None = None
    model: str | None = None
    like: Path | None = None
    minutes: float | None = None
    option: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sigma: Span | None = None
    temperature: Span | None = None
    direction: str | None = None
    device: str | None = None
    seed: int = 0
    count: int = 1
    depth: str | None = None
    format: str | None = None
    range: RangeChoice = "auto"
    range_from: Path | None = None
    workers: int | None = None
    cluster: str | None = None
    threads: int | None = None
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    def noise_source(self) -> NoiseSource:
        """Raises RecipeError for what is no noise or pool, ModelError for what is no noise model."""
        if not self.model:
            return NotatedNoise(parse(self.noise) if self.noise else parse_pool(self.pool or "noise"))
        return open_model(
            self.model,
            direction=self.direction or CLEAN_TO_NOISY,
            sigma=self.sigma,
            temperature=self.temperature or (1.0, 1.0),
            device=self._one_device(),
        )

    def _one_device(self) -> str:
        """For this process."""
        return (self.device or "auto").partition(",")[0]

    def check(self) -> None:
        """Raises UsageError for options that exclude each other or would have no effect."""
        if self.depth and self.format and DEPTHS[self.depth] not in FORMATS[self.format].depths:
            raise OptionError(f"{self.format.upper()} cannot hold --depth {self.depth}. TIFF can: --format tiff")
        if sum(map(bool, (self.noise, self.pool, self.model or self.like))) > 1:
            raise OptionError("Say what to add: --noise SPEC, --pool NAME, --model NAME or --like DIR, one of them.")
        if not self.like and (self.minutes is not None or self.option or self.config):
            raise OptionError("--minutes, --option and --config need a folder to learn from: --like DIR.")
        if self.like and self.direction == "noisy-to-clean":
            raise OptionError("--like learns how images become noisy. Later, --model takes the other direction.")
        of_model = (self.sigma, self.temperature, self.direction, self.device)
        if not (self.like or self.model) and of_model != (None,) * 4:
            raise OptionError("--sigma, --temperature, --direction and --device need a --model or --like.")
        check_levels(self.sigma or (0.0, 0.0), self.temperature or (1.0, 1.0))

    def noise_model_job(self, like: Path, command: str) -> NoiseModelJob:
        """The noise model to be trained first. command: for its card. Raises ModelError for a start that is none."""
        if self.model:
            self.noise_source()
        return NoiseModelJob(
            like, self.clean, self.noisy / PLACE, self.model or "", self.minutes, dict(self.option),
            dict(self.config), self._one_device(), str(self.range), command,
        )  # fmt: skip

    def executor(self, tasks: int) -> Executor:
        """For so many tasks. Noise is drawn by a worker for each core, and one alone is this process.

        Raises MedcliError where there is no cluster or no Ray.
        """
        device = self.device or ("auto" if self.model else "cpu")
        if self.cluster is not None:
            chosen = ExecutorOptions(device=device, workers=self.workers, cluster=self.cluster).executor()
            assert chosen is not None
            return chosen
        devices = device.split(",")
        workers = min(self.workers or self.threads or max(usable_cores(), len(devices)), max(tasks, 1))
        return Processes(workers, devices) if workers > 1 else Inline(devices[0], threads=1)

    def synth_options(self) -> SynthOptions:
        """Raises RecipeError for what is no noise or pool, ModelError for what is no noise model."""
        source = self.noise_source()
        return SynthOptions(
            self.clean, self.noisy, source, self.seed, self.count, self.depth, self.format, self.overwrite, self.range
        )
