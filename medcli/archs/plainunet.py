"""The U-Net of Noise2Noise: constant width, max-pooling, skip connections by concatenation, no skip to the output.

Lehtinen et al., Noise2Noise: Learning Image Restoration without Clean Data (ICML 2018), appendix; with transposed
convolutions and three 1x1 layers at the end, as the self-supervised methods after it use it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medcli.archs.graphs.plainunet import SLOPE, traits


class PlainUNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    width: channels of the encoder; the decoder has twice as many. head: channels of the last layers at full resolution.
    levels: halvings. The defaults have 7,935,555 parameters for colour.

    Departs: weights begin at the scale that keeps a signal's variance. A tenth of it, as published, lets five layers
    output little but their bias at first.
    """

    def __init__(self, channels: int = 3, width: int = 128, head: int = 96, levels: int = 5) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "width": width, "head": head, "levels": levels}
        self.channels = channels
        self.multiple = traits(self.config).multiple
        self.head = _conv(channels, width)
        self.encoders = nn.ModuleList(_conv(width, width) for _ in range(levels))
        self.middle = _conv(width, width)
        self.pool = nn.MaxPool2d(2)
        wide = 2 * width
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(source, source, 2, stride=2) for source in [width, *[wide] * (levels - 1)]
        )
        joined = [wide, *[wide + width] * (levels - 2)]
        self.decoders = nn.ModuleList(nn.Sequential(_conv(each, wide), _conv(wide, wide)) for each in joined)
        self.last = nn.Sequential(_conv(wide + channels, head), _conv(head, head))
        self.tail = nn.Sequential(_conv(head, head, 1), _conv(head, head, 1), nn.Conv2d(head, channels, 1))
        self.apply(_initialise)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        return traits(self.config).receptive_field

    def forward(self, noisy: Tensor) -> Tensor:
        features, skips = self.head(noisy), [noisy]
        for encode in self.encoders:
            features = self.pool(encode(features))
            skips.append(features)
        features = self.middle(skips.pop())
        for up, decode in zip(self.ups, [*self.decoders, self.last], strict=True):
            features = decode(torch.cat((up(features), skips.pop()), 1))
        restored: Tensor = self.tail(features)
        return restored


def _conv(source: int, target: int, side: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, target, side, padding=side // 2), nn.LeakyReLU(SLOPE, inplace=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, SLOPE, nonlinearity="leaky_relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
