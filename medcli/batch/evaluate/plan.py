"""From the options of `med eval` to its tables: pairs, metrics and the protocol of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medcli.batch.evaluate.run import EvaluatedMethod, Pairs, baseline_on
from medcli.batch.evaluate.tables import Protocol
from medcli.batch.executors.choose import ExecutorOptions
from medcli.batch.pairs import FilePairs, SyntheticPairsFromFiles, thinned
from medcli.data.folders import images_in, matched
from medcli.engine.options import EngineOptions
from medcli.errors import OptionError
from medcli.metrics import FID, PER_IMAGE, Fid, Metric, check_names
from medcli.noise.base import Noise
from medcli.noise.notation import parse


@dataclass(frozen=True, kw_only=True)
class EvalOptions(EngineOptions, ExecutorOptions):
    """The options of `med eval`, by the names of the parameters that click parses.

    rounded: None for the default. range: what was typed, after `chosen_range` a RangeChoice.
    """

    models: tuple[str, ...]
    clean: Path
    noisy: Path | None
    noise: tuple[str, ...]
    clip: bool | None
    rounded: bool | None
    noise_seed: int
    limit: int | None
    metrics: str
    classical: tuple[str, ...]
    csv: Path | None
    json: Path | None
    markdown: Path | None
    strength: float
    range_from: Path | None
    quiet: bool

    def check(self) -> None:
        """Raises OptionError for options that exclude each other."""
        if bool(self.noise) == (self.noisy is not None):
            raise OptionError("Say where the noisy images come from: --noise SPEC or --noisy DIR, one of them.")
        if self.noisy is not None and self.clip is not None:
            raise OptionError("--clip and --no-clip say how --noise is added; the files of --noisy are as they are.")
        if not self.alone and FID in self.metrics.split(","):
            raise OptionError("The FID is of all images together: leave --workers and --cluster out.")
        if self.clip is False and self.rounded and self.noise:
            raise OptionError("--round makes 8-bit images, which end at black and white: leave --no-clip out.")

    def chosen_metrics(self) -> tuple[Mapping[str, Metric], bool]:
        """(metrics by name, whether FID is wanted); raises MedcliError for unknown ones and for what they lack."""
        names = tuple(dict.fromkeys(("psnr", *(name.strip() for name in self.metrics.split(",") if name.strip()))))
        check_names(names)
        if FID in names:
            Fid()  # raises before the work, not after it
        return {name: PER_IMAGE[name].make() for name in names if name != FID}, FID in names


@dataclass(frozen=True)
class EvalTask:
    """What one table is about. noise: its notation, empty where both images of a pair come from files.

    baselines: the classical denoisers; made: what makes them in a worker.
    """

    noise: str
    pairs: Pairs
    made: Sequence[Callable[[str], EvaluatedMethod]]
    baselines: Sequence[EvaluatedMethod]

    def protocol(self, options: EvalOptions, where: str, workers: int = 1) -> Protocol:
        """How the numbers of the table are made. where: models run, in words."""
        models = ""
        if options.models:
            passes = ", eight flips and turns" if options.ensemble else ""
            passes += f", sharpened by {options.sharpen:g} ({options.sharpen_by})" if options.sharpen else ""
            by = f" by {workers} workers, each timed for itself" if workers > 1 else ""
            models = f"models {where}{by}, precision {options.precision}, strength {options.strength:g}{passes}"
        return Protocol(
            noise=self.noise,
            images=str(options.noisy or options.clean),
            against=str(options.clean),
            count=len(self.pairs),
            clip=bool(options.clip),
            round=self.pairs.round,
            seed=options.noise_seed,
            models=models,
            range=str(options.range),
        )


def _task(noise: Noise | None, pairs: Pairs, classical: Iterable[str]) -> EvalTask:
    made = [partial(baseline_on, name, noise) for name in classical]
    return EvalTask("" if noise is None else str(noise), pairs, made, [each("cpu") for each in made])


def eval_tasks(options: EvalOptions) -> Iterator[EvalTask]:
    """One for each table. Raises InputError for folders without images or pairs, RecipeError for what is no noise."""
    values, nodata, classical = options.range, options.nodata, dict.fromkeys(options.classical)
    if options.noisy is not None:
        names = thinned(matched(options.noisy, options.clean), options.limit)
        pairs = FilePairs(options.noisy, options.clean, names, options.rounded is not False, values, nodata)
        yield _task(None, pairs, classical)
        return
    images = thinned(images_in(options.clean), options.limit)
    clip, rounded, seed = bool(options.clip), bool(options.rounded), options.noise_seed
    for noise in map(parse, options.noise):
        made = SyntheticPairsFromFiles(options.clean, images, noise, seed, clip, rounded, values, nodata)
        yield _task(noise, made, classical)
