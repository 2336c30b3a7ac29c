"""Denoising by the mean of many predictions, each from random visible elements with dropout.

Quan, Chen, Pang and Ji, Self2Self with Dropout: Learning Self-Supervised Denoising from Single Image (CVPR 2020),
section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, channels_last, nn

from medcli.blind_spot import ROUND, WORD, scattered
from medcli.engine.strategies import PixelCoordinates, mean, whole
from medcli.errors import ModelError

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
LIMITS: Mapping[str, tuple[float, float]] = {
    "passes": (1, 1000), "keep": (0.01, 1), "dropout": (0, 0.99), "joint": (0, 1), "seed": (0, WORD)
}  # fmt: skip


@dataclass(frozen=True)
class Bernoulli:
    """For networks that take a mask and a dropout as further arguments, which have `takes_masks`.

    passes: predictions that are averaged; the image is flipped differently in four successive ones. keep: share of the
    visible elements. dropout: in the decoder. joint: 1 hides all channels of a pixel together, 0 each by itself. seed:
    random seed.

    Random numbers are a function of seed, pass, layer, channel, row and column alone, so neither the tiling nor the
    batch changes them. Raises ModelError for values out of range and, when called, for networks without masks.
    """

    passes: int = 100
    keep: float = 0.7
    dropout: float = 0.3
    joint: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                problem = f"The strategy 'bernoulli' cannot have {name}={getattr(self, name)}."
                raise ModelError(problem, f"Give {least} to {most}.")

    def multiple(self, of_network: int) -> int:
        return of_network

    def context_radius(self, of_network: int) -> int:
        return of_network

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        if not getattr(network, "takes_masks", False):
            raise ModelError(f"A {type(network).__name__} takes no masks.", "Use the strategy 'plain' or 'flips'.")
        coordinates = PixelCoordinates(*(side.to(batch.device) for side in coordinates or whole(batch)))
        return mean(self._predicted(network, batch, coordinates, number) for number in range(self.passes))

    def _predicted(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates, number: int) -> Tensor:
        flips = FLIPS[number % len(FLIPS)]
        rows, columns = coordinates
        there = PixelCoordinates(rows.flip(0) if 2 in flips else rows, columns.flip(0) if 3 in flips else columns)
        image = batch.flip(flips).contiguous(memory_format=channels_last)
        visible = self._kept(there, 1 if self.joint else image.shape[1], self.keep, number, 0)
        thin = partial(self._thinned, coordinates=there, number=number) if self.dropout else None
        output: Tensor = network(image, visible.to(image.dtype).expand_as(image), thin)
        return output.flip(flips)

    def _thinned(self, features: Tensor, layer: int, *, coordinates: PixelCoordinates, number: int) -> Tensor:
        step = len(coordinates.rows) // features.shape[2]
        there = PixelCoordinates(*(side[::step] // step for side in coordinates))
        kept = self._kept(there, features.shape[1], 1 - self.dropout, number, layer + 1)
        return torch.where(kept, features, 0).div_(1 - self.dropout)

    def _kept(self, coordinates: PixelCoordinates, channels: int, share: float, number: int, purpose: int) -> Tensor:
        """(1, channels, H, W) bool, true with the probability `share`."""
        stream = (self.seed << 16) + (number << 4) + purpose
        base = _signed(scattered(*coordinates, (stream ^ stream >> 32) & WORD))
        numbers = torch.arange(channels, device=base.device)
        salt = _signed(scattered(numbers, numbers[:1], stream & WORD))
        mixed = (base ^ salt[..., None]).mul_(ROUND)
        mixed = (mixed >> 15).bitwise_xor_(mixed).mul_(ROUND)
        return (mixed < int((share - 0.5) * WORD))[None]


def _signed(words: Tensor) -> Tensor:
    """Words of 32 bits held in int64 -> int32, whose products wrap."""
    return (words - 2**31).to(torch.int32)
