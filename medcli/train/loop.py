"""One training loop for every method: draw a batch, make its updates, average, validate, save."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from medcli.data.crops import SampleSource, Stacked, stacked
from medcli.errors import TrainingError
from medcli.files import jsonl
from medcli.methods.base import Batch, Method
from medcli.seeding import derived_seed
from medcli.train import checkpoint
from medcli.train.distributed import ProcessGroup
from medcli.train.hardware import Hardware
from medcli.train.optimizers import UpdateOptimizer, optimizers_of
from medcli.train.recipe import Recipe
from medcli.train.validation import Validation

Line = dict[str, float]
EARLY, SOON = 10, 20.0  # steps, or seconds, to the first report, so that it comes soon


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


class _Steps(Dataset[Stacked]):
    """This process's samples of step number `step`; workers ask for them by number."""

    def __init__(self, source: SampleSource, share: range) -> None:
        self.source, self.share = source, share

    def __getitem__(self, step: int) -> Stacked:
        samples = stacked(self.source, step, self.share)
        self.source.release()
        return samples


def _as_worker(_: int) -> None:
    import cv2

    for number in Interruption.SIGNALS:  # they reach the whole group; the process that owns the run ends its workers
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(source: SampleSource, share: range, steps: range, hardware: Hardware) -> Generator[Batch]:
    """The batches of these steps, drawn ahead by worker processes, which end when it is closed."""
    loader = DataLoader(
        _Steps(source, share),
        batch_size=None,
        sampler=steps,
        num_workers=hardware.workers,
        prefetch_factor=4 if hardware.workers else None,
        worker_init_fn=_as_worker,
        pin_memory=hardware.device.type == "cuda",
        generator=torch.Generator(),  # otherwise it draws from the global one, which a resumed run would notice
    )
    return (hardware.batch(samples) for samples in loader)


