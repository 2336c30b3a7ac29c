"""Restormer: a U-Net of transformer blocks with attention across channels instead of pixels.

Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration (CVPR 2022), section 3, figure 2.

The variant for denoising: no convolution has a bias, and the layer normalisation has neither a bias nor a mean taken
off, so every block scales with its input's contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, ones


class ScaleNorm(nn.Module):
    """Divides each pixel of (B, C, H, W) by the standard deviation over its channels; the mean is kept.

    Statistics are computed in fp32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(ones(width))

    def forward(self, features: Tensor) -> Tensor:
        exact = features.float()
        variance = (exact - exact.mean(1, keepdim=True)).square().mean(1, keepdim=True)  # 5 times as fast as torch.var
        scaled: Tensor = exact * (variance + 1e-5).rsqrt() * self.weight[:, None, None]
        return scaled.to(features.dtype)


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention (section 3.1, equation 1): a channels x channels map for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(ones(heads, 1, 1))
        self.widen = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.spread = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(1, (self.heads, -1)).flatten(3) for part in self.spread(self.widen(features)).chunk(3, dim=1)
        )
        # Two matrix products: fused attention is not faster for a C x C map over all pixels.
        likeness = _unit(query) @ _unit(key).transpose(-2, -1)
        weights = (likeness.float() * self.temperature).softmax(-1).to(value.dtype)
        mixed: Tensor = self.project((weights @ value).reshape(features.shape))
        return mixed


def _unit(rows: Tensor) -> Tensor:
    """Each row of (..., C, N) scaled to length one, which is computed in fp32."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
    unit: Tensor = (rows / length.clamp_min(1e-12)).to(rows.dtype)
    return unit


class GatedFeed(nn.Module):
    """Gated-Dconv feed-forward network (section 3.2, equation 2)."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.widen = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.spread = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        gate, passed = self.spread(self.widen(features)).chunk(2, dim=1)
        fed: Tensor = self.project(F.gelu(gate) * passed)
        return fed


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each on normalised features and added to them."""

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.attend_norm, self.attend = ScaleNorm(width), ChannelAttention(width, heads)
        self.feed_norm, self.feed = ScaleNorm(width), GatedFeed(width, expansion)

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.attend(self.attend_norm(features))
        out: Tensor = features + self.feed(self.feed_norm(features))
        return out


class Restormer(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    width: channels at full resolution, doubled at each level; the finest decoder level and the refinement keep twice
    as many. blocks, heads: per level, finest first; the last entry is the bottom, the others count for the encoder and
    the decoder each. refinement: blocks at full resolution at the end. expansion: hidden channels of the feed-forward
    network, as a multiple of its width. The defaults are the published configuration for colour (26.1 M parameters).

    Attention weighs channels by sums over all pixels that it is given, so the result of a tile depends on the whole
    tile, and a little on where it was cut.
    """

    global_context = True

    def __init__(
        self,
        channels: int = 3,
        width: int = 48,
        blocks: Sequence[int] = (4, 6, 6, 8),
        refinement: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        expansion: float = 2.66,
    ) -> None:
        super().__init__()
        if len(blocks) != len(heads) or len(blocks) < 2:
            raise ValueError("blocks and heads must have the same number of levels, at least 2")
        widths = [width * 2**level for level in range(len(blocks))]
        if any(each % count for each, count in zip(widths, heads, strict=True)):
            raise ValueError(f"heads {list(heads)} must divide the widths {widths}")
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "blocks": list(blocks),
            "refinement": refinement,
            "heads": list(heads),
            "expansion": expansion,
        }
        self.channels = channels
        self.multiple = 2 ** (len(blocks) - 1)
        levels = list(zip(widths, blocks, heads, strict=True))
        self.head = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(_stage(*level, expansion) for level in levels[:-1])
        self.downs = nn.ModuleList(_down(each) for each in widths[:-1])
        self.middle = _stage(*levels[-1], expansion)
        self.ups = nn.ModuleList(_up(each) for each in widths[:0:-1])
        self.merges = nn.ModuleList(nn.Conv2d(2 * each, each, 1, bias=False) for each in widths[-2:0:-1])
        finest = (2 * width, blocks[0], heads[0])
        self.decoders = nn.ModuleList(_stage(*level, expansion) for level in (*levels[-2:0:-1], finest))
        self.refinement = _stage(2 * width, refinement, heads[0], expansion)
        self.tail = nn.Conv2d(2 * width, channels, 3, padding=1, bias=False)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output, without attention."""
        *finer, middle = self.config["blocks"]
        reach = 2 + 2 * self.config["refinement"] + 2 * middle * self.multiple
        for level, depth in enumerate(finer):  # two 3x3 convolutions per block, in both halves; scale changes
            reach += (4 * depth + 1) * 2**level + 2 ** (level + 1)
        return int(reach + self.multiple - 1)

    def forward(self, noisy: Tensor) -> Tensor:
        features = self.head(noisy)
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            features = encode(features)
            skips.append(features)
            features = down(features)
        features = self.middle(features)
        # No merge at the finest level: the decoder gets the concatenation.
        for up, merge, decode in zip(self.ups, [*self.merges, nn.Identity()], self.decoders, strict=True):
            features = decode(merge(torch.cat((up(features), skips.pop()), 1)))
        residual: Tensor = self.tail(self.refinement(features))
        return noisy + residual


def _stage(width: int, depth: int, heads: int, expansion: float) -> nn.Sequential:
    return nn.Sequential(*(TransformerBlock(width, heads, expansion) for _ in range(depth)))


def _down(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))
