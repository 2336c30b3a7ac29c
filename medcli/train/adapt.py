"""A model goes on learning on the very pictures that it is to denoise, and is kept only where that has made it better.

No clean picture is needed. Some pixels are hidden and guessed; the guess cannot know their noise, so the model learns
the picture. Bands of each picture are not trained on: they judge both models (`medcli.train.judge`).

A model that sees all pixels learns as in `medcli.methods.n2s`, and both its learning and its judge need noise that
neighbouring pixels do not share: with other noise nothing is adapted, for there noisy pictures alone could not tell a
gain from a loss. A model that is asked through masks learns as in `medcli.methods.amsnet`, in sub-images so wide apart
that their pixels do not share their noise, and is judged there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Any

from torch import channels_last, nn

from medcli import __version__
from medcli.data.cache import PixelCache, Reading, open_cache, silent
from medcli.data.correlation import LAGS, noise_correlation
from medcli.data.crops import Framing, Recorded
from medcli.data.levels import flat_noise
from medcli.engine.masked import Masks
from medcli.engine.strategies import Plain, parse
from medcli.errors import InputError, ModelError, RecipeError
from medcli.methods.base import Method
from medcli.registry import METHODS, resolve
from medcli.train import checkpoint, judge
from medcli.train.bands import dealt, squares, usable
from medcli.train.judge import GRID, Judge, Look, Verdict
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.machine import Machine
from medcli.train.recipe import Recipe
from medcli.zoo import weights

SQUARE = 64  # pixels, or the next multiple that a network takes
STEPS, RATE = 100_000, 1e-4  # the time ends the run long before


@dataclass(frozen=True)
class Way:
    """How a model learns from noisy pictures and is judged by them; it follows from how the model is asked.

    method, options, batch: of training. patch: largest side that is trained on; step: what sides are multiples of;
    side: of the squares that judge; all in pixels. bears: largest stride of the noise that can be judged; why: what to
    say of a larger one.
    """

    method: str
    options: dict[str, Any]
    patch: int
    step: int
    side: int
    batch: int
    judge: Judge
    bears: int
    why: str

    @property
    def rows(self) -> int:
        """The height of a picture that has enough to learn from on both sides of what judges."""
        return self.side + 2 * max(SQUARE, self.step)


def way_of(network: nn.Module, card: weights.Card, seen: Look) -> Way:
    """Raises ModelError for a network that is asked neither plainly nor through masks."""
    strategy = parse(card.strategy)
    multiple = int(network.multiple)  # type: ignore[arg-type]
    if isinstance(strategy, Masks):
        return _through_masks(strategy, multiple, seen.stride)
    if not isinstance(strategy, Plain):
        raise ModelError(f"'{card.id}' is asked through '{card.strategy}', which cannot be adapted.", "Try -m photo.")
    step = lcm(32, multiple)
    why = "neighbouring pixels share their noise, and then noisy pictures alone cannot tell a gain from a loss"
    seeing = Judge(strategy, judge.grid())
    return Way("n2s", {"spacing": GRID}, max(96, step), step, _multiple(SQUARE, step), 4, seeing, 1, why)


def _through_masks(strategy: Masks, multiple: int, stride: int) -> Way:
    """In sub-images of the noise's stride, or of the model's own where that is larger."""
    stride = max(stride, strategy.pd)
    step = stride * multiple
    options = {"pd": stride, "branches": strategy.k, "fill": strategy.fill, "loss": "mse"}
    why = f"pixels share their noise over a distance of {LAGS} and more"
    guessing = Judge(strategy, judge.masks(strategy, stride))
    return Way("amsnet", options, max(160 // step, 1) * step, step, _multiple(SQUARE, step), 2, guessing, LAGS - 1, why)


def _multiple(least: int, step: int) -> int:
    return -(-least // step) * step


@dataclass(frozen=True)
class Adapted:
    """start, learned: both models; verdict: on them. The latter two are None where nothing was learned.

    interrupted: whether Ctrl-C ended the learning.
    """

    start: nn.Module
    learned: nn.Module | None = None
    verdict: Verdict | None = None
    steps: int = 0
    interrupted: bool = False

    @property
    def network(self) -> nn.Module:
        """The better one."""
        return self.learned if self.learned and self.verdict and self.verdict.better else self.start


@dataclass(frozen=True)
class Lesson:
    """A model, the pictures that it can learn from, perhaps none, and what was seen of their noise."""

    network: nn.Module
    card: weights.Card
    pictures: PixelCache
    seen: Look
    way: Way

    @property
    def obstacle(self) -> str:
        """Why nothing can be adapted, in words; empty where it can."""
        way = self.way
        if not len(self.pictures):
            return f"no picture has the {way.side} x {way.rows} pixels that it takes to learn and to judge"
        if not self.seen.stride:
            return "no noise was found in a flat place"
        return way.why if self.seen.stride > way.bears else ""


def lesson(network: nn.Module, card: weights.Card, pictures: PixelCache) -> Lesson:
    """What there is to learn from; raises ModelError for a network that is asked neither plainly nor through masks."""
    seen = look(pictures)
    way = way_of(network, card, seen)
    return Lesson(network, card, usable(pictures, way.rows, way.side), seen, way)


def look(pictures: PixelCache) -> Look:
    """Measures the noise. Never raises for pictures: where none is found, the stride is 0."""
    views = [pictures[place] for place in range(len(pictures))]
    try:
        correlation, sample = noise_correlation(views), flat_noise(views)
    except InputError:
        return Look()
    edges = sample.edges()
    found = [(t, s / 255) for t, s in zip((edges[1:] + edges[:-1]) / 2, sample.by_tone(edges), strict=True) if s > 0]
    tones, levels = zip(*found, strict=True) if found else ((0.5,), (sample.sigma / 255,))
    stride = correlation.stride()
    lags = correlation.lags if stride > 1 else None
    return Look(stride, correlation.sigma, tuple(map(float, tones)), levels, lags)


def open_pictures(
    paths: Sequence[Path], folder: Path, reading: Reading | None = None, say: Callable[[str], None] = silent
) -> PixelCache:
    """The pictures, decoded into `folder`. Raises TrainingError where none can be read."""
    return open_cache(paths, folder, smallest=1, reading=reading or Reading(), say=say)


def adapt(
    lesson: Lesson,
    *,
    folder: Path,
    machine: Machine,
    minutes: float,
    seed: int = 0,
    report: Callable[[Line], None],
) -> Adapted:
    """Trains a copy of the network for so long, in `folder`, and returns both with the verdict on them.

    lesson: without an obstacle. Ctrl-C ends the training, not the judging.
    """
    way, card = lesson.way, lesson.card
    start = lesson.network.to(machine.device, memory_format=channels_last).eval()  # type: ignore[call-overload]
    learning, judging = dealt(lesson.pictures, way.side)
    recipe = _recipe(card, way, _patch(learning, way), seed)
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    method: Method = kind(copy.deepcopy(start).train(), **recipe.options)
    trainer = Trainer(method, recipe, machine, folder, report)
    source = Recorded([learning], Framing(recipe.patch, card.channels), seed)
    interrupted = False
    try:
        trainer.run(source, Limits(minutes=minutes, save_every=STEPS, report_every=10))
    except KeyboardInterrupt:
        interrupted = True
    if not checkpoint.saved(trainer.checkpoints):
        return Adapted(start, interrupted=interrupted)
    learned = trainer.average.eval()
    tiles = squares(judging, card.channels, way.side, seed).to(machine.device)
    return Adapted(start, learned, way.judge(start, learned, tiles, lesson.seen, seed), trainer.step, interrupted)


def _recipe(card: weights.Card, way: Way, patch: int, seed: int) -> Recipe:
    return Recipe(
        id=f"{card.id}-adapted",
        title=card.title,
        steps=STEPS,
        method=way.method,
        options=way.options,
        architecture=card.architecture,
        config=card.config,
        patch=patch,
        batch=way.batch,
        optimizer="adam",
        learning_rate=RATE,
        warmup=10,
        ema=0.98,
        seed=seed,
    )


def _patch(pictures: PixelCache, way: Way) -> int:
    return min(way.patch, *(min(slot.shape[:2]) // way.step * way.step for slot in pictures.slots))


def save(path: Path, adapted: Adapted, card: weights.Card, names: Sequence[str]) -> None:
    """The better network as a weight file that says from which model it comes and which pictures it has seen."""
    ours = replace(
        card,
        id=path.stem,
        title=f"{card.id}, adapted to {len(names)} noisy pictures",
        method="amsnet" if card.blind_spot else "n2s",
        recipe=f"adapted from {card.id}",
        training_data=[*card.training_data, *names],
        steps=adapted.steps,
        version=__version__,
    )
    weights.save(path, adapted.network, ours)
