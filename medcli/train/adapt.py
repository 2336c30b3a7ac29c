"""A model goes on learning on the very pictures that it is to denoise, and is kept only where that has made it better.

No clean picture is needed. Some pixels of a grid are hidden and guessed (`medcli.methods.n2s`); the guess cannot know
their noise, so it learns the picture. Bands of each picture are not trained on: they judge both models.

Departs from plain self-supervision in who decides. Hidden pixels judge a network with holes in its input, and the one
that is used sees all pixels. So the adapted model must also be better as it is used, by Stein's unbiased estimate of
its error (MC-SURE; Ramani, Blu and Unser, IEEE TIP 2008): for the noise as it was measured, and for one of a quarter
more variance, since flat places tend to show too little of it. Both need noise that neighbouring pixels do not share.
With other noise nothing is adapted, for there noisy pictures alone could not tell a gain from a loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, channels_last, nn

from medcli import __version__
from medcli.data.cache import PixelCache, Slot, open_cache
from medcli.data.correlation import noise_correlation
from medcli.data.crops import Frame, Framing, Recorded, keyed_generator
from medcli.data.levels import flat_noise
from medcli.errors import InputError, ModelError, RecipeError
from medcli.methods.base import Method
from medcli.methods.n2s import around
from medcli.registry import METHODS, resolve
from medcli.train import checkpoint
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.machine import Machine
from medcli.train.recipe import Recipe
from medcli.zoo import weights

PATCH, SPACING, PERIOD = 64, 4, 5  # one band in five judges
LARGEST_PATCH, BATCH = 96, 4
SMALLEST = 3 * PATCH  # rows that are enough to train and to judge
MOST_TILES, AT_ONCE = 96, 8
MARGIN = 0.03  # of the noise's variance; where Stein was misled, a model that had become worse gained 0.012
DOUBT = (1.0, 1.25)  # factors on the variance of the noise; less was measured than there is, as a rule
NUDGE = 0.1  # of the noise, in the estimate of the divergence
STEPS, RATE = 100_000, 1e-4  # the time ends the run long before


@dataclass(frozen=True)
class Look:
    """What the pictures say before anything is learned. stride, sigma: see `medcli.data.correlation`; sigma 0: none.

    tones, levels: (N,) brightness in [0, 1] and the standard deviation of the noise there, same scale.
    obstacle: why nothing can be adapted; empty where it can.
    """

    stride: int = 0
    sigma: float = 0.0
    tones: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    obstacle: str = ""


@dataclass(frozen=True)
class Verdict:
    """Both models on pixels that neither was trained on.

    before, after: error at hidden pixels, RMS in grey levels (their noise included). gains: in units of the noise's
    variance, more than 0 where the adapted model is better: at hidden pixels, and as it is used, under the noise that
    was measured and under a stronger one. errors: their standard errors, from paired differences of tiles.
    """

    before: float
    after: float
    gains: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def better(self) -> bool:
        """Whether each gain is beyond twice its error, and that at hidden pixels also beyond `MARGIN`."""
        least = (MARGIN, *(0.0 for _ in self.gains[1:]))
        return all(g - 2 * e > bar for g, e, bar in zip(self.gains, self.errors, least, strict=True))


@dataclass(frozen=True)
class Adapted:
    """network: the better one. verdict: None where nothing was learned. interrupted: whether Ctrl-C ended it."""

    network: nn.Module
    verdict: Verdict | None
    steps: int = 0
    interrupted: bool = False


def open_pictures(paths: Sequence[Path], folder: Path) -> PixelCache | None:
    """The pictures that are large enough to learn from, decoded into `folder`; None where there is none."""
    cache = open_cache(paths, folder, smallest=1)
    large = [place for place, slot in enumerate(cache.slots) if slot.shape[0] >= SMALLEST and slot.shape[1] >= PATCH]
    return cache.only(large) if large else None


def look(pictures: PixelCache | None) -> Look:
    """Measures the noise. Never raises for pictures: what is in the way is said by `obstacle`."""
    if pictures is None:
        return Look(obstacle=f"no picture has the {PATCH} x {SMALLEST} pixels that it takes to learn and to judge")
    views = [pictures[place] for place in range(len(pictures))]
    try:
        correlation, sample = noise_correlation(views), flat_noise(views)
    except InputError:
        return Look(obstacle="no noise was found in a flat place")
    edges = sample.edges()
    found = [(t, s / 255) for t, s in zip((edges[1:] + edges[:-1]) / 2, sample.by_tone(edges), strict=True) if s > 0]
    tones, levels = zip(*found, strict=True) if found else ((0.5,), (sample.sigma / 255,))
    stride = correlation.stride()
    shared = "neighbouring pixels share their noise, and then noisy pictures alone cannot tell a gain from a loss"
    return Look(stride, correlation.sigma, tuple(map(float, tones)), levels, shared if stride > 1 else "")


def adapt(
    network: nn.Module,
    card: weights.Card,
    pictures: PixelCache,
    seen: Look,
    *,
    folder: Path,
    machine: Machine,
    minutes: float,
    seed: int = 0,
    report: Callable[[Line], None],
) -> Adapted:
    """Trains a copy of the network for so long, in `folder`, and returns the better of both.

    Ctrl-C ends the training, not the judging. Raises ModelError for a network that is not asked plainly.
    """
    if card.strategy != "plain":
        raise ModelError(f"'{card.id}' is asked through '{card.strategy}', which cannot be adapted.", "Try -m photo.")
    start = network.to(machine.device, memory_format=channels_last).eval()  # type: ignore[call-overload]
    learning, judging = dealt(pictures)
    recipe = _recipe(card, _patch(learning), seed)
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    method: Method = kind(copy.deepcopy(start).train(), spacing=SPACING)
    trainer = Trainer(method, recipe, machine, folder, report)
    source = Recorded([learning], Framing(recipe.patch, card.channels), seed)
    interrupted = False
    try:
        trainer.run(source, Limits(minutes=minutes, save_every=STEPS, report_every=10))
    except KeyboardInterrupt:
        interrupted = True
    if not checkpoint.saved(trainer.checkpoints):
        return Adapted(start, None, interrupted=interrupted)
    learned = trainer.average.eval()
    verdict = judged(start, learned, tiles(judging, card.channels, seed).to(machine.device), seen, seed)
    return Adapted(learned if verdict.better else start, verdict, trainer.step, interrupted)


def _recipe(card: weights.Card, patch: int, seed: int) -> Recipe:
    return Recipe(
        id=f"{card.id}-adapted",
        title=card.title,
        steps=STEPS,
        method="n2s",
        architecture=card.architecture,
        config=card.config,
        patch=patch,
        batch=BATCH,
        optimizer="adam",
        learning_rate=RATE,
        warmup=10,
        ema=0.98,
        seed=seed,
    )


def _patch(pictures: PixelCache) -> int:
    return min(LARGEST_PATCH, *(min(slot.shape[:2]) // 32 * 32 for slot in pictures.slots))


def dealt(pictures: PixelCache) -> tuple[PixelCache, PixelCache]:
    """(to train on, to judge by): bands of rows of each picture that do not overlap; the pixels are shared."""
    bands = [(place, top, stop, held) for place, s in enumerate(pictures.slots) for top, stop, held in _bands(s)]

    def those(held: bool) -> PixelCache:
        chosen = [(place, top, stop) for place, top, stop, is_held in bands if is_held is held]
        slots = [_rows(pictures.slots[place], top, stop) for place, top, stop in chosen]
        return replace(pictures, names=[pictures.names[place] for place, *_ in chosen], slots=slots)

    return those(False), those(True)


def _bands(slot: Slot) -> list[tuple[int, int, bool]]:
    """Top, stop and whether it judges: PATCH rows in the middle of each stretch of about PERIOD times as many."""
    height = slot.shape[0]
    count = max(1, height // (PERIOD * PATCH))
    middles = [round(height * (2 * number + 1) / (2 * count)) for number in range(count)]
    held = [(middle - PATCH // 2, middle + PATCH // 2) for middle in middles]
    edges = [0, *(edge for band in held for edge in band), height]
    return [(top, stop, bool(i % 2)) for i, (top, stop) in enumerate(pairwise(edges))]


def _rows(slot: Slot, top: int, stop: int) -> Slot:
    _, width, channels = slot.shape
    row = width * channels * np.dtype(slot.dtype).itemsize
    return Slot(slot.offset + top * row, (stop - top, width, channels), slot.dtype)


def tiles(bands: PixelCache, channels: int, seed: int) -> Tensor:
    """(N, channels, PATCH, PATCH) float32: at most MOST_TILES squares of the bands, side by side."""
    places = [(band, left) for band, s in enumerate(bands.slots) for left in range(0, s.shape[1] - PATCH + 1, PATCH)]
    order = torch.randperm(len(places), generator=keyed_generator(seed, "tiles"))[:MOST_TILES].tolist()
    cuts = [Frame(0, places[i][1], PATCH, PATCH, 0).cut(bands[places[i][0]], channels) for i in sorted(order)]
    return torch.stack(cuts)


@torch.no_grad()
def judged(start: nn.Module, learned: nn.Module, noisy: Tensor, seen: Look, seed: int = 0) -> Verdict:
    """Both models on tiles (N, C, H, W) float in [0, 1] that neither was trained on."""
    noise = _drawn(noisy, start, seen, seed)
    parts = [_measured(network, noisy, noise) for network in (start, learned)]
    hidden, residual, divergence = (before - after for before, after in zip(*parts, strict=True))
    variance = float(np.square(seen.sigma / 255))
    stein = [residual + 2 * factor * divergence for factor in DOUBT]
    gains = [each / variance for each in (hidden, *stein)]
    errors = tuple(float(gain.std()) / sqrt(len(gain)) if len(gain) > 1 else float("inf") for gain in gains)
    before, after = (255 * sqrt(float(part[0].mean())) for part in parts)
    return Verdict(before, after, tuple(float(gain.mean()) for gain in gains), errors)


def _drawn(noisy: Tensor, start: nn.Module, seen: Look, seed: int) -> Tensor:
    """Noise as it was measured, at the brightness that the start model finds."""
    bright = (
        torch.cat([start(part).float() for part in torch.split(noisy, AT_ONCE)]).mean(1, keepdim=True).cpu().numpy()
    )
    level: NDArray[Any] = np.interp(bright, seen.tones, seen.levels).astype(np.float32)
    normal = torch.randn(noisy.shape, generator=Generator().manual_seed(seed))
    gray = (noisy == noisy[:, :1]).flatten(1).all(1).cpu().view(-1, 1, 1, 1)
    normal = torch.where(gray, normal[:, :1], normal)  # equal channels have equal noise
    return (normal * torch.from_numpy(level)).to(noisy.device)


def _measured(network: nn.Module, noisy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each tile (N,): squared error at hidden pixels, squared residual, divergence weighted by the noise."""
    pairs = zip(torch.split(noisy, AT_ONCE), torch.split(noise, AT_ONCE), strict=True)
    parts = [(_hidden(network, y), _residual(network, y), _divergence(network, y, z)) for y, z in pairs]
    hidden, residual, divergence = (torch.cat(part) for part in zip(*parts, strict=True))
    return hidden, residual, divergence


