"""A denoiser between a learned transform of the values and its inverse, for noise whose strength depends on them.

Herbreteau and Unser, Self-Calibrated Variance-Stabilizing Transformations for Real-World Image Denoising (ICCV 2025),
section 4.1. `medcli.methods.noise2vst` learns the transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from medcli.errors import ModelError
from medcli.registry import ARCHITECTURES, resolve

LEAST_STEP = 1e-6


class Spline(nn.Module):
    """An increasing piecewise linear function, and its inverse; at first the identity.

    knots: evenly spaced over `span`, beyond which the outer pieces go on. Parameters as in the paper: the value at the
    first knot and the logarithms of the increments.
    """

    def __init__(self, knots: int = 128, span: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if knots < 2:
            raise ValueError(f"a piecewise linear function needs 2 knots or more, not {knots}")
        self.span, self.step = span, (span[1] - span[0]) / (knots - 1)
        self.first = nn.Parameter(torch.tensor([span[0]]))
        self.steps = nn.Parameter(torch.full((knots - 1,), math.log(self.step - LEAST_STEP)))

    @torch.no_grad()
    def follow(self, function: Callable[[Tensor], Tensor]) -> None:
        """Takes the values of an increasing function of (N,) at the knots."""
        values = function(torch.linspace(*self.span, len(self.steps) + 1))
        self.first.copy_(values[:1])
        self.steps.copy_((values.diff() - LEAST_STEP).clamp(min=LEAST_STEP).log())

    def values(self) -> Tensor:
        """(knots,) the function at its knots, increasing."""
        return torch.cat((self.first, self.first + (self.steps.exp() + LEAST_STEP).cumsum(0)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape."""
        values = self.values()
        place = (inputs - self.span[0]) / self.step
        left = place.detach().floor().long().clamp(0, len(values) - 2)
        return torch.lerp(values[left], values[left + 1], place - left)

    def inverse(self, outputs: Tensor) -> Tensor:
        """Any shape: what the function maps to `outputs`."""
        values = self.values()
        left = (torch.searchsorted(values.detach(), outputs.detach().contiguous()) - 1).clamp(0, len(values) - 2)
        share = (outputs - values[left]) / (values[left + 1] - values[left])
        return self.span[0] + (left + share) * self.step


class Transformed(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape: inverse(network(spline(noisy))) and a learned affine term.

    network, config: the denoiser in the middle, a key of `registry.ARCHITECTURES` and its arguments. knots, span: of
    the spline. The affine term a y + b, at first 0, corrects the bias of the inverse (section 4.1).
    Departs: the spline reaches an eighth beyond [0, 1], because the range of values is not that of the extremes.
    """

    def __init__(
        self,
        network: str = "unet",
        config: Mapping[str, Any] | None = None,
        knots: int = 160,
        span: tuple[float, float] = (-0.125, 1.125),
    ) -> None:
        super().__init__()
        self.denoiser: nn.Module = resolve(ARCHITECTURES, network, kind="architecture", error=ModelError)(
            **(config or {})
        )
        traits = cast(Any, self.denoiser)
        self.config: dict[str, Any] = {
            "network": network, "config": dict(traits.config), "knots": knots, "span": list(span)
        }  # fmt: skip
        self.channels: int = traits.channels
        self.multiple: int = traits.multiple
        self.receptive_field: int = traits.receptive_field
        self.global_context = bool(getattr(self.denoiser, "global_context", False))
        self.spline = Spline(knots, (span[0], span[1]))
        self.affine = nn.Parameter(torch.zeros(2))

    def restored(self, stabilised: Tensor) -> Tensor:
        """The network's result on transformed images (B, C, H, W), back among their values."""
        output = self.denoiser(stabilised).float()
        values: Tensor = self.spline.inverse(output) + self.affine[0] * output + self.affine[1]
        return values

    def forward(self, noisy: Tensor) -> Tensor:
        return self.restored(self.spline(noisy.float()))
