"""A residual U-Net split into encoder and decoder with a latent at every level: disentanglement on a CPU.

As fast as the network of `unet.py`, of whose blocks it is made, but with no way from the image to the answer except
through the latent: a tuple with one tensor for each level, finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.archs.graphs.split import traits
from medcli.archs.push_pull import fill_missing
from medcli.archs.unet import ResidualBlock

Latent = tuple[Tensor, ...]


def _stage(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))


class Encoder(nn.Module):
    """Image (B, channels, H, W) -> latent of (B, widths[i], H / u / 2^i, W / u / 2^i), with u = unshuffle.

    missing: whether pixels that are 0 in all channels are missing; they are filled, and a further input channel marks
    them.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], unshuffle: int, missing: bool
    ) -> None:
        super().__init__()
        self.unshuffle, self.missing = unshuffle, missing
        self.head = nn.Conv2d((channels + missing) * unshuffle**2, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.stages = nn.ModuleList(_stage(width, depth) for width, depth in zip(widths, blocks, strict=True))

    def forward(self, noisy: Tensor) -> Latent:
        if self.missing:
            missing = noisy.eq(0).all(1, keepdim=True)
            multiple = self.unshuffle << len(self.downs)
            levels = (multiple & -multiple).bit_length() - 1
            noisy = torch.cat([fill_missing(noisy, missing, levels), missing + 0.5], 1)
        # Centred, so that zero padding means mid-grey and bf16 has one more bit of precision.
        latent = [self.stages[0](self.head(F.pixel_unshuffle(noisy - 0.5, self.unshuffle)))]
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            latent.append(stage(down(latent[-1])))
        return tuple(latent)


class Decoder(nn.Module):
    """Latent -> image, or zero-mean noise."""

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], unshuffle: int, noise: bool
    ) -> None:
        super().__init__()
        self.unshuffle, self.noise = unshuffle, noise
        self.stages = nn.ModuleList(_stage(width, depth) for width, depth in zip(widths, blocks, strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.tail = nn.Conv2d(widths[0], channels * unshuffle**2, 3, padding=1)

    def forward(self, latent: Latent) -> Tensor:
        features = self.stages[-1](latent[-1])
        for level in reversed(range(len(self.ups))):
            features = self.stages[level](self.ups[level](features) + latent[level])
        image = F.pixel_shuffle(self.tail(features), self.unshuffle)
        return image if self.noise else image + 0.5


class SplitUNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    widths: channels of each level, finest first. encoders, decoders: residual blocks of each level on either side of
    the latent, one entry for each width. unshuffle: side of the pixel block that becomes channels before the first
    convolution. noise: output zero-mean noise of the same shape instead of an image.

    A fresh network is the identity: the finest latent carries the unshuffled image in its first channels, and the
    decoder starts as the one that reads them out. A new network for noise outputs zero.
    """

    masks_missing = False

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (48, 96, 128, 160),
        encoders: Sequence[int] = (1, 2, 2, 2),
        decoders: Sequence[int] = (1, 2, 2, 1),
        unshuffle: int = 2,
        noise: bool = False,
    ) -> None:
        super().__init__()
        _check(channels, widths, encoders, decoders, unshuffle)
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "encoders": list(encoders),
            "decoders": list(decoders),
            "unshuffle": unshuffle,
            "noise": noise,
        }
        self.channels = channels
        self.multiple = traits(self.config).multiple
        self.latent_widths = tuple(widths)
        self.encoder = Encoder(channels, widths, encoders, unshuffle, self.masks_missing)
        self.decoder = Decoder(channels, widths, decoders, unshuffle, noise)
        nn.init.zeros_(self.decoder.tail.weight)
        nn.init.zeros_(self.decoder.tail.bias)  # type: ignore[arg-type]
        if not noise:
            _start_as_identity(self.encoder, self.decoder)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        return traits(self.config).receptive_field

    def encode(self, noisy: Tensor) -> Latent:
        """(B, C, H, W) float in [0, 1] -> the latent, finest level first."""
        latent: Latent = self.encoder(noisy)
        return latent

    def decode(self, latent: Latent) -> Tensor:
        """The latent -> (B, C, H, W), about [0, 1]."""
        image: Tensor = self.decoder(latent)
        return image

    def make_noise_network(self) -> SplitUNet:
        """A new network of this size that outputs noise."""
        return type(self)(**{**self.config, "noise": True})

    def forward(self, noisy: Tensor) -> Tensor:
        return self.decode(self.encode(noisy))


class InpaintUNet(SplitUNet):
    """A `SplitUNet` for missing pixels: those that are 0 in all channels, as `medcli.noise.drop` leaves them.

    The encoder sees them filled by push-pull, and a mask of them as a further channel. A fresh network fills them so
    and changes no others.
    """

    masks_missing = True


@torch.no_grad()
def _start_as_identity(encoder: Encoder, decoder: Decoder) -> None:
    """Initialises head and tail to pass the image through the first channels, to which other layers add zero."""
    folded = decoder.tail.out_channels
    nn.init.dirac_(decoder.tail.weight)
    stages = (*encoder.stages[0].modules(), *decoder.stages[0].modules())
    blocks = [block for block in stages if isinstance(block, ResidualBlock)]
    for writer in (encoder.head, *(block.second for block in blocks)):
        for parameter in writer.parameters():
            parameter[:folded] = 0
    for parameter in decoder.ups[:1].parameters():  # a transposed convolution has its outputs second
        (parameter.transpose(0, 1) if parameter.ndim > 1 else parameter)[:folded] = 0
    encoder.head.weight[range(folded), range(folded), 1, 1] = 1


def _check(
    channels: int, widths: Sequence[int], encoders: Sequence[int], decoders: Sequence[int], unshuffle: int
) -> None:
    if not len(widths) == len(encoders) == len(decoders):
        raise ValueError(f"encoders and decoders must have {len(widths)} entries, one for each width")
    if widths[0] < channels * unshuffle**2:
        raise ValueError(f"the first width must hold {channels * unshuffle**2} channels of the image: {widths[0]}")
