"""LUD-VAE: adds noise to a clean image, with latents learned from noisy images of other scenes.

Zheng et al., Learn from Unpaired Data for Image Restoration: A Variational Bayes Approach (TPAMI 2023), section 3.

In the paper's notation: z is the content of the image, z_n its noise, h the added Gaussian noise that makes clean and
noisy images similar. This module has the parts of the final model: content encoder, noise priors, decoder. The encoder
of z_n is used in training only (`medcli.methods.ludvae`). Attributes have the names of the published weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LEVELS = 3
ROUGH = 0.25  # scale of PyTorch's random weights, added to those of the identity
LEAST, MOST = -10.0, 4.0  # logarithms of a standard deviation


class Gaussian(NamedTuple):
    """One normal distribution for each element. log_std: of the standard deviation."""

    mean: Tensor
    log_std: Tensor

    def at(self, normal: Tensor) -> Tensor:
        """The sample for standard normal numbers."""
        return self.mean + self.log_std.exp() * normal


Content = tuple[Tensor, Tensor, Tensor]
Given = Callable[[Tensor], Gaussian]
"""A distribution of latents, (B, width, H, W), given the features decoded so far, of the same shape."""
Latents = Callable[[int, Tensor, Given], Tensor]
"""(level, decoded so far, prior) -> the noise latents of this level, (B, width, H, W)."""
Normal = Callable[[int, int], Tensor]
"""(level, channels) -> (B, channels, H, W) standard normal numbers; levels 3 to 1 are of latents, 0 is that of h."""


def lift(channels: int, width: int) -> nn.Conv2d:
    """Channels -> pairs of features with opposite signs, so that a ReLU loses no information."""
    layer = nn.Conv2d(channels, width, 1)
    half = torch.linalg.qr(torch.randn(max(width // 2, channels), min(width // 2, channels))).Q
    half = half if width // 2 >= channels else half.T
    return _started(layer, torch.cat((half, -half)), rough=0.0)


class Block(nn.Module):
    """Four convolutions with ReLU between them, of radius 4 pixels. Initialised as the identity on paired features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        pairs = torch.eye(width // 2).repeat(2, 2) * torch.tensor([1.0, -1.0]).repeat_interleave(width // 2)
        pairs[width // 2 :] *= -1
        convolutions = [
            _started(nn.Conv2d(width, width, 3, padding=1), pairs / 2 if first else pairs)
            for first in (True, False, False, False)  # no ReLU before the first, so both features of a pair contribute
        ]
        layers = [layer for each in convolutions for layer in (each, nn.ReLU())]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.net(features)
        return out


class Gauss(nn.Module):
    """A normal distribution whose parameters are linear in the features of a pixel.

    Departs: the logarithm of the standard deviation is clamped to [-10, 4].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.m, self.v = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Gaussian:
        return Gaussian(self.m(features), self.v(features).clamp(LEAST, MOST))


class Proj(nn.Module):
    """Projects two concatenated feature maps to the width of one; initialised as their weighted mean."""

    def __init__(self, width: int, second: float = 0.5) -> None:
        super().__init__()
        mean = torch.cat(((1 - second) * torch.eye(width), second * torch.eye(width)), 1)
        self.proj = _started(nn.Conv2d(2 * width, width, 1), mean)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        joined: Tensor = self.proj(torch.cat((first, second), 1))
        return joined


@torch.no_grad()
def _started(layer: nn.Conv2d, weights: Tensor, rough: float = ROUGH) -> nn.Conv2d:
    """Adds these weights (out, in) to the centre of the kernel, and scales the random ones by `rough`."""
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    middle = layer.kernel_size[0] // 2
    layer.weight.mul_(rough)
    layer.weight[: len(weights), : weights.shape[1], middle, middle] += weights
    return layer


class LUDVAE(nn.Module):
    """Restores deterministically: (B, C, H, W) float in [0, 1] -> same shape. `sample` generates noise.

    width: of all maps, each at full resolution; 128 in the paper. sigma_x, sigma_y: of h on clean and on noisy images
    in training, in grey levels of 255. gain, offset: for each channel, such that noisy * gain + offset has the mean and
    the standard deviation of clean images; empty for 1 and 0.

    Departs: a new network is close to the identity. With PyTorch's initialisation, as published, the output of 24
    layers is constant at first, and it takes many thousands of steps until noise is learned.
    """

    multiple = 1
    receptive_field = 8 * LEVELS

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        sigma_x: float = 40.0,
        sigma_y: float = 20.0,
        gain: Sequence[float] = (),
        offset: Sequence[float] = (),
    ) -> None:
        super().__init__()
        _check(channels, sigma_x, sigma_y, gain, offset)
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "sigma_x": sigma_x,
            "sigma_y": sigma_y,
            "gain": list(gain),
            "offset": list(offset),
        }
        self.channels, self.width, self.sigma_x, self.sigma_y = channels, width, sigma_x, sigma_y
        self.inconv = lift(channels, width)
        read = torch.linalg.pinv(self.inconv.weight.detach()[:, :, 0, 0])
        self.outconv = _started(nn.Conv2d(width, channels, 1), read)
        self.enc_1, self.enc_2, self.enc_3 = Block(width), Block(width), Block(width)
        self.dec_1, self.dec_2, self.dec_3 = Block(width), Block(width), Block(width)
        self.Gauconv_p_1, self.Gauconv_p_2 = Gauss(width), Gauss(width)
        self.proj_1, self.proj_2, self.proj_3 = (Proj(width, second=0.0) for _ in range(3))
        self.proj_c_1, self.proj_c_2 = Proj(width), Proj(width)

    def forward(self, noisy: Tensor) -> Tensor:
        """The clean image of a noisy one (N2C): its content, decoded with zero noise latents."""
        return self.decode(self.content(self.matched(noisy)), nothing)

    def sample(self, clean: Tensor, normal: Normal, *, sigma: float, temperature: float = 1.0) -> Tensor:
        """(B, C, H, W) float in [0, 1] -> a noisy image of the same shape, not clipped (C2N).

        sigma: of h, in grey levels; the more, the more noise. temperature: factor on the latents, 0 for none. What is
        drawn is all in `normal`: the same numbers give the same image.
        """

        def latents(level: int, decoded: Tensor, prior: Given) -> Tensor:
            return temperature * prior(decoded).at(normal(level, self.width))

        hidden = clean + sigma / 255 * normal(0, self.channels)
        return self.unmatched(self.decode(self.content(hidden), latents if temperature else nothing))

    def restore(self, noisy: Tensor, normal: Normal, *, sigma: float) -> Tensor:
        """What a call gives where h, of this sigma in grey levels, is added to the noisy image first."""
        restored: Tensor = self(noisy + sigma / 255 * normal(0, self.channels))
        return restored

    def content(self, image: Tensor) -> Content:
        """h of an image, (B, C, H, W) -> z, three times (B, width, H, W), deepest first (section 3.3)."""
        near = self.enc_1(self.inconv(image))
        middle = self.enc_2(near)
        return self.enc_3(middle), middle, near

    def decode(self, content: Content, latents: Latents) -> Tensor:
        """z and z_n -> the image, (B, C, H, W) in the scale of clean ones.

        Departs: priors see what is decoded so far, and with it the content, as in the published code; p(z_n) of
        equation 12 does not. So noise may depend on brightness.
        """
        deep, middle, near = content
        decoded = self.proj_3(deep, latents(3, deep, standard))
        decoded = self.proj_c_2(self.dec_3(decoded), middle)
        decoded = self.proj_2(decoded, latents(2, decoded, self.Gauconv_p_2))
        decoded = self.proj_c_1(self.dec_2(decoded), near)
        decoded = self.proj_1(decoded, latents(1, decoded, self.Gauconv_p_1))
        image: Tensor = self.outconv(self.dec_1(decoded))
        return image

    def matched(self, noisy: Tensor) -> Tensor:
        """A noisy image with the mean and deviation of clean ones. Departs: not clipped, so it can be undone."""
        if not self.config["gain"]:
            return noisy
        gain, offset = self._statistics(noisy)
        return noisy * gain + offset

    def unmatched(self, image: Tensor) -> Tensor:
        """The way back."""
        if not self.config["gain"]:
            return image
        gain, offset = self._statistics(image)
        return (image - offset) / gain

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset, each (C, 1, 1)."""
        gain, offset = (torch.tensor(self.config[name]).to(like)[:, None, None] for name in ("gain", "offset"))
        return gain, offset


def standard(like: Tensor) -> Gaussian:
    """Of mean 0 and deviation 1: the prior at the deepest level."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))


def nothing(level: int, decoded: Tensor, prior: Given) -> Tensor:
    """The noise latents of a clean image."""
    return torch.zeros_like(decoded)


def _check(channels: int, sigma_x: float, sigma_y: float, gain: Sequence[float], offset: Sequence[float]) -> None:
    if min(sigma_x, sigma_y) < 0:
        raise ValueError(f"sigma_x and sigma_y must be 0 or more, not {sigma_x:g} and {sigma_y:g}")
    if not len(gain) == len(offset) in (0, channels):
        raise ValueError(f"gain and offset must have an entry for each of {channels} channels, or none")
    if any(each <= 0 for each in gain):
        raise ValueError(f"the gain of a channel must be above 0: {list(gain)}")