def _hidden(network: nn.Module, noisy: Tensor) -> Tensor:
    filled, errors = around(noisy), []
    for top, left in ((0, 0), (1, 2), (2, 1), (3, 3)):
        chosen = torch.zeros_like(noisy[:, :1], dtype=torch.bool)
        chosen[..., top::SPACING, left::SPACING] = True
        difference = network(torch.where(chosen, filled, noisy)).float() - noisy
        errors.append(difference[..., top::SPACING, left::SPACING].square().mean((1, 2, 3)))
    return torch.stack(errors).mean(0)


def _residual(network: nn.Module, noisy: Tensor) -> Tensor:
    error: Tensor = (network(noisy).float() - noisy).square()
    return error.mean((1, 2, 3))


def _divergence(network: nn.Module, noisy: Tensor, noise: Tensor) -> Tensor:
    change: Tensor = network(noisy + NUDGE * noise).float() - network(noisy - NUDGE * noise).float()
    return (noise * change).mean((1, 2, 3)) / (2 * NUDGE)


def save(path: Path, adapted: Adapted, card: weights.Card, names: Sequence[str]) -> None:
    """The adapted network as a weight file that says from which model it comes and which pictures it has seen."""
    ours = replace(
        card,
        id=path.stem,
        title=f"{card.id}, adapted to {len(names)} noisy pictures",
        method="n2s",
        recipe=f"adapted from {card.id}",
        training_data=[*card.training_data, *names],
        steps=adapted.steps,
        version=__version__,
    )
    weights.save(path, adapted.network, ours)
