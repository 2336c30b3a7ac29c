"""How long a training step takes on this machine, and the sizes of network, patches and batches that follow from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from medcli.data.crops import Sample, SampleSource
from medcli.errors import ran_out
from medcli.methods.base import FitsPatchSize, Method, Needs
from medcli.seeding import keyed_generator
from medcli.train.distributed import ProcessGroup
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.recipe import Recipe
from medcli.zoo.description import NOISE_DOMAIN, domain_of

TRIAL = 8  # steps
PATIENCE = 15.0  # seconds that a measurement lasts, or one step
STEP = 1.0  # seconds that a step may take where sizes are free: 10,000 of them are under three hours
FEWEST = 2000  # steps that should fit into --minutes


class _Enough(Exception):
    """Ends a measurement in the midst of a run."""


def seconds_per_step(
    method: Method,
    recipe: Recipe,
    hardware: Hardware,
    source: SampleSource,
    steps: int = TRIAL,
    patience: float = PATIENCE,
) -> float:
    """From the second half of a few steps, which are thrown away; of fewer where `patience` (seconds) is over."""
    times: list[float] = []
    started = time.monotonic()

    def note(line: Line) -> None:
        times.append(1 / max(line["steps_per_second"], 1e-3))
        if len(times) == steps or time.monotonic() - started > patience:
            raise _Enough

    with TemporaryDirectory(prefix="med-pace-") as room, suppress(_Enough):
        trainer = Trainer(method, replace(recipe, steps=steps), hardware, Path(room), note)
        trainer.run(source, Limits(report_every=1, save_every=steps + 1))
    return fmean(times[len(times) // 2 :])


class Size(NamedTuple):
    """Of a network (arguments; empty for its defaults), of patches (pixels) and of batches."""

    config: Mapping[str, Any]
    patch: int
    batch: int


DEFAULT = Size({}, Recipe.patch, Recipe.batch)
SIZES: Mapping[str, Sequence[Size]] = {
    "split": (
        Size({"widths": [16, 32, 48], "encoders": [1, 1, 1], "decoders": [1, 1, 1]}, 64, 4),
        Size({"widths": [24, 48, 64, 96], "encoders": [1, 1, 1, 1], "decoders": [1, 1, 1, 1]}, 64, 8),
        Size({"widths": [32, 64, 96, 128], "encoders": [1, 1, 1, 2], "decoders": [1, 1, 1, 1]}, 64, 12),
        DEFAULT,
    ),
    "unet": (
        Size({"widths": [16, 32, 48], "blocks": [1, 1], "middle": 1}, 64, 8),
        Size({"widths": [24, 48, 64, 96], "blocks": [1, 1, 1], "middle": 2}, 64, 12),
        Size({"widths": [32, 64, 96, 128], "blocks": [1, 1, 2], "middle": 2}, 96, 12),
        DEFAULT,
    ),
}
"""By architecture, each about two to four times as much work as the one before."""
OF_OTHERS = (Size({}, 64, 4), Size({}, 64, 10), DEFAULT)


@dataclass(frozen=True)
class _Blank:
    """Patches of nothing but noise, of the kinds that a method needs: their content takes no time."""

    needs: Needs
    channels: int
    patch: int

    def sample(self, step: int, index: int) -> Sample:
        generator = keyed_generator(step, index)
        shape = (self.channels, self.patch, self.patch)
        views = [torch.rand(shape, generator=generator) for _ in range(self.needs.views + self.needs.spare)]
        clean = None if self.needs.clean == "none" else torch.rand(shape, generator=generator)
        return Sample(views, clean, index)

    def release(self) -> None: ...


def fitted(
    recipe: Recipe,
    free: Collection[str],
    build: Callable[[Recipe], Method],
    hardware: Hardware,
    group: ProcessGroup,
    minutes: float | None,
    say: Callable[[str], None],
) -> Recipe:
    """The recipe with the largest sizes of which a step is quick enough here; `say` is called with them.

    free: which of "config", "patch" and "batch" were not given; the others stay. build: a recipe's method. minutes: of
    the whole run, None for no limit. Under CUDA, and for models of noise, the usual sizes stay.
    Raises RecipeError as `build` does.
    """
    if not free or hardware.device.type == "cuda":
        return recipe
    usual = build(recipe)
    if domain_of(usual.model) == NOISE_DOMAIN:
        return recipe
    allowed = STEP if minutes is None else min(STEP, 60 * minutes / FEWEST)
    quiet = replace(hardware, workers=0)
    candidates = _candidates(recipe, free, usual)
    say("measuring how long a step takes on this machine ...")
    chosen, pace = recipe, math.nan
    for candidate in candidates:
        seconds = group.broadcast(_timed(candidate, build, quiet, allowed), hardware.device)
        if math.isnan(pace) or seconds <= allowed:
            chosen, pace = candidate, seconds
        if seconds > allowed:
            break
    say(_words(chosen, pace, free))
    return chosen


def _candidates(recipe: Recipe, free: Collection[str], usual: Method) -> list[Recipe]:
    """From the smallest to the usual sizes, each once; those that the usual network takes."""
    multiple = int(getattr(usual.model, "multiple", 1))
    found: list[Recipe] = []
    for size in SIZES.get(recipe.architecture, OF_OTHERS):
        keeps = "patch" not in free or isinstance(usual, FitsPatchSize) or size.patch % multiple
        one = replace(
            recipe,
            config={**size.config, **recipe.config} if "config" in free else recipe.config,
            patch=recipe.patch if keeps else size.patch,
            batch=size.batch if "batch" in free else recipe.batch,
        )
        if one not in found:
            found.append(one)
    return found


def _timed(recipe: Recipe, build: Callable[[Recipe], Method], hardware: Hardware, allowed: float) -> float:
    """Seconds of the second step, or of the first where that is much too slow; infinite where memory is short."""
    method = build(recipe)
    blank = _Blank(method.needs, int(recipe.config.get("channels", 3)), recipe.patch)
    try:
        return seconds_per_step(method, recipe, hardware, blank, steps=2, patience=3 * allowed)
    except RuntimeError as error:
        if ran_out(error):
            return math.inf
        raise


def _words(recipe: Recipe, seconds: float, free: Collection[str]) -> str:
    """`sizes for this machine: widths [24, 48], patches of 64, batch 8; 0.4 s a step (--config overrules)`"""
    shown = {
        "config": [f"{key} {value}" for key, value in recipe.config.items() if key != "channels"] or ["usual network"],
        "patch": [f"patches of {recipe.patch}"],
        "batch": [f"batch {recipe.batch}"],
    }
    flags = ", ".join(f"--{name}" for name in shown if name in free)
    words = ", ".join(part for parts in shown.values() for part in parts)
    return f"sizes for this machine: {words}; about {seconds:.2g} s a step ({flags} overrule)"
