"""A residual U-Net on a pixel-unshuffled image, for CPUs.

Every choice serves speed per decibel: the finest level runs at half resolution, blocks are two plain convolutions with
one ReLU (no normalisation, which costs more time than its MACs suggest), and levels are joined by addition, not
concatenation. The network predicts the noise and adds it to its input, so an all-zero tail is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.archs.graphs.unet import traits


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), both convolutions 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # near-identity blocks make a deep network without normalisation trainable
            self.second.weight.mul_(0.1)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.second(F.relu(self.first(features), inplace=True))
        return out


def _stage(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))


class ResidualUNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    widths: channels of each level, finest first; the last one is the bottom.
    blocks: residual blocks per level on each side; one entry fewer than `widths`.
    middle: residual blocks at the bottom.
    unshuffle: side of the pixel block that becomes channels before the first convolution.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (48, 96, 128, 160),
        blocks: Sequence[int] = (1, 2, 2),
        middle: int = 3,
        unshuffle: int = 2,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths) - 1:
            raise ValueError(f"blocks must have {len(widths) - 1} entries for {len(widths)} widths, not {len(blocks)}")
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "blocks": list(blocks),
            "middle": middle,
            "unshuffle": unshuffle,
        }
        self.channels = channels
        self.multiple = traits(self.config).multiple
        folded = channels * unshuffle**2
        steps = list(pairwise(widths))
        self.head = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_stage(w, n) for w, n in zip(widths, blocks, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.middle = _stage(widths[-1], middle)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.decoders = nn.ModuleList(_stage(w, n) for w, n in zip(widths, blocks, strict=False))
        self.tail = nn.Conv2d(widths[0], folded, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        return traits(self.config).receptive_field

    def as_gray(self) -> ResidualUNet:
        """A network of one channel that gives for gray images what this one gives for equal channels, on average."""
        gray = ResidualUNet(**self.config | {"channels": 1})
        state = self.state_dict()
        head, tail, bias = state["head.weight"], state["tail.weight"], state["tail.bias"]
        state["head.weight"] = head.unflatten(1, (self.channels, -1)).sum(1)
        state["tail.weight"] = tail.unflatten(0, (self.channels, -1)).mean(0)
        state["tail.bias"] = bias.unflatten(0, (self.channels, -1)).mean(0)
        gray.load_state_dict(state)
        return gray

    def forward(self, noisy: Tensor) -> Tensor:
        # Centred, so that zero padding means mid-grey and bf16 has one more bit of precision.
        features = self.head(F.pixel_unshuffle(noisy - 0.5, self.config["unshuffle"]))
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            features = encode(features)
            skips.append(features)
            features = down(features)
        features = self.middle(features)
        for decode, up in zip(reversed(self.decoders), reversed(self.ups), strict=True):
            features = decode(up(features) + skips.pop())
        return noisy + F.pixel_shuffle(self.tail(features), self.config["unshuffle"])
