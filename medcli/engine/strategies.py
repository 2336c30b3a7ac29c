"""How a network is applied to a batch: once, or several times with the results averaged.

A strategy is called with the network and a batch (B, C, H, W), float in [0, 1], and returns the restored batch, same
shape. `passes` says how often it runs the network, which is what it costs. What is drawn at random is drawn from the
pixel coordinates of the batch, so that neighbouring tiles agree.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, channels_last, nn

from medcli.errors import ModelError
from medcli.images.values import ValueRange
from medcli.registry import STRATEGIES, nearest, resolve


class PixelCoordinates(NamedTuple):
    """Which rows and columns of the image a batch shows, (H,) and (W,) int64; those that are mirrored come again."""

    rows: Tensor
    columns: Tensor


class Strategy(Protocol):
    @property
    def passes(self) -> int: ...

    def multiple(self, of_network: int) -> int:
        """What the origin and the sides of a batch must be multiples of, given the network's own."""

    def context_radius(self, of_network: int) -> int:
        """Largest distance in pixels at which an input can influence an output, given the network's own."""

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        """The restored batch. Without coordinates it is a whole image."""


@runtime_checkable
class FitsImage(Protocol):
    """A strategy that depends on the whole image, such as on its noise.

    remark: what it found in the image, in one line; empty before `for_image`.
    """

    @property
    def remark(self) -> str: ...

    def for_image(self, rows: Callable[[int, int], Tensor], shape: tuple[int, ...], values: ValueRange) -> Strategy:
        """The strategy for one image of `shape` (H, W, C), of which `rows` gives (1, C, rows, W) between two rows.

        values: what is 0 and 1 there.
        """


class Plain:
    """The output of one pass."""

    passes = 1

    def multiple(self, of_network: int) -> int:
        return of_network

    def context_radius(self, of_network: int) -> int:
        return of_network

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        output: Tensor = network(batch)
        return output


class AppliedNetwork(nn.Module):
    """A network with its strategy, as a network that maps (B, C, H, W) to the same shape."""

    def __init__(self, network: nn.Module, strategy: Strategy) -> None:
        super().__init__()
        self.network, self.strategy = network, strategy
        self.multiple = strategy.multiple(int(network.multiple))  # type: ignore[arg-type]

    def forward(self, noisy: Tensor) -> Tensor:
        return self.strategy(self.network, noisy)


class Flips:
    """The mean over the eight flips and turns of the image, each turned back: errors that depend on direction go.

    inner: how the network is applied each time; Plain unless given.
    """

    passes = 8

    def __init__(self, inner: Strategy | None = None) -> None:
        self.inner: Strategy = inner or Plain()
        self.passes = 8 * self.inner.passes
        self.remark = self.inner.remark if isinstance(self.inner, FitsImage) else ""

    def multiple(self, of_network: int) -> int:
        return self.inner.multiple(of_network)

    def context_radius(self, of_network: int) -> int:
        return self.inner.context_radius(of_network)

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        coordinates = coordinates or whole(batch)
        views = [(swap, flips) for swap in (False, True) for flips in ((), (2,), (3,), (2, 3))]
        return mean(self._view(network, batch, coordinates, *view) for view in views)

    def for_image(self, rows: Callable[[int, int], Tensor], shape: tuple[int, ...], values: ValueRange) -> Strategy:
        return Flips(self.inner.for_image(rows, shape, values)) if isinstance(self.inner, FitsImage) else self

    def _view(
        self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates, swap: bool, flips: tuple[int, ...]
    ) -> Tensor:
        turned = (batch.mT if swap else batch).flip(flips).contiguous(memory_format=channels_last)
        rows, columns = reversed(coordinates) if swap else coordinates
        there = PixelCoordinates(rows.flip(0) if 2 in flips else rows, columns.flip(0) if 3 in flips else columns)
        output = self.inner(network, turned, there).flip(flips)
        return output.mT if swap else output


def whole(batch: Tensor) -> PixelCoordinates:
    """The coordinates of a batch that is a whole image."""
    return PixelCoordinates(torch.arange(batch.shape[2]), torch.arange(batch.shape[3]))


def mean(results: Iterable[Tensor]) -> Tensor:
    """The mean in float32, one at a time. A running mean, not a sum: equal results give exactly that result."""
    counted = enumerate(results, start=1)
    result = next(counted)[1].float()
    for count, output in counted:
        result = result.lerp(output.float(), 1 / count)
    return result


def parse(notation: str) -> Strategy:
    """`plain`, `flips` or `masks:k=2,pd=2`: a name of the table, and arguments by name; `vst+masks` is one in another.

    Raises ModelError for a name, an argument or a value that is not known.
    """
    outer, *inner = re.split(r"\+(?=[a-z])", notation.replace(" ", ""), maxsplit=1)
    name, _, listed = outer.partition(":")
    kind = resolve(STRATEGIES, name, kind="strategy", error=ModelError)
    types = {item.name: type(item.default) for item in fields(kind)} if is_dataclass(kind) else {}
    known = {name: each for name, each in types.items() if each in (int, float, str)}
    arguments: dict[str, object] = dict(_argument(part, known, notation) for part in listed.split(",") if part)
    if inner:
        if "inner" not in inspect.signature(kind).parameters:
            raise ModelError(f"The strategy '{name}' has no other in it, as '{notation}' says.")
        arguments["inner"] = parse(inner[0])
    strategy: Strategy = kind(**arguments)
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
