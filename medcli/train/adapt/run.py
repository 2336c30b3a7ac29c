"""A model is fine-tuned on the very images that it is to denoise, and kept only where that has made it better.

No clean image is needed. Some pixels are hidden and predicted; their noise cannot be predicted, so the model learns
the image. Bands of each image are held out: both models are compared there (`medcli.train.adapt.sure`).

Training and what is hidden for the comparison are those of the first method that adapts such models (`AdaptsModels`).
Models that see all pixels need noise that is independent from pixel to pixel: with other noise nothing is adapted, for
noisy images alone cannot tell a gain from a loss then. Blind-spot models are trained and compared in sub-images whose
pixels are so far apart that they do not share their noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, channels_last, nn

from medcli import __version__
from medcli.data.cache import PixelCache, Reading, open_cache, silent
from medcli.data.crops import CropSampler, RecordedImages, as_unit
from medcli.data.photon_noise import photon_noise
from medcli.engine.strategies import AppliedNetwork, Plain, Strategy, parse
from medcli.errors import InputError, ModelError, RecipeError
from medcli.methods.base import Adaptation, AdaptsModels, Method, NoisyImages
from medcli.registry import ARCHITECTURES, METHODS, key_of, resolve
from medcli.train import checkpoint
from medcli.train.adapt.holdout import dealt, squares, usable
from medcli.train.adapt.sure import Comparison, HoldoutScore, NoiseStatistics, noise_statistics
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.recipe import Recipe
from medcli.train.validation import applied
from medcli.train.validation_page import PATCHES
from medcli.vst import PhotonNoise
from medcli.zoo import weights

SQUARE = 64  # pixels, or the next multiple that a network takes
STEPS, RATE = 100_000, 1e-4  # the time ends the run long before


@dataclass(frozen=True)
class AdaptationPlan:
    """How a model is trained on noisy images and compared; it follows from how the model is applied.

    method: name of one that adapts such models. plan: what it does. side: of the held-out squares, in pixels. strategy:
    how both models are applied.
    """

    method: str
    plan: Adaptation
    side: int
    strategy: Strategy

    @property
    def score(self) -> HoldoutScore:
        """Compares what `compared` gives."""
        return HoldoutScore(Plain() if self.plan.applied else self.strategy, self.plan.hiding, self.plan.guesses)

    def compared(self, start: nn.Module, adapted: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Both networks, with their strategy where hidden pixels are predicted with it."""
        if not self.plan.applied:
            return start, adapted
        return AppliedNetwork(start, self.strategy), AppliedNetwork(adapted, self.strategy)

    def fewer(self, squares: Tensor) -> Tensor:
        """Held-out squares (N, ...): not all of them where each prediction needs many passes."""
        passes = self.strategy.passes if self.plan.applied else 1
        return squares[:: max(1, passes // 2)]

    @property
    def rows(self) -> int:
        """The height of an image that has enough to train on above and below what is held out."""
        return self.side + 2 * max(SQUARE, self.plan.step)


def adaptation_plan(
    network: nn.Module, card: weights.Card, images: NoisyImages, method: str | None = None
) -> AdaptationPlan:
    """By the method of this name, or by the first that adapts such a model to such images.

    Raises ModelError for a network that no method, or not this one, can adapt as it is applied; RecipeError for an
    unknown method.
    """
    application = applied(card.strategy)
    for name in METHODS if method is None else [method]:
        kind = resolve(METHODS, name, kind="method", error=RecipeError)
        plan = kind.adaptation(application, network, images) if isinstance(kind, AdaptsModels) else None
        if plan:
            return AdaptationPlan(name, plan, _multiple(SQUARE, plan.step), parse(card.strategy))
    by = f" by the method '{method}'" if method else ""
    raise ModelError(
        f"'{card.id}', applied by '{card.strategy}', cannot be adapted to these images{by}.",
        "Leave --method out." if method else "Try -m photo.",
    )


def _multiple(least: int, step: int) -> int:
    return -(-least // step) * step


@dataclass(frozen=True)
class Adapted:
    """start, learned: both models; comparison: of them. The latter two are None where the training made no step.

    method: by which it was trained. interrupted: whether Ctrl-C ended the training. held_out: some held-out squares
    (N, C, H, H) in [0, 1]: `noisy`, `before` and `adapted`.
    """

    start: nn.Module
    method: str
    learned: nn.Module | None = None
    comparison: Comparison | None = None
    steps: int = 0
    interrupted: bool = False
    held_out: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def network(self) -> nn.Module:
        """The better one."""
        return self.learned if self.learned and self.comparison and self.comparison.better else self.start

    def summary(self, model: str) -> list[str]:
        """How both models compare and which is used, in lines. model: name of the one at the start."""
        comparison = self.comparison
        if comparison is None:
            return [f"the training made no step; {model} is used as it is"]
        hidden, used, strong = (
            f"{gain:+.3f} ± {2 * error:.3f}" for gain, error in zip(comparison.gains, comparison.errors, strict=True)
        )
        before, after = comparison.before, comparison.after
        stopped = f"stopped after {self.steps} steps; the model as it is now is compared"
        return [
            *([stopped] if self.interrupted else []),
            f"on held-out rows: RMS error at hidden pixels {model} {before:.3f}, adapted {after:.3f}",
            f"gain in units of the noise: hidden {hidden}; as used {used}, and {strong} if the noise is stronger",
            "the adapted model is better and is used" if comparison.better else f"not clearly better: {model} is used",
        ]


@dataclass(frozen=True)
class AdaptationJob:
    """A model, the images that it can learn from, perhaps none, and what was seen of their noise."""

    network: nn.Module
    card: weights.Card
    images: PixelCache
    seen: NoiseStatistics
    way: AdaptationPlan

    @property
    def obstacle(self) -> str:
        """Why nothing can be adapted, in words; empty where it can."""
        way = self.way
        if not len(self.images):
            return f"no image has the {way.side} x {way.rows} pixels that training and comparison need"
        if not self.seen.stride:
            return "no noise was found in a flat part"
        return way.plan.why if self.seen.stride > way.plan.most_stride else ""


def adaptation_job(
    network: nn.Module, card: weights.Card, images: PixelCache, method: str | None = None
) -> AdaptationJob:
    """What there is to learn from, by this method or the usual one; raises as `adaptation_plan` does."""
    seen = noise_statistics(images)
    photons = photons_of(images) if images.gray and seen.stride else None
    way = adaptation_plan(network, card, NoisyImages(seen.stride, images.gray, photons), method)
    return AdaptationJob(network, card, usable(images, way.rows, way.side), seen, way)


def photons_of(images: PixelCache) -> PhotonNoise | None:
    """The noise of gray images of one camera, in units of the range: the median of what each shows, if any does."""
    found = []
    for place in range(len(images)):
        try:
            found.append(photon_noise(as_unit(images[place])[..., 0]).noise)
        except InputError:
            continue
    if not found:
        return None
    gain, offset, read = np.median([(each.gain, each.offset, each.read) for each in found], axis=0).tolist()
    return PhotonNoise(gain, offset, read)


def open_images(
    paths: Sequence[Path], folder: Path, reading: Reading | None = None, say: Callable[[str], None] = silent
) -> PixelCache:
    """The images, decoded into `folder`. Raises TrainingError where none can be read."""
    return open_cache(paths, folder, smallest=1, reading=reading or Reading(), say=say)


def adapt(
    adaptation_job: AdaptationJob,
    *,
    folder: Path,
    hardware: Hardware,
    minutes: float,
    seed: int = 0,
    report: Callable[[Line], None],
) -> Adapted:
    """Trains a copy of the network for so long, in `folder`, and compares both.

    adaptation_job: without an obstacle. Ctrl-C ends the training, not the comparison.
    """
    way, card = adaptation_job.way, adaptation_job.card
    start = adaptation_job.network.to(hardware.device, memory_format=channels_last).eval()  # type: ignore[call-overload]
    training, held_out = dealt(adaptation_job.images, way.side)
    recipe = _recipe(card, way, _patch(training, way), seed)
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    method: Method = kind(copy.deepcopy(start).train(), **recipe.options)
    trainer = Trainer(method, recipe, hardware, folder, report)
    source = RecordedImages([training], CropSampler(recipe.patch, card.channels), seed)
    interrupted = False
    try:
        trainer.run(source, Limits(minutes=minutes, save_every=STEPS, report_every=10))
    except KeyboardInterrupt:
        interrupted = True
    if not checkpoint.saved(trainer.checkpoints):
        return Adapted(start, way.method, interrupted=interrupted)
    learned = trainer.average.eval()
    tiles = way.fewer(squares(held_out, card.channels, way.side, seed)).to(hardware.device)
    pair = way.compared(start, learned)
    comparison = way.score(*pair, tiles, adaptation_job.seen, seed)
    first = tiles[:: max(1, len(tiles) // PATCHES)][:PATCHES]
    with torch.no_grad():
        before, after = (way.score.restored(network, first) for network in pair)
    shown = {"noisy": first[..., : before.shape[2], : before.shape[3]], "before": before, "adapted": after}
    return Adapted(start, way.method, learned, comparison, trainer.step, interrupted, shown)


def _recipe(card: weights.Card, way: AdaptationPlan, patch: int, seed: int) -> Recipe:
    return Recipe(
        id=f"{card.id}-adapted",
        title=card.title,
        steps=min(way.plan.steps or STEPS, STEPS),
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


def _patch(images: PixelCache, way: AdaptationPlan) -> int:
    step = way.plan.step
    return min(way.plan.patch, *(min(slot.shape[:2]) // step * step for slot in images.slots))


def save(path: Path, adapted: Adapted, card: weights.Card, names: Sequence[str]) -> None:
    """The better network as a weight file that says from which model it comes and which images it has seen."""
    ours = replace(
        card,
        id=path.stem,
        architecture=key_of(ARCHITECTURES, type(adapted.network)),  # a method may build on the network
        config=cast(Any, adapted.network).config,
        title=f"{card.id}, adapted to {len(names)} noisy images",
        method=adapted.method,
        recipe=f"adapted from {card.id}",
        training_data=[*card.training_data, *names],
        steps=adapted.steps,
        version=__version__,
    )
    weights.save(path, adapted.network, ours)
