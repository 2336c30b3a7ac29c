"""Noisy in, clean out: the method against which all others are measured.

A method answers four questions of the loop. Its *players* are the modules whose parameters move together; its *turns*
say who moves, and to lower which terms; *needs* names the data it wants; *product* is the network worth keeping.
Terms come already weighted: their sum is the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Turn:
    """`player` moves so that the sum of `terms(batch)` becomes smaller."""

    player: str
    terms: Callable[[tuple[Tensor, Tensor]], Terms]


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (restored - clean).abs().mean()


def mse(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference."""
    return (restored - clean).square().mean()


def charbonnier(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6): L1 with a smooth foot (Charbonnier et al., ICIP 1994)."""
    return ((restored - clean).square() + 1e-6).sqrt().mean()


def log_mse(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean over the batch of log(MSE + 1e-5)/2: every noise level counts alike, however strong.

    It is the negative PSNR up to a factor, as used by Chen et al., Simple Baselines for Image Restoration (ECCV 2022);
    the constant ends the reward at 50 dB.
    """
    return 0.5 * torch.log((restored - clean).square().mean((1, 2, 3)) + 1e-5).mean()


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "charbonnier": charbonnier,
    "log_mse": log_mse,
}


class Supervised:
    """One network, one turn: restore the clean patch from the noisy one."""

    needs = "pairs"

    def __init__(self, network: nn.Module, *, loss: str = "log_mse") -> None:
        self.network = network
        self.loss_name = loss
        self.loss = LOSSES[loss]
        self.players: dict[str, nn.Module] = {"denoiser": network}
        self.turns = [Turn("denoiser", self.terms)]

    @property
    def product(self) -> nn.Module:
        """The network that is worth keeping."""
        return self.network

    def terms(self, batch: tuple[Tensor, Tensor]) -> Terms:
        """batch: (noisy, clean), each (B, C, H, W) float in [0, 1]."""
        noisy, clean = batch
        return {self.loss_name: self.loss(self.network(noisy).float(), clean)}
