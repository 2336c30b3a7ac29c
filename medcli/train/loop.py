"""One training loop for every method: draw a batch, let each player take its turn, average, report, save."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from medcli.data.crops import NoisyCrops
from medcli.errors import RecipeError, TrainingError
from medcli.methods.supervised import Turn
from medcli.registry import OPTIMIZERS, resolve
from medcli.train import checkpoint
from medcli.train.recipe import Recipe

Batch = tuple[Tensor, Tensor]


class Method(Protocol):
    """What the loop asks of a method; see `medcli.methods.supervised`."""

    players: dict[str, nn.Module]
    turns: list[Turn]

    @property
    def product(self) -> nn.Module: ...


@dataclass(frozen=True)
class Machine:
    """Where and how to compute: device, dtype of the forward pass, worker processes that draw samples."""

    device: torch.device
    dtype: torch.dtype
    workers: int = 1

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


@dataclass
class Limits:
    """When to stop before the recipe's last step. With `minutes` the schedule is squeezed to end in that time."""

    minutes: float | None = None
    save_every: int = 500
    report_every: int = 100
    started: float = field(default_factory=time.monotonic)

    def progress(self, step: int, steps: int, first: int) -> float:
        """Share of the run that is over, 0 to 1: of the steps, or of the time if that is nearer to its end."""
        share = step / steps
        if self.minutes is None:
            return share
        elapsed = (time.monotonic() - self.started) / (60 * self.minutes)
        return max(share, first / steps + (1 - first / steps) * elapsed)


class _Batches(Dataset[Batch]):
    """Batch number `step` of the run; workers ask for them by number."""

    def __init__(self, crops: NoisyCrops, size: int) -> None:
        self.crops, self.size = crops, size

    def __getitem__(self, step: int) -> Batch:
        return self.crops.batch(step, self.size)


def _single_thread(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(crops: NoisyCrops, recipe: Recipe, machine: Machine, first: int) -> Iterator[Batch]:
    """Batches first, first + 1, ... of the run, drawn ahead by worker processes."""
    loader = DataLoader(
        _Batches(crops, recipe.batch),
        batch_size=None,
        sampler=range(first, recipe.steps),
        num_workers=machine.workers,
        prefetch_factor=4 if machine.workers else None,
        worker_init_fn=_single_thread,
        pin_memory=machine.device.type == "cuda",
        generator=torch.Generator(),
    )
    for noisy, clean in loader:
        yield tuple(t.to(machine.device, non_blocking=True, memory_format=torch.channels_last) for t in (noisy, clean))


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up, then half a cosine down to nothing at the end."""
    rise = min(1.0, (step + 1) / max(1, recipe.warmup))
    return recipe.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Trainer:
    """A run in a folder: `checkpoints/`, `log.jsonl`; the product is for the caller to keep.

    method: players on the machine's device. report: called with each line of the log.
    """

    def __init__(
        self, method: Method, recipe: Recipe, machine: Machine, folder: Path, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.method, self.recipe, self.machine = method, recipe, machine
        self.checkpoints, self.log = folder / "checkpoints", folder / "log.jsonl"
        self.report = report
        build = resolve(OPTIMIZERS, recipe.optimizer, kind="optimizer", error=RecipeError)
        self.optimizers: dict[str, Optimizer] = {
            name: build(player.parameters(), lr=recipe.learning_rate) for name, player in method.players.items()
        }
        self.average = copy.deepcopy(method.product).requires_grad_(False)
        self.step = 0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**self.method.players, "average": self.average}

    def resume(self) -> bool:
        """Goes back to the last checkpoint; False where there is none."""
        found = checkpoint.saved(self.checkpoints)
        if found:
            self.step = checkpoint.load(found[-1], self.modules, self.optimizers)
        return bool(found)

    def save(self) -> None:
        checkpoint.save(self.checkpoints, self.step, self.modules, self.optimizers, keep=3)

    def run(self, crops: NoisyCrops, limits: Limits) -> nn.Module:
        """Trains to the recipe's last step or the time limit and returns the averaged product."""
        first, waited, since = self.step, 0.0, time.monotonic()
        source = batches(crops, self.recipe, self.machine, first)
        totals: dict[str, float] = {}
        while self.step < self.recipe.steps:
            progress = limits.progress(self.step, self.recipe.steps, first)
            if progress >= 1:
                break
            asked = time.monotonic()
            batch = next(source)
            waited += time.monotonic() - asked
            for name, value in self._turn_all(batch, progress).items():
                totals[name] = totals.get(name, 0.0) + value
            self.step += 1
            if self.step % limits.report_every == 0:
                spent = time.monotonic() - since
                self._write(totals, limits.report_every, progress, spent, waited / spent)
                totals, waited, since = {}, 0.0, time.monotonic()
            if self.step % limits.save_every == 0:
                self.save()
        self.save()
        return self.average

    def _turn_all(self, batch: Batch, progress: float) -> dict[str, float]:
        rate = learning_rate(self.recipe, self.step, progress)
        seen: dict[str, float] = {}
        for turn in self.method.turns:
            player, optimizer = self.method.players[turn.player], self.optimizers[turn.player]
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            with self.machine.autocast():
                terms = turn.terms(batch)
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(player.parameters(), self.recipe.clip)
            if not torch.isfinite(norm):
                raise TrainingError(
                    f"The loss became {loss.item()} at step {self.step}.",
                    f"The last good checkpoint is in {self.checkpoints}; go on from it with a lower --lr.",
                )
            optimizer.step()
            seen |= {name: value.item() for name, value in terms.items()} | {"gradient": norm.item()}
        self._follow()
        return seen

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the averaged weights; the decay is short at first, so that the start is soon forgotten."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        live: list[Tensor] = list(self.method.product.parameters())
        torch._foreach_lerp_(list[Tensor](self.average.parameters()), live, 1 - decay)
        for kept, moving in zip(self.average.buffers(), self.method.product.buffers(), strict=True):
            kept.copy_(moving)  # statistics of batch normalisation are averages already

    def _write(self, totals: dict[str, float], count: int, progress: float, spent: float, waiting: float) -> None:
        line = {"step": self.step, "progress": round(progress, 5)}
        line |= {name: round(value / count, 5) for name, value in totals.items()}
        line |= {"steps_per_second": round(count / spent, 3), "loader_wait": round(waiting, 4)}
        with self.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self.report(line)