class Trainer:
    """A run in a folder: `checkpoints/` and `log.jsonl`; the model is for the caller to keep.

    method: its networks are on the machine's device. report: called with each line of the log. validation: measures the
    averaged model whenever a checkpoint is saved; the best one is kept. group: the processes that train together.
    show: called with the averaged model and the step after each validation.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        hardware: Hardware,
        folder: Path,
        report: Callable[[Line], None],
        validation: Validation | None = None,
        group: ProcessGroup | None = None,
        show: Callable[[nn.Module, int], None] | None = None,
    ) -> None:
        self.method, self.recipe, self.hardware = method, recipe, hardware
        self.checkpoints, self.log = folder / "checkpoints", folder / "log.jsonl"
        self.report, self.validation, self.group = report, validation, group or ProcessGroup()
        self.show = show
        self.updates = optimizers_of(method, recipe)
        self.average = copy.deepcopy(method.model).requires_grad_(False)
        self.step = 0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**self.method.networks, "average": self.average}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        return {title: update.optimizer for title, update in self.updates.items()}

    def resume(self) -> bool:
        """Goes back to the last checkpoint; False where there is none."""
        found = checkpoint.saved(self.checkpoints)
        if found:
            self.step = checkpoint.load(found[-1], self.modules, self.optimizers)
            if self.group.is_main:
                checkpoint.keep_best(self.checkpoints)
        return bool(found)

    def save(self) -> None:
        """Validates the model and writes a checkpoint; every process must call it."""
        figures = self._validated()
        if self.group.is_main:
            score = figures.get(self.validation.best_is) if self.validation else None
            checkpoint.save(self.checkpoints, self.step, self.modules, self.optimizers, score, keep=3)
            if figures:
                self._write({"step": self.step} | figures)
            if figures and self.show:
                self.show(self.average, self.step)
        self.group.barrier()

    def rescue(self) -> None:
        """A checkpoint of this very step, not validated; every process must call it."""
        if self.group.is_main:
            checkpoint.save(self.checkpoints, self.step, self.modules, self.optimizers, keep=3)
        self.group.barrier()

    def best(self) -> nn.Module:
        """The averaged model of the best checkpoint if one was validated, else the last."""
        path = self.checkpoints / checkpoint.BEST
        if path.exists():
            self.step = checkpoint.load(path, {"average": self.average}, {})
        return self.average

    def run(self, source: SampleSource, limits: Limits) -> nn.Module:
        """Trains to the recipe's last step or the time limit and returns the averaged model.

        Ctrl-C and SIGTERM let the step in hand end, save, and then do what they always do.
        """
        steps = range(self.step, self.recipe.steps)
        supply = batches(source, self.group.share(self.recipe.batch), steps, self.hardware)
        with (
            Interruption() as interruption,
            closing(supply),
        ):  # left open, its workers would never end
            self._run(supply, limits, interruption)
        return self.average

    def _run(self, supply: Iterator[Batch], limits: Limits, interruption: Interruption) -> None:
        first, clock, reported = self.step, _Clock(), False
        while self.step < self.recipe.steps:
            progress = limits.progress(self.step, self.recipe.steps, first)
            if limits.minutes is not None:  # clocks differ
                progress = self.group.broadcast(progress, self.hardware.device)
            if progress >= 1:
                break
            batch = clock.next_of(supply)
            clock.add(self._train_step(batch, progress))
            self.step += 1
            if self.step % limits.report_every == 0 or (not reported and self._is_soon(clock, first)):
                reported = True
                self._report(clock, limits.progress(self.step, self.recipe.steps, first), first)
            if self.step % limits.save_every == 0:
                self.save()
                clock.skip()
            if stop := self.group.maximum(interruption.to_stop, self.hardware.device):  # a signal may come meanwhile
                self.rescue()
                interruption.obey(stop)
        if self.step % limits.save_every or not checkpoint.saved(self.checkpoints):
            self.save()

    def _is_soon(self, clock: _Clock, first: int) -> bool:
        """Whether it is time for the first report."""
        return self.step == first + EARLY or self.group.broadcast(clock.total(), self.hardware.device) >= SOON

    def _train_step(self, batch: Batch, progress: float) -> dict[str, float]:
        # What layers draw by themselves (stochastic depth) depends on the step alone, so it need not be saved.
        torch.manual_seed(derived_seed(self.recipe.seed, self.step, self.group.rank))
        figures: dict[str, float] = {}
        for title, moving in self.updates.items():
            if self.step % moving.update.every:
                continue
            suffix = f"/{title}" if len(self.updates) > 1 else ""
            rate = moving.learning_rate(self.step, progress)
            for _ in range(moving.update.repeat):
                terms, gradient = self._make(moving, batch, rate)
                figures |= {f"rate{suffix}": rate} | terms | {f"gradient{suffix}": gradient}
        self._follow()
        return figures

    def _make(self, moving: UpdateOptimizer, batch: Batch, rate: float) -> tuple[dict[str, float], float]:
        """One update at this learning rate: its loss terms and the norm of the gradient before it was clipped."""
        for group in moving.optimizer.param_groups:
            group["lr"] = rate
        moving.optimizer.zero_grad(set_to_none=True)
        with moving.alone():
            with self.hardware.autocast():
                terms = moving.update.terms(batch)
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        self.group.average([p.grad for p in moving.parameters if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(moving.parameters, moving.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"The loss became {loss.item()} at step {self.step}.",
                f"The last good checkpoint is in {self.checkpoints}; go on from it with a lower --lr.",
            )
        moving.optimizer.step()
        if moving.update.after:
            moving.update.after()
        return {name: value.item() for name, value in terms.items()}, norm.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the averaged weights; the decay is short at first, so that the start is soon forgotten."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        live: list[Tensor] = list(self.method.model.parameters())
        torch._foreach_lerp_(list[Tensor](self.average.parameters()), live, 1 - decay)
        for kept, moving in zip(self.average.buffers(), self.method.model.buffers(), strict=True):
            kept.copy_(moving)  # statistics of batch normalisation are averages already

    def _validated(self) -> Line:
        # On one process: the others wait, and their figures would be the same.
        if not (self.validation and self.group.is_main):
            return {}
        figures = self.validation.score(self.method, self.average, self.hardware)
        return {name: float(f"{value:.7g}") for name, value in figures.items()}

    def _report(self, clock: _Clock, progress: float, first: int) -> None:
        means = clock.means()
        names, values = list(means), torch.tensor(list(means.values()), device=self.hardware.device)
        self.group.average([values])
        start = first / self.recipe.steps
        left = clock.total() * (1 - progress) / max(progress - start, 1e-9)
        line = {"step": self.step, "progress": round(progress, 5)}
        line |= {name: float(f"{value:.6g}") for name, value in zip(names, values.tolist(), strict=True)}
        line |= clock.pace(self.recipe.batch * self.group.size) | {"seconds_left": round(left)}
        clock.restart()
        if self.group.is_main:
            self._write(line)

    def _write(self, line: Line) -> None:
        try:
            jsonl.append(self.log, line)
        except OSError as error:
            raise checkpoint.unwritable(self.log, self.checkpoints, error) from error
        self.report(line)


class Interruption:
    """While entered, Ctrl-C and SIGTERM are noted (`to_stop`) instead of cutting a step in two; a second one cuts.

    One that comes at once is the same again: a terminal sends Ctrl-C to `torchrun` and to its processes, and so does
    `torchrun`. It is passed over even where the training has ended meanwhile: nothing is cut that tidies up.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    AT_ONCE = 2.0  # seconds

    def __init__(self) -> None:
        self.to_stop, self._noted, self._left = 0, 0.0, False

    def __enter__(self) -> Interruption:
        in_main_thread = threading.current_thread() is threading.main_thread()  # others may not touch signals
        self._former = {n: signal.signal(n, self._note) for n in self.SIGNALS if in_main_thread}
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        if not self._comes_again():
            self._restore()

    def obey(self, number: int) -> NoReturn:
        """What the signal would have done."""
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _note(self, number: int, frame: object) -> None:
        if self._comes_again():
            return
        if self._left:
            self._restore()
            signal.raise_signal(number)
        elif self.to_stop:
            self.obey(self.to_stop)
        else:
            self.to_stop, self._noted = number, time.monotonic()

    def _comes_again(self) -> bool:
        """Whether a signal of this moment is the noted one once more."""
        return bool(self.to_stop) and time.monotonic() - self._noted <= self.AT_ONCE

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


class _Clock:
    """Means of the terms since the last report, and where the time went."""

    def __init__(self) -> None:
        self._born = time.monotonic()
        self.restart()

    def restart(self) -> None:
        self._since, self._waited, self._steps = time.monotonic(), 0.0, 0
        self._sums: dict[str, tuple[float, int]] = {}

    def skip(self) -> None:
        """Validation and checkpoints are no steps: they do not count in the pace of the next report."""
        if not self._steps:
            self._since = time.monotonic()

    def next_of(self, supply: Iterator[Batch]) -> Batch:
        """The next batch; the time it took counts as waiting."""
        started = time.monotonic()
        batch = next(supply)
        self._waited += time.monotonic() - started
        return batch

    def add(self, terms: dict[str, float]) -> None:
        self._steps += 1
        for name, value in terms.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}

    def total(self) -> float:
        return time.monotonic() - self._born

    def pace(self, patches: int) -> Line:
        spent = time.monotonic() - self._since
        steps = self._steps / spent
        return {
            "steps_per_second": round(steps, 3),
            "images_per_second": round(steps * patches, 1),
            "loader_wait": round(self._waited / spent, 4),
        }
