"""LIR: an encoder of noisy images and a generator of clean ones, joined by a code without noise.

Du, Chen and Yang, Learning Invariant Representation for Unsupervised Image Restoration (CVPR 2020), section 3. In the
paper's notation: E_X and G_Y. What only trains (E_Y, E_N, G_X, discriminators) is in `medcli.methods.lir`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Latent = tuple[Tensor, ...]  # one level: the code
STEP = 4  # pixels of the image to one of the code, along a side
GAIN = 4.0  # of the pixels in the code, so that they vary about as much as the other features


class ImageNorm(nn.Module):
    """Layer normalisation of each image over all channels and pixels, then gain and bias for each channel.

    In float32: statistics of a large image do not fit half precision.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        whole = features.float()
        deviation, mean = torch.std_mean(whole, (1, 2, 3), keepdim=True)
        scaled = (whole - mean) / (deviation + 1e-5)
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(features.dtype)


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(min(8, width), width)


NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
    "layer": ImageNorm,
    "none": nn.Identity,
}
OUTPUTS: Mapping[str, Callable[[], nn.Module]] = {"linear": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
OVER_IMAGE = ("group", "layer")  # normalisations with statistics of the image


def convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    """With reflection padding and Kaiming's initialisation (normal, fan in), bias 0."""
    layer = nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, padding_mode="reflect")
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def unit(inputs: int, outputs: int, side: int, stride: int, norm: str) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(convolution(inputs, outputs, side, stride), NORMS[norm](outputs), nn.ReLU(inplace=True))


def down(channels: int, width: int, norm: str) -> nn.Sequential:
    """(B, channels, H, W) -> (B, 4 width, H / 4, W / 4)."""
    return nn.Sequential(
        unit(channels, width, 7, 1, norm),
        unit(width, 2 * width, 4, 2, norm),
        unit(2 * width, 4 * width, 4, 2, norm),
    )


class Block(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))). Without normalisation it starts near the identity."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        last = convolution(width, width, 3)
        if norm == "none":
            with torch.no_grad():
                last.weight.mul_(0.1)
        self.layers = nn.Sequential(*unit(width, width, 3, 1, norm), last, NORMS[norm](width))

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.layers(features)
        return out


