"""DeamNet: one U-Net applied several times, each output weighted against the initial features.

Ren et al., Adaptive Consistency Prior Based Deep Network for Image Denoising (CVPR 2021): the variant
for real noise, without the multi-scale layers that its published code contains but does not use.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(source: int, target: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(source, target, side, stride, padding=side // 2)
    nn.init.xavier_normal_(layer.weight)
    return layer


def _active(width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(width, width, stride=stride), nn.ReLU(inplace=True))


def _pair(width: int) -> nn.Sequential:
    return nn.Sequential(_conv(width, width), nn.ReLU(inplace=True), _conv(width, width))


class Consistency(nn.Module):
    """Dual element-wise attention: each element lies between an estimate and its reference."""

    def __init__(self, width: int) -> None:
        super().__init__()
        few = max(1, width // 16)
        self.look = _conv(width, width)
        self.merge = _conv(2 * width, width, 1)
        self.weigh = nn.Sequential(_conv(width, few), nn.ReLU(inplace=True), _conv(few, width), nn.Sigmoid())

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        share: Tensor = self.weigh(self.merge(torch.cat((self.look(reference), estimate), 1)))
        return (1 - share) * estimate + share * reference


class Level(nn.Module):
    """Two convolutions and a step down to the level `below`; from its output a step up, attention, two convolutions."""

    def __init__(self, width: int, below: nn.Module) -> None:
        super().__init__()
        self.encode = nn.Sequential(_active(width), _active(width))
        self.down, self.below = _active(width, stride=2), below
        self.guide, self.up, self.side = _active(width), _active(width), _active(width)
        self.attend = Consistency(width)
        self.merge = _conv(2 * width, width, 1)
        self.decode = nn.Sequential(_active(width), _active(width))

    def forward(self, features: Tensor) -> Tensor:
        fine = self.encode(features)
        coarse = F.interpolate(self.below(self.down(fine)), scale_factor=2.0)
        attended = self.attend(self.guide(coarse), fine)
        decoded: Tensor = self.decode(self.merge(torch.cat((self.side(attended), self.up(coarse)), 1)))
        return decoded


class Operator(nn.Module):
    """The nonlinear operator: a U-Net of constant width with a skip connection from input to output."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.finest: nn.Module = nn.Sequential(_active(width), _active(width))
        for _ in range(levels):
            self.finest = Level(width, self.finest)
        self.tail = _conv(width, width)

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.tail(self.finest(features))
        return features + residual


class DeamNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    width: channels everywhere. passes: how often the operator is applied, each time with its own attention.
    levels: halvings inside it. The defaults are the published configuration: 1,875,619 parameters for colour.
    """

    def __init__(self, channels: int = 3, width: int = 64, passes: int = 4, levels: int = 4) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "width": width, "passes": passes, "levels": levels}
        self.channels = channels
        self.multiple = 2**levels
        self.head, self.enter = _conv(channels, width), _pair(width)
        self.operator = Operator(width, levels)
        self.attend = nn.ModuleList(Consistency(width) for _ in range(passes))
        self.leave, self.tail = _pair(width), _conv(width, channels)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        # At each level three convolutions down and six up; two at the bottom, one after; plus nearest-neighbour shifts.
        operator = 9 * (self.multiple - 1) + 2 * self.multiple + 1 + self.multiple - 1
        return int(6 + self.config["passes"] * (operator + 3))

    def forward(self, noisy: Tensor) -> Tensor:
        head = self.head(noisy)
        start = head + self.enter(head)
        features = start
        for attend in self.attend:
            features = attend(self.operator(features), start)
        restored: Tensor = self.tail(features + self.leave(features))
        return restored
