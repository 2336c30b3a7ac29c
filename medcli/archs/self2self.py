"""The network of Self2Self: a U-Net whose encoder ignores hidden pixels and whose decoder can be thinned at random.

Quan, Chen, Pang and Ji, Self2Self with Dropout: Learning Self-Supervised Denoising from Single Image (CVPR 2020),
section 3.1; partial convolutions by Liu et al., Image Inpainting for Irregular Holes Using Partial Convolutions
(ECCV 2018), equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
LEVELS = 5
LAST = (64, 32)  # widths of the last two hidden layers, at full resolution

Thin = Callable[[Tensor, int], Tensor]
"""(B, C, h, w) before the decoder's convolution of this number, 0 to 10 -> same shape: dropout."""


class Self2SelfNetwork(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape, within (0, 1); H and W must be multiples of 32.

    width: channels of the encoder; the decoder has twice as many. pyramid: whether the image, reduced to 1/2 to 1/16,
    is added to the encoder's features of these sizes (NVT, thesis, section 7.4). The defaults have 991,203 parameters.

    With `visible`, (B, C, H, W) of 0 and 1, hidden pixels have no influence. Without it all are visible, and the
    partial convolutions are plain ones with the same weights. `thin` replaces the decoder's dropout: whoever runs the
    network draws the random numbers.

    Departs: a partial convolution is scaled by 9 C / (number of visible elements), as in its paper; the published code
    divides by the number of input channels once more. Features are padded by repetition, once; the code pads twice,
    which shifts them by some pixels. Both only change what training has to learn.
    """

    multiple = 2**LEVELS
    takes_masks = True

    def __init__(self, channels: int = 3, width: int = 48, pyramid: bool = False) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "width": width, "pyramid": pyramid}
        self.channels = channels
        wide = 2 * width
        self.encoder = nn.ModuleList(nn.Conv2d(n, width, 3) for n in (channels, *[width] * (LEVELS + 1)))
        joined = [(2 * width, wide, wide), *[(wide + width, wide, wide)] * (LEVELS - 2), (wide + channels, *LAST)]
        self.decoder = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in ((one, two), (two, three)))
            for one, two, three in joined
        )
        self.output = nn.Conv2d(LAST[1], channels, 3, padding=1)
        injections = LEVELS - 1 if pyramid else 0
        self.inject = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1) for _ in range(injections))
        self._initialise()

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        convolutions = 5 + sum((2**level) * (3 if level < LEVELS else 1) for level in range(1, LEVELS + 1))
        return int(convolutions + 2 * (self.multiple - 1))  # of pooling and of enlarging

    def forward(self, noisy: Tensor, visible: Tensor | None = None, thin: Thin | None = None) -> Tensor:
        return self.restored(self.decode(self.encode(noisy, visible), thin=thin), thin)

    def encode(self, noisy: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """The image itself, features at 1/2 to 1/16, and those of the bottom at 1/32."""
        if visible is not None:
            noisy = noisy * visible
        small, seen = noisy, visible
        features, mask = self._partial(0, noisy, visible)
        skips = [noisy]
        for number in range(1, LEVELS + 1):
            features, mask = self._partial(number, features, mask)
            features = F.max_pool2d(features, 2)
            mask = mask if mask is None else F.max_pool2d(mask, 2)
            if number <= len(self.inject):
                small, seen = reduced(small, seen)
                features = features + self.inject[number - 1](small)
            skips.append(features)
        skips[-1], _ = self._partial(LEVELS + 1, features, mask)
        return skips

    def decode(self, skips: Sequence[Tensor], beside: Sequence[Tensor] = (), thin: Thin | None = None) -> list[Tensor]:
        """Features at 1/16, 1/8, 1/4, 1/2 and 1/1. beside: added to what the first convolution of a level gives."""
        *skips, features = skips
        found: list[Tensor] = []
        pairs: Any = enumerate(self.decoder)
        for level, (first, second) in pairs:
            features = torch.cat((F.interpolate(features, scale_factor=2.0), skips.pop().to(features.dtype)), 1)
            features = first(thin(features, 2 * level) if thin else features)
            features = F.leaky_relu(features + beside[level] if level < len(beside) else features, SLOPE)
            features = F.leaky_relu(second(thin(features, 2 * level + 1) if thin else features), SLOPE)
            found.append(features)
        return found

    def restored(self, levels: Sequence[Tensor], thin: Thin | None = None) -> Tensor:
        """The image, from the decoder's features. In fp32: 8 bits of precision are too few for an image."""
        features = thin(levels[-1], 2 * LEVELS) if thin else levels[-1]
        with nullcontext() if features.is_meta else torch.autocast(features.device.type, enabled=False):
            return torch.sigmoid(self.output(features.float()))

    def _partial(self, number: int, features: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One layer of the encoder. visible: (B, C or 1, h, w), with 1 for all channels; features are 0 elsewhere."""
        convolution: Any = self.encoder[number]
        padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
        if visible is None:
            return F.leaky_relu(convolution(padded), SLOPE), None
        share = F.avg_pool2d(F.pad(visible.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), 3, 1)
        seen = (share > 0).to(features.dtype)
        bias = convolution.bias[:, None, None]
        scaled = F.conv2d(padded, convolution.weight) / share.clamp(min=1e-3) + bias
        return F.leaky_relu(scaled, SLOPE) * seen, seen

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.encoder:
            nn.init.xavier_uniform_(module.weight)  # type: ignore[arg-type]
        nn.init.kaiming_normal_(self.output.weight, nonlinearity="linear")
        for module in self.inject:
            nn.init.zeros_(module.weight)  # type: ignore[arg-type]


def reduced(image: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Half the size, by the mean of 2 x 2 elements, of the visible ones only; and the share that was visible.

    image: (B, C, H, W). visible: same shape, 0 to 1. Elements of which nothing is visible are 0.
    """
    if visible is None:
        return F.avg_pool2d(image, 2), None
    share = F.avg_pool2d(visible, 2)
    return F.avg_pool2d(image * visible, 2) / share.clamp(min=1e-6), share
