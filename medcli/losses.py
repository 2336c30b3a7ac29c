"""Distances between two batches (B, C, H, W), float in [0, 1]; each gives a scalar."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(restored: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (restored - target).abs().mean()


def mse(restored: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    return (restored - target).square().mean()


def charbonnier(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6): a smooth L1 (Charbonnier et al., ICIP 1994)."""
    return ((restored - target).square() + 1e-6).sqrt().mean()


def log_mse(restored: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of log(MSE + 1e-5)/2: all noise levels have the same weight.

    It is the negative PSNR up to a factor, as used by Chen et al., Simple Baselines for Image Restoration (ECCV 2022);
    the constant limits it to 50 dB.
    """
    return 0.5 * torch.log((restored - target).square().mean((1, 2, 3)) + 1e-5).mean()


EPSILON = 3e-7  # of bce: the logarithm of 0 is infinite


def bce(restored: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, less the entropy of the target, which is clipped to [0, 1]: 0 where both are equal.

    restored: float32; outside (0, 1), where it has no gradient, it counts as the nearest end. Like the squared error it
    is minimal at the mean of the targets.
    """
    target, restored = target.clamp(0, 1), restored.clamp(EPSILON, 1 - EPSILON)
    with torch.autocast(restored.device.type, enabled=False):  # which refuses it on CUDA
        return F.binary_cross_entropy(restored, target) - F.binary_cross_entropy(target, target).detach()


LOSSES: Mapping[str, Loss] = {"l1": l1, "mse": mse, "charbonnier": charbonnier, "log_mse": log_mse, "bce": bce}
