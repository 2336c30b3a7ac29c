"""How a network is asked: once, or several times with the answers put together.

A strategy is called with the network and a batch (B, C, H, W), float in [0, 1], and returns the restored batch, same
shape. `passes` says how often it runs the network, which is what it costs. What is drawn at random is drawn from the
`place` of the batch in its image, so that neighbouring tiles agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, channels_last, nn

from medcli.errors import ModelError
from medcli.registry import STRATEGIES, nearest, resolve


class PixelCoordinates(NamedTuple):
    """Which rows and columns of the image a batch shows, (H,) and (W,) int64; those that are mirrored come again."""

    rows: Tensor
    columns: Tensor


class Strategy(Protocol):
    @property
    def passes(self) -> int: ...

    def multiple(self, of_network: int) -> int:
        """What the origin and the sides of a batch must be multiples of, given what the network asks for."""

    def context_radius(self, of_network: int) -> int:
        """Largest distance in pixels at which an input can influence an output, given the network's own."""

    def __call__(self, network: nn.Module, batch: Tensor, place: PixelCoordinates | None = None) -> Tensor:
        """The restored batch. Without a place it is an image of its own."""


class Plain:
    """The network's answer as it is."""

    passes = 1

    def multiple(self, of_network: int) -> int:
        return of_network

    def context_radius(self, of_network: int) -> int:
        return of_network

    def __call__(self, network: nn.Module, batch: Tensor, place: PixelCoordinates | None = None) -> Tensor:
        answer: Tensor = network(batch)
        return answer


class Flips:
    """The mean over the eight flips and turns of the image, each turned back: errors that depend on direction go.

    inner: how the network is asked each time; Plain unless given.
    """

    passes = 8

    def __init__(self, inner: Strategy | None = None) -> None:
        self.inner: Strategy = inner or Plain()
        self.passes = 8 * self.inner.passes

    def multiple(self, of_network: int) -> int:
        return self.inner.multiple(of_network)

    def context_radius(self, of_network: int) -> int:
        return self.inner.context_radius(of_network)

    def __call__(self, network: nn.Module, batch: Tensor, place: PixelCoordinates | None = None) -> Tensor:
        place = place or whole(batch)
        views = [(swap, flips) for swap in (False, True) for flips in ((), (2,), (3,), (2, 3))]
        return mean(self._view(network, batch, place, *view) for view in views)

    def _view(
        self, network: nn.Module, batch: Tensor, place: PixelCoordinates, swap: bool, flips: tuple[int, ...]
    ) -> Tensor:
        turned = (batch.mT if swap else batch).flip(flips).contiguous(memory_format=channels_last)
        rows, columns = reversed(place) if swap else place
        there = PixelCoordinates(rows.flip(0) if 2 in flips else rows, columns.flip(0) if 3 in flips else columns)
        answer = self.inner(network, turned, there).flip(flips)
        return answer.mT if swap else answer


def whole(batch: Tensor) -> PixelCoordinates:
    """The place of a batch that is an image of its own."""
    return PixelCoordinates(torch.arange(batch.shape[2]), torch.arange(batch.shape[3]))


def mean(answers: Iterable[Tensor]) -> Tensor:
    """The mean in float32, one at a time. A running mean, not a sum: equal answers give exactly that answer."""
    counted = enumerate(answers, start=1)
    result = next(counted)[1].float()
    for count, answer in counted:
        result = result.lerp(answer.float(), 1 / count)
    return result


def parse(notation: str) -> Strategy:
    """`plain`, `flips` or `masks:k=2,pd=2`: a name of the table, and arguments by name.

    Raises ModelError for a name, an argument or a value that is not known.
    """
    name, _, listed = notation.replace(" ", "").partition(":")
    kind = resolve(STRATEGIES, name, kind="strategy", error=ModelError)
    known = {item.name: type(item.default) for item in fields(kind)} if is_dataclass(kind) else {}
    strategy: Strategy = kind(**dict(_argument(part, known, notation) for part in listed.split(",") if part))
    return strategy


def _argument(part: str, known: dict[str, type], notation: str) -> tuple[str, int | float | str]:
    name, _, value = part.partition("=")
    if name not in known:
        raise ModelError(f"The strategy '{notation}' has no argument '{name}'.", nearest(name, known) if known else "")
    try:
        argument: int | float | str = known[name](value)
    except ValueError as error:
        raise ModelError(f"In the strategy '{notation}', {name} must be a number, not '{value}'.") from error
    return name, argument
