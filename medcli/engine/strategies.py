"""How a network is asked: once, or several times with the answers put together.

A strategy is called with the network and a batch (B, C, H, W), float in [0, 1], sides multiples of the network's;
it returns the restored batch, same shape. `passes` says how often it runs the network, which is what it costs.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, channels_last, nn


class Strategy(Protocol):
    @property
    def passes(self) -> int: ...

    def __call__(self, network: nn.Module, batch: Tensor) -> Tensor: ...


class Plain:
    """The network's answer as it is."""

    passes = 1

    def __call__(self, network: nn.Module, batch: Tensor) -> Tensor:
        answer: Tensor = network(batch)
        return answer


class Flips:
    """The mean over the eight flips and turns of the picture, each turned back: errors that depend on direction go."""

    passes = 8

    def __call__(self, network: nn.Module, batch: Tensor) -> Tensor:
        mean: Tensor = network(batch).float()
        views = [(swap, flips) for swap in (False, True) for flips in ((), (2,), (3,), (2, 3))]
        for count, (swap, flips) in enumerate(views[1:], start=2):
            turned = (batch.mT if swap else batch).flip(flips).contiguous(memory_format=channels_last)
            answer = network(turned).flip(flips)
            # A running mean, not a sum: eight equal answers give exactly that answer.
            mean = mean.lerp((answer.mT if swap else answer).float(), 1 / count)
        return mean
