"""The baseline from which NAFNet was made: GELU and squeeze-and-excitation where NAFNet has gates.

Chen et al., Simple Baselines for Image Restoration (ECCV 2022), section 3.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn, zeros

from medcli.archs.nafnet import ChannelNorm, NAFNet


class BaselineBlock(nn.Module):
    """A depth-wise half with channel attention, then a feed-forward half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix_norm, self.feed_norm = ChannelNorm(width), ChannelNorm(width)
        self.widen = nn.Conv2d(width, width, 1)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.squeeze = nn.Conv2d(width, width // 2, 1)
        self.excite = nn.Conv2d(width // 2, width, 1)
        self.narrow = nn.Conv2d(width, width, 1)
        self.feed = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)
        self.mix_scale = nn.Parameter(zeros(1, width, 1, 1))
        self.feed_scale = nn.Parameter(zeros(1, width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        mixed = F.gelu(self.spread(self.widen(self.mix_norm(features))))
        mixed = mixed * self.excite(F.relu(self.squeeze(mixed.mean((2, 3), keepdim=True)))).sigmoid()
        features = features + self.narrow(mixed) * self.mix_scale
        fed: Tensor = self.project(F.gelu(self.feed(self.feed_norm(features))))
        return features + fed * self.feed_scale


class Baseline(NAFNet):
    """(B, C, H, W) float in [0, 1] -> same shape: NAFNet's shape and arguments, with the blocks of its baseline.

    The defaults are the configuration that the AMSNet paper runs as "NAFNet": 29,056,227 parameters for
    colour.
    """

    block: type[nn.Module] = BaselineBlock
