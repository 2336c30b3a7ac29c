"""NAFNet: a U-Net of gated blocks without activation functions.

Chen et al., Simple Baselines for Image Restoration (ECCV 2022), sections 3 and 4, figures 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn, ones, zeros


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel of (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(ones(width))
        self.bias = nn.Parameter(zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        last = features.permute(0, 2, 3, 1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


def gate(features: Tensor) -> Tensor:
    """SimpleGate (equation 4): the product of the two halves of the channels."""
    first, second = features.chunk(2, dim=1)
    return first * second


class GatedBlock(nn.Module):
    """NAFBlock (figure 2d): a depth-wise half with channel attention, then a feed-forward half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix_norm, self.feed_norm = ChannelNorm(width), ChannelNorm(width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.spread = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attend = nn.Conv2d(width, width, 1)
        self.narrow = nn.Conv2d(width, width, 1)
        self.feed = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(width, width, 1)
        self.mix_scale = nn.Parameter(zeros(1, width, 1, 1))
        self.feed_scale = nn.Parameter(zeros(1, width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        mixed = gate(self.spread(self.widen(self.mix_norm(features))))
        mixed = mixed * self.attend(mixed.mean((2, 3), keepdim=True))  # simplified channel attention, equation 6
        features = features + self.narrow(mixed) * self.mix_scale
        fed: Tensor = self.project(gate(self.feed(self.feed_norm(features))))
        return features + fed * self.feed_scale


class NAFNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    width: channels at full resolution, doubled at each level. encoders, decoders: blocks per level, finest first for
    the encoder and coarsest first for the decoder. middle: blocks at the bottom. The defaults are the published
    configuration for real noise (29.2 M parameters).

    Channel attention averages over the whole input, so the result of a tile depends slightly on the tile's size.
    """

    block: type[nn.Module] = GatedBlock
    global_context = True

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        encoders: Sequence[int] = (2, 2, 4, 8),
        middle: int = 12,
        decoders: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        if len(encoders) != len(decoders):
            raise ValueError("encoders and decoders must have the same number of levels")
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "encoders": list(encoders),
            "middle": middle,
            "decoders": list(decoders),
        }
        self.channels = channels
        self.multiple = 2 ** len(encoders)
        widths = [width * 2**level for level in range(len(encoders) + 1)]
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.encoders = nn.ModuleList(self._stage(w, n) for w, n in zip(widths, encoders, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = self._stage(widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, 2 * w, 1, bias=False), nn.PixelShuffle(2)) for w in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(self._stage(w, n) for w, n in zip(widths[-2::-1], decoders, strict=True))
        self.tail = nn.Conv2d(width, channels, 3, padding=1)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output, without channel attention."""
        encoders, decoders = self.config["encoders"], self.config["decoders"][::-1]
        reach = 2 + sum((down + up) * 2**level for level, (down, up) in enumerate(zip(encoders, decoders, strict=True)))
        return int(reach + self.config["middle"] * 2 ** len(encoders) + self.multiple - 1)

    def forward(self, noisy: Tensor) -> Tensor:
        features = self.head(noisy)
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            features = encode(features)
            skips.append(features)
            features = down(features)
        features = self.middle(features)
        for up, decode in zip(self.ups, self.decoders, strict=True):
            features = decode(up(features) + skips.pop())
        residual: Tensor = self.tail(features)
        return noisy + residual

    def _stage(self, width: int, depth: int) -> nn.Sequential:
        return nn.Sequential(*(type(self).block(width) for _ in range(depth)))
