"""Validation of a denoiser on noisy images alone: Stein's estimate of its error, and what it removes.

For training without pairs, where a loss shows how well networks fool each other and not how well one of them restores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medcli.engine.residual import removed_stats
from medcli.engine.strategies import parse
from medcli.images.values import ValueRange
from medcli.methods.base import Method
from medcli.train.adapt.sure import NoiseStatistics, Stein
from medcli.train.hardware import Hardware
from medcli.train.validation import Validation, exported, fitting, strategy_of

LEAST = 1e-6  # mean squared error: Stein's estimate can be negative
UNIT = ValueRange(0.0, 1.0)


@dataclass(frozen=True)
class SteinValidation(Validation):
    """seen: the noise of the held-out images, measured in their flat parts; the estimate is as good as that."""

    seen: NoiseStatistics

    @property
    def best_is(self) -> str:
        return "val_psnr_estimate"

    def _figures(self, method: Method, hardware: Hardware) -> dict[str, float]:
        """PSNR to the unknown clean images by Stein's estimate, in dB; standard deviation of what was removed, in grey
        levels; and the share of that which follows the picture, 0 to 1."""
        network, strategy = exported(method, method.model), parse(strategy_of(method))
        noisy = fitting(torch.cat([batch.noisy for batch in self.batches(hardware)]), network, strategy)
        stein = Stein(strategy)
        noise = stein.drawn(noisy, network, self.seen, seed=0)[0]
        error = stein.residual(network, noisy) + 2 * stein.divergence(network, noisy, noise)
        error = error.mean() - noise.square().mean()
        restored = stein.restored(network, noisy)
        pages = zip(*(batch.permute(0, 2, 3, 1).cpu().numpy() for batch in (noisy, restored)), strict=True)
        removed = removed_stats(pages, UNIT)
        return {
            "val_psnr_estimate": -10 * torch.log10(error.clamp(min=LEAST)).item(),
            "val_removed_sigma": removed.sigma,
            "val_removed_structure": removed.structure,
        }
