"""What a method says to the training loop, in four words.

Its *players* are modules whose parameters move together. Its *turns* say who moves, and to lower which terms. It
*needs* certain pictures. Its *product* is the network worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Needs:
    """The pictures of one sample.

    views: noisy pictures of one scene. spare: further ones that are of use but can be missing: made noise brings them,
    recorded pictures where as many folders are given. alike: whether the views share kind and level of the noise, drawn
    anew for each (Noise2Noise), or draw those too. clean: "mates" are of the same scene, "others" of any other scene.
    """

    views: int = 1
    spare: int = 0
    alike: bool = False
    clean: Literal["none", "mates", "others"] = "none"


@dataclass(frozen=True)
class Batch:
    """What the loop hands to a turn.

    views: noisy pictures of the same scenes, each (B, C, H, W) float32; clean ones span [0, 1], noise may leave it.
    clean: (B, C, H, W) float32 in [0, 1], or None where the method does not ask for it.
    keys: (B,) int64 on the CPU. Whatever a method draws, it draws from them, sample by sample, so that a step does not
    depend on how a batch is shared out between processes.
    """

    views: Sequence[Tensor]
    clean: Tensor | None
    keys: Tensor

    @property
    def noisy(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def generators(self) -> list[Generator]:
        """A fresh CPU generator for each sample, always in the same state."""
        return [Generator().manual_seed(int(key)) for key in self.keys]


@dataclass(frozen=True)
class Turn:
    """`player` moves so that the sum of `terms(batch)`, already weighted, becomes smaller; the others stand still.

    every: steps from one such turn to the next. rate: factor on the learning rate. after: called when the player has
    moved, to let another follow it (an average of weights, for example).
    """

    player: str
    terms: Callable[[Batch], Terms]
    every: int = 1
    rate: float = 1.0
    after: Callable[[], None] | None = None


class Method(Protocol):
    """What the loop asks of a method. Players without a turn are kept in checkpoints all the same."""

    needs: Needs
    players: dict[str, nn.Module]
    turns: Sequence[Turn]

    @property
    def product(self) -> nn.Module:
        """The network that is worth keeping: one that `medcli.registry.ARCHITECTURES` can rebuild."""
        ...


@runtime_checkable
class AsksItsOwnWay(Protocol):
    """A method whose product is not simply run: it is asked through a strategy of `medcli.engine.strategies`."""

    @property
    def strategy(self) -> str:
        """In the notation of strategies, such as `masks:k=2,pd=2`."""
        ...


@runtime_checkable
class CutsPatches(Protocol):
    """A method that cuts patches to what its network takes."""

    def fitting(self, side: int) -> int:
        """How much of a side is left; raises RecipeError for one that is too small."""
        ...


@runtime_checkable
class ShowsNoise(Protocol):
    """A method that estimates the noise by a way of its own, not as what its product takes away."""

    def noise(self, noisy: Tensor) -> Tensor:
        """(B, C, H, W) -> the estimated noise, same shape."""
        ...