class Carry(nn.Module):
    """Adds the image's pixels, filtered and then unfolded 4 by 4, to the first channels of its code.

    Features in these channels start at zero. What the 9x9 filter passes at first: "smooth" (a binomial filter, in which
    4 % of the variance of white noise is left), "rest" (what that removes), or "all".
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 9, padding=4, padding_mode="reflect", bias=False)
        scale = torch.ones(width, 1, 1)
        scale[: channels * STEP**2] = 0
        self.scale = nn.Parameter(scale)
        self.passes("smooth")

    @torch.no_grad()
    def passes(self, what: str) -> None:
        """Initialises the filter."""
        nn.init.dirac_(self.filter.weight)
        if what != "all":
            line = torch.tensor([1.0, 8, 28, 56, 70, 56, 28, 8, 1], device=self.filter.weight.device) / 256
            smooth = self.filter.weight[:, :, 4:5, 4:5] * line * line[:, None]
            self.filter.weight.copy_(smooth if what == "smooth" else self.filter.weight - smooth)

    def forward(self, code: Tensor, image: Tensor) -> Tensor:
        pixels = GAIN * F.pixel_unshuffle(self.filter(image - 0.5), STEP)
        return code * self.scale + F.pad(pixels, (0, 0, 0, 0, 0, code.shape[1] - pixels.shape[1]))


class Encoder(nn.Module):
    """(B, channels, H, W) float in [0, 1] -> its latent, the code (B, 4 width, H / 4, W / 4).

    carried: adds the image to the code (`Carry`).
    """

    def __init__(self, channels: int, width: int, blocks: int, norm: str, carried: bool) -> None:
        super().__init__()
        self.down = down(channels, width, norm)
        self.blocks = nn.Sequential(*(Block(4 * width, norm) for _ in range(blocks)))
        self.carry = Carry(channels, 4 * width) if carried else None

    def forward(self, image: Tensor) -> Latent:
        code: Tensor = self.blocks(self.down(image))
        return (code if self.carry is None else self.carry(code, image),)


class Generator(nn.Module):
    """A code (B, code_width, H / 4, W / 4) -> image (B, channels, H, W), about [0, 1].

    carried: places in the code of the first of the channels that carry pixels, which are added to the image; all else
    starts at zero.
    """

    def __init__(
        self,
        channels: int,
        code_width: int,
        blocks: int,
        norm: str,
        up_norm: str,
        output: str,
        carried: Sequence[int] = (),
    ) -> None:
        super().__init__()
        half, quarter = code_width // 2, code_width // 4
        self.blocks = nn.Sequential(*(Block(code_width, norm) for _ in range(blocks)))
        self.up_first = unit(code_width, half, 5, 1, up_norm)
        self.up_second = unit(half, quarter, 5, 1, up_norm)
        self.tail = convolution(quarter, channels, 7)
        self.output = OUTPUTS[output]()
        self.carried = [slice(place, place + channels * STEP**2) for place in carried]
        if carried:
            nn.init.zeros_(self.tail.weight)

    def forward(self, latent: Latent) -> Tensor:
        code = latent[0]
        features = self.up_first(F.interpolate(self.blocks(code), scale_factor=2.0))
        image: Tensor = self.output(self.tail(self.up_second(F.interpolate(features, scale_factor=2.0))))
        if not self.carried:
            return image
        pixels = torch.stack([code[:, place] for place in self.carried]).sum(0)
        return image + 0.5 + F.pixel_shuffle(pixels, STEP) / GAIN


class LIRNet(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of 8.

    width: d of the paper, where it is 64; the code has 4 d channels. blocks: residual blocks in each half. norm: of
    encoder and residual blocks, a key of `NORMS`; up_norm: of the layers that enlarge. "batch" and "none" give tiles
    that agree, "layer" and "group" depend on the whole image. output: a key of `OUTPUTS`, on what is generated.
    carried: the code's first channels carry the image's pixels, smoothed a little at first, to which both halves add
    what they learn.

    The paper's network is `width=64, blocks=4, norm="batch", up_norm="layer", output="tanh", carried=False`.
    Departs: by default the network is half as wide, without normalisation, and carries the pixels: then a few hundred
    steps show a gain (docs/benchmarks.md). An output of tanh cannot reach 1, where white is.
    """

    multiple = 2 * STEP  # of two pixels of the code, the least that can be reflected

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        blocks: int = 4,
        norm: str = "none",
        up_norm: str = "none",
        output: str = "linear",
        carried: bool = True,
    ) -> None:
        super().__init__()
        _check(channels, width, norm, up_norm, output, carried)
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "blocks": blocks,
            "norm": norm,
            "up_norm": up_norm,
            "output": output,
            "carried": carried,
        }
        self.channels, self.width = channels, width
        self.latent_widths = (4 * width,)
        self.global_context = not {norm, up_norm}.isdisjoint(OVER_IMAGE)
        self.encoder = Encoder(channels, width, blocks, norm, carried)
        self.decoder = self.generator(4 * width, [0] if carried else [])

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        encoder = 3 + 2 + 2 * 2
        blocks = 2 * 2 * int(self.config["blocks"]) * STEP
        generator = 2 * 2 + 2 + 3
        return encoder + blocks + generator + STEP - 1

    def encode(self, noisy: Tensor) -> Latent:
        """(B, C, H, W) float in [0, 1] -> the code, (B, 4 width, H / 4, W / 4)."""
        latent: Latent = self.encoder(noisy)
        return latent

    def decode(self, latent: Latent) -> Tensor:
        """The code -> (B, C, H, W), about [0, 1]."""
        image: Tensor = self.decoder(latent)
        return image

    def generator(self, code_width: int, carried: Sequence[int]) -> Generator:
        """A new generator of this kind for a code of this width."""
        of_config = {name: self.config[name] for name in ("channels", "blocks", "norm", "up_norm", "output")}
        return Generator(code_width=code_width, carried=carried, **of_config)

    def make_noise_network(self) -> LIRNet:
        """A new network of this size whose output is noise, zero at first."""
        network = LIRNet(**{**self.config, "output": "linear", "carried": False})
        nn.init.zeros_(network.decoder.tail.weight)
        return network

    def forward(self, noisy: Tensor) -> Tensor:
        return self.decode(self.encode(noisy))


def _check(channels: int, width: int, norm: str, up_norm: str, output: str, carried: bool) -> None:
    for kind, name, known in (("norm", norm, NORMS), ("up_norm", up_norm, NORMS), ("output", output, OUTPUTS)):
        if name not in known:
            raise ValueError(f"{kind} must be one of {', '.join(known)}, not {name!r}")
    if carried and 4 * width < channels * STEP**2:
        raise ValueError(f"width must be {channels * STEP} or more to carry the pixels of {channels} channels: {width}")
