"""A model goes on learning on the very pictures that it is to denoise, and is kept only where that has made it better.

No clean picture is needed. Some pixels are hidden and guessed; the guess cannot know their noise, so the model learns
the picture. Bands of each picture are not trained on: they judge both models (`medcli.train.judge`).

How it learns and what is hidden to judge it, a method says that adapts such models (`AdaptsModels`). For models that
see all pixels, both need noise that neighbouring pixels do not share: with other noise nothing is adapted, for there
noisy pictures alone could not tell a gain from a loss. Models that are asked through masks learn and are judged in
sub-images so wide apart that their pixels do not share their noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import channels_last, nn

from medcli import __version__
from medcli.data.cache import PixelCache, Reading, open_cache, silent
from medcli.data.correlation import noise_correlation
from medcli.data.crops import Framing, Recorded
from medcli.data.levels import flat_noise
from medcli.engine.strategies import parse
from medcli.errors import InputError, ModelError, RecipeError
from medcli.methods.base import Adaptation, AdaptsModels, Method
from medcli.registry import METHODS, resolve
from medcli.train import checkpoint
from medcli.train.bands import dealt, squares, usable
from medcli.train.judge import Judge, Look, Verdict
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.machine import Machine
from medcli.train.recipe import Recipe
from medcli.train.validation import applied
from medcli.zoo import weights

SQUARE = 64  # pixels, or the next multiple that a network takes
STEPS, RATE = 100_000, 1e-4  # the time ends the run long before


@dataclass(frozen=True)
class Way:
    """How a model learns from noisy pictures and is judged by them; it follows from how the model is asked.

    method: name of one that adapts such models. plan: what it does. side: of the squares that judge, in pixels.
    """

    method: str
    plan: Adaptation
    side: int
    judge: Judge

    @property
    def rows(self) -> int:
        """The height of a picture that has enough to learn from on both sides of what judges."""
        return self.side + 2 * max(SQUARE, self.plan.step)


def way_of(network: nn.Module, card: weights.Card, seen: Look) -> Way:
    """Raises ModelError for a network that no method can adapt as it is asked."""
    application, multiple = applied(card.strategy), int(network.multiple)  # type: ignore[arg-type]
    for name in METHODS:
        kind = resolve(METHODS, name, kind="method", error=RecipeError)
        plan = kind.adaptation(application, multiple, seen.stride) if isinstance(kind, AdaptsModels) else None
        if plan:
            return Way(name, plan, _multiple(SQUARE, plan.step), Judge(parse(card.strategy), plan.hiding))
    raise ModelError(f"'{card.id}' is asked through '{card.strategy}', which cannot be adapted.", "Try -m photo.")


def _multiple(least: int, step: int) -> int:
    return -(-least // step) * step


@dataclass(frozen=True)
class Adapted:
    """start, learned: both models; verdict: on them. The latter two are None where nothing was learned.

    method: by which it was learned.

    interrupted: whether Ctrl-C ended the learning.
    """

    start: nn.Module
    method: str
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
        return way.plan.why if self.seen.stride > way.plan.most_stride else ""


def lesson(network: nn.Module, card: weights.Card, pictures: PixelCache) -> Lesson:
    """What there is to learn from; raises ModelError for a network that no method can adapt."""
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
        return Adapted(start, way.method, interrupted=interrupted)
    learned = trainer.average.eval()
    tiles = squares(judging, card.channels, way.side, seed).to(machine.device)
    verdict = way.judge(start, learned, tiles, lesson.seen, seed)
    return Adapted(start, way.method, learned, verdict, trainer.step, interrupted)


def _recipe(card: weights.Card, way: Way, patch: int, seed: int) -> Recipe:
    return Recipe(
        id=f"{card.id}-adapted",
        title=card.title,
        steps=STEPS,
        method=way.method,
        options=dict(way.plan.options),
        architecture=card.architecture,
        config=card.config,
        patch=patch,
        batch=way.plan.batch,
        optimizer="adam",
        learning_rate=RATE,
        warmup=10,
        ema=0.98,
        seed=seed,
    )


def _patch(pictures: PixelCache, way: Way) -> int:
    step = way.plan.step
    return min(way.plan.patch, *(min(slot.shape[:2]) // step * step for slot in pictures.slots))


def save(path: Path, adapted: Adapted, card: weights.Card, names: Sequence[str]) -> None:
    """The better network as a weight file that says from which model it comes and which pictures it has seen."""
    ours = replace(
        card,
        id=path.stem,
        title=f"{card.id}, adapted to {len(names)} noisy pictures",
        method=adapted.method,
        recipe=f"adapted from {card.id}",
        training_data=[*card.training_data, *names],
        steps=adapted.steps,
        version=__version__,
    )
    weights.save(path, adapted.network, ours)
