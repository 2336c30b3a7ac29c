"""Hidden pixels and sub-images: pure functions for training and denoising.

An index map assigns each pixel, with all its channels, to one of several branches. In its branch a pixel is hidden and
predicted from the visible pixels; the predictions of all branches are combined. The value that replaces a hidden pixel
(`FILLS`) does not depend on it. So nothing that a network computes, averages over the whole image included, depends on
the value to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, channels_last, nn

from medcli.losses import Loss, mse

ROUND = 0x45D9F3B  # of the hash below; under 2^31, so that no product leaves int64
WORD = 0xFFFFFFFF
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
NEIGHBOURS = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))

Inpaint = Callable[[Tensor, Tensor], Tensor]


def split(images: Tensor, stride: int) -> Tensor:
    """Pixel-shuffle downsampling: (B, C, H, W) -> (B stride^2, C, H / stride, W / stride), any dtype.

    Sub-image i stride + j of an image holds its rows i, i + stride, ... and columns j, j + stride, ...
    H and W must be multiples of `stride`.
    """
    count, channels, height, width = images.shape
    parts = images.reshape(count, channels, height // stride, stride, width // stride, stride)
    return parts.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def join(parts: Tensor, stride: int) -> Tensor:
    """The inverse of `split`, bit for bit."""
    images = parts.reshape(-1, stride, stride, *parts.shape[1:]).permute(0, 3, 4, 1, 5, 2)
    return images.flatten(4, 5).flatten(2, 3)


def drawn(height: int, width: int, branches: int, generators: Sequence[Generator]) -> Tensor:
    """An index map for each generator: (B, 1, height, width) uint8 on the CPU, uniform over 0 to branches - 1."""
    shape = (1, height, width)
    return torch.stack([torch.randint(branches, shape, dtype=torch.uint8, generator=one) for one in generators])


def scattered(rows: Tensor, columns: Tensor, seed: int) -> Tensor:
    """(H,) and (W,) int64 -> (H, W) int64, uniform over 0 to 2^32 - 1: a hash of seed, row and column alone.

    A pixel gets the same number in every tile and on every device.
    """
    return _hash(_hash(_hash(torch.tensor(seed, device=rows.device)) ^ rows & WORD)[:, None] ^ columns & WORD)


def _hash(words: Tensor) -> Tensor:
    """Mixes the bits of words of 32 bits, held in int64."""
    for _ in range(2):
        words = (words ^ (words >> 16)) * ROUND & WORD
    return words ^ (words >> 16)


def zero(images: Tensor, hidden: Tensor) -> Tensor:
    """(B, C, H, W) with zero where `hidden`, (B, 1, H, W) bool."""
    return images.masked_fill(hidden, 0.0)


def mean(images: Tensor, hidden: Tensor) -> Tensor:
    """(B, C, H, W) with a weighted mean of the visible neighbours where `hidden`, (B, 1, H, W) bool.

    The weights are binomial, 5 x 5; where none of these pixels is visible, it is zero.
    """
    channels, row = images.shape[1], torch.tensor(BINOMIAL, device=images.device)
    weights = torch.outer(row, row).expand(channels, 1, 5, 5)
    with torch.autocast(images.device.type, enabled=False):
        visible = zero(images, hidden).float()
        total = F.conv2d(visible, weights, padding=2, groups=channels)
        count = F.conv2d((~hidden).float(), weights[:1], padding=2)
        return torch.where(hidden, total / count.clamp(min=1), visible)


def around(images: Tensor, hidden: Tensor) -> Tensor:
    """(B, C, H, W) with the mean of the eight neighbours where `hidden`; the four closest have weight 2.

    hidden: (B, 1, H, W) bool. None of these eight may be hidden.
    """
    kernel = torch.tensor(NEIGHBOURS, device=images.device, dtype=images.dtype)
    channels = images.shape[1]
    weight = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    with torch.autocast(images.device.type, enabled=False):
        mean = F.conv2d(F.pad(images, (1, 1, 1, 1), "reflect"), weight, groups=channels)
    return torch.where(hidden, mean, images)


FILLS: Mapping[str, Inpaint] = {"zero": zero, "mean": mean}
FILL_REACH: Mapping[str, int] = {"zero": 0, "mean": 2}  # pixels of a sub-image


def predict(network: nn.Module, images: Tensor, hidden: Tensor, fill: Inpaint = zero) -> Tensor:
    """The network's output, float32, for images with hidden pixels: (B, C, H, W), hidden (B, 1, H, W) bool.

    Only its values at hidden pixels are predictions.
    """
    seen = fill(images, hidden).contiguous(memory_format=channels_last)
    output: Tensor = network(seen)
    return output.float()


def stitched(
    network: nn.Module, noisy: Tensor, index: Tensor, *, branches: int, stride: int = 1, fill: Inpaint = zero
) -> Tensor:
    """Every pixel as predicted in its own branch: (B, C, H, W) -> same shape, float32.

    index: (B or 1, 1, H, W); where it is `branches` or more, the result is 0. stride: of the sub-images, whose sides
    must be multiples of the network's. The network runs `branches` times. A sub-image that a branch hides completely,
    as happens with an image of one or two pixels, is returned unchanged.
    """
    parts = split(noisy, stride)
    owners = split(index.to(noisy.device).expand(len(noisy), -1, -1, -1), stride)
    answer = torch.zeros_like(parts, dtype=torch.float32)
    for branch in range(branches):
        hidden = owners == branch
        predicted = torch.where(hidden.all(2, True).all(3, True), parts, predict(network, parts, hidden, fill))
        answer = torch.where(hidden, predicted, answer)
    return join(answer, stride)


def hidden_pixel_error(
    network: nn.Module,
    noisy: Tensor,
    index: Tensor,
    *,
    branches: int = 2,
    stride: int = 1,
    fill: Inpaint = zero,
    loss: Loss = mse,
) -> Tensor:
    """The error of each image's pixels as predicted while hidden: (B, C, H, W) -> (B,).

    index: (B or 1, 1, H, W); pixels of `branches` or more are always visible and not counted.
    No clean image is needed. If the noise has zero mean and is uncorrelated at a distance of `stride` pixels, the mean
    squared error is that to the clean image plus the variance of the noise: the difference of two networks, on images
    that neither was trained on and with the same `index`, estimates the difference of their true errors.
    """
    restored = stitched(network, noisy, index, branches=branches, stride=stride, fill=fill)
    hidden = (index < branches).to(noisy.device).expand(len(noisy), -1, -1, -1)
    return torch.stack([_error(*each, loss) for each in zip(restored, noisy, hidden, strict=True)])


@dataclass(frozen=True)
class PixelHiding:
    """How pixels are hidden to compare two networks: arguments of `hidden_pixel_error`.

    maps: (count, side, seed) -> index maps, each (count or 1, 1, side, side).
    """

    branches: int
    stride: int
    fill: Inpaint
    maps: Callable[[int, int, int], Sequence[Tensor]]

    def error(self, network: nn.Module, noisy: Tensor, indices: Sequence[Tensor]) -> Tensor:
        """(N, C, H, W) -> (N,), the mean over index maps."""
        how: dict[str, Any] = {"branches": self.branches, "stride": self.stride, "fill": self.fill}
        return torch.stack([hidden_pixel_error(network, noisy, index, **how) for index in indices]).mean(0)


def error_where(restored: Tensor, noisy: Tensor, hidden: Tensor, loss: Loss) -> Tensor:
    """The mean over images of the loss at their hidden pixels: a scalar.

    restored, noisy: (B, C, H, W). hidden: (B, 1, H, W) bool. Raises ValueError for an image without hidden pixels.
    """
    return torch.stack([_error(*each, loss) for each in zip(restored, noisy, hidden, strict=True)]).mean()


def _error(restored: Tensor, noisy: Tensor, hidden: Tensor, loss: Loss) -> Tensor:
    rows, columns = hidden[0].nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError("an image has no hidden pixel")
    return loss(*(image[:, rows, columns][None, :, None] for image in (restored, noisy)))


def roughness(images: Tensor) -> Tensor:
    """The mean length of the gradient: (B, C, H, W) -> scalar, in the images' own unit per pixel.

    Isotropic total variation, with 1e-8 under the root; without the last row and column.
    """
    corner = images[..., :-1, :-1]
    down, right = images[..., 1:, :-1] - corner, images[..., :-1, 1:] - corner
    return (down.square() + right.square() + 1e-8).sqrt().mean()
