"""How good a network is on images that it is not trained on: the same patches and the same noise each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcli.data.crops import SampleSource, SyntheticPairs, stacked
from medcli.engine.strategies import Strategy, parse
from medcli.methods.base import Application, Batch, ExportsModel, HasStrategy, Method, Needs, Update
from medcli.train.hardware import Hardware

PATCHES, AT_ONCE = 64, 16
STEP = -1  # no step of training has this number, so its draws are its own


@dataclass(frozen=True)
class Validation:
    """64 patches of held-out images, drawn by the seed.

    source: where they come from. by_psnr: whether the clean image is known, so that PSNR can be measured; otherwise
    the score is minus the method's own loss, which needs no clean image.
    """

    source: SampleSource
    by_psnr: bool

    @property
    def best_is(self) -> str:
        """The figure that decides which checkpoint is the best; the higher the better."""
        return "psnr" if self.by_psnr else "val_score"

    def score(self, method: Method, network: nn.Module, hardware: Hardware) -> dict[str, float]:
        """Figures for the log: `psnr` and that of the input, in dB; or the loss terms, as `val_<term>`.

        The terms are those of the first update that moves the model.
        """
        with torch.no_grad(), in_place(method.model, network):
            figures = self._figures(method, hardware)
        self.source.release()
        return figures

    def _figures(self, method: Method, hardware: Hardware) -> dict[str, float]:
        if self.by_psnr:
            return self._psnr(exported(method, method.model), parse(strategy_of(method)), hardware)
        return self._terms(method, hardware)

    def batches(self, hardware: Hardware) -> Iterator[Batch]:
        """The patches, 16 at a time."""
        for start in range(0, PATCHES, AT_ONCE):
            yield hardware.batch(stacked(self.source, STEP, range(start, start + AT_ONCE)))

    def _psnr(self, network: nn.Module, strategy: Strategy, hardware: Hardware) -> dict[str, float]:
        before, after = [], []
        for batch in self.batches(hardware):
            assert batch.clean is not None
            noisy, clean = (fitting(image, network, strategy) for image in (batch.noisy, batch.clean))
            with hardware.autocast():
                restored = strategy(network, noisy).float()
            before.append(psnr(noisy.clamp(0, 1), clean))
            after.append(psnr(restored.clamp(0, 1), clean))
        return {"psnr": _mean(after), "psnr_input": _mean(before)}

    def _terms(self, method: Method, hardware: Hardware) -> dict[str, float]:
        sums: dict[str, float] = {}
        update = _of_the_model(method)
        for batch in self.batches(hardware):
            with hardware.autocast():
                for name, value in update.terms(batch).items():
                    sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + value.item() * AT_ONCE / PATCHES
        return sums | {"val_score": -sum(sums.values())}


def _of_the_model(method: Method) -> Update:
    kept = set(method.model.parameters())
    for update in method.updates:
        if any(not kept.isdisjoint(method.networks[name].parameters()) for name in update.moves):
            return update
    return method.updates[0]


def exported(method: Method, network: nn.Module) -> nn.Module:
    """A network of the form of the method's model, in the form in which it is saved."""
    return method.export(network) if isinstance(method, ExportsModel) else network


def strategy_of(method: Method) -> str:
    """How the model is applied, in the notation of strategies."""
    return method.strategy if isinstance(method, HasStrategy) else "plain"


def applied(notation: str) -> Application:
    """A strategy in its notation -> its name and all its arguments. Raises ModelError for one that does not exist."""
    strategy = parse(notation)
    arguments: dict[str, Any] = vars(strategy) if is_dataclass(strategy) else {}
    return Application(notation.replace(" ", "").partition(":")[0], arguments)


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B,) in dB, at most 100."""
    return -10 * torch.log10((restored - clean).square().mean((1, 2, 3)).clamp(min=1e-10))


@contextmanager
def in_place(model: nn.Module, other: nn.Module) -> Iterator[None]:
    """Lends the model the parameters and buffers of `other`, for methods whose terms run the model."""
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    pairs += list(zip(model.buffers(), other.buffers(), strict=True))  # type: ignore[arg-type]
    own = [mine.data for mine, _ in pairs]
    was_training = model.training
    try:
        for mine, lent in pairs:
            mine.data = lent.data
        model.eval()
        yield
    finally:
        for (mine, _), data in zip(pairs, own, strict=True):
            mine.data = data
        model.train(was_training)


def validation_of(source: SampleSource, needs: Needs, *, denoises: bool = True) -> Validation:
    """Made noise always knows its clean image; recorded images know it where they are paired.

    denoises: whether the model removes noise; one that generates it is validated by its loss terms.
    """
    if isinstance(source, SyntheticPairs) and denoises:
        return Validation(source.for_validation(), by_psnr=True)
    return Validation(source, by_psnr=needs.clean == "paired")


def fitting(image: Tensor, network: Any, strategy: Strategy) -> Tensor:
    """As much of (B, C, H, W) as the network takes, applied by this strategy."""
    step = strategy.multiple(int(network.multiple))
    height, width = (side - side % step for side in image.shape[2:])
    return image[..., :height, :width].contiguous(memory_format=torch.channels_last)


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).mean().item()
