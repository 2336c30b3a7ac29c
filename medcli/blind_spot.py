"""Hidden pixels and sub-images: pure functions that training and denoising share.

An index map gives each pixel, with all its channels, to one of several branches. In its own branch a pixel is hidden
and is guessed from what is visible; what the branches guess is put together. What stands in a hidden pixel's place
(`FILLS`) knows nothing of it. Nothing that a network computes from there, an average over the whole image included,
can know the value that it is to guess.
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
    """An index map for each generator: (B, 1, height, width) uint8 on the CPU, even over 0 to branches - 1."""
    shape = (1, height, width)
    return torch.stack([torch.randint(branches, shape, dtype=torch.uint8, generator=one) for one in generators])


def scattered(rows: Tensor, columns: Tensor, seed: int) -> Tensor:
    """(H,) and (W,) int64 -> (H, W) int64, even over 0 to 2^32 - 1: a hash of seed, row and column alone.

    The same place draws the same number whichever tile it is seen in, on every device.
    """
    return _hash(_hash(_hash(torch.tensor(seed, device=rows.device)) ^ rows & WORD)[:, None] ^ columns & WORD)


def _hash(words: Tensor) -> Tensor:
    """Mixes the bits of words of 32 bits, held in int64."""
    for _ in range(2):
        words = (words ^ (words >> 16)) * ROUND & WORD
    return words ^ (words >> 16)


def zero(images: Tensor, hidden: Tensor) -> Tensor:
    """(B, C, H, W) with zero where `hidden`, (B, 1, H, W) bool, as in the paper."""
    return images.masked_fill(hidden, 0.0)


def mean(images: Tensor, hidden: Tensor) -> Tensor:
    """(B, C, H, W) with a weighted mean of the visible pixels around where `hidden`, (B, 1, H, W) bool.

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
    """(B, C, H, W) with the mean of the eight pixels around, those at the sides counting double, where `hidden`.

    hidden: (B, 1, H, W) bool. None of these eight is hidden itself.
    """
    kernel = torch.tensor(NEIGHBOURS, device=images.device, dtype=images.dtype)
    channels = images.shape[1]
    weight = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    with torch.autocast(images.device.type, enabled=False):
        mean = F.conv2d(F.pad(images, (1, 1, 1, 1), "reflect"), weight, groups=channels)
    return torch.where(hidden, mean, images)


FILLS: Mapping[str, Inpaint] = {"zero": zero, "mean": mean}
FILL_REACH: Mapping[str, int] = {"zero": 0, "mean": 2}  # pixels of a sub-image that a fill looks around


def guess(network: nn.Module, images: Tensor, hidden: Tensor, fill: Inpaint = zero) -> Tensor:
    """The network's answer, float32, to images with hidden pixels: (B, C, H, W), hidden (B, 1, H, W) bool.

    It counts only where pixels are hidden.
    """
    seen = fill(images, hidden).contiguous(memory_format=channels_last)
    answer: Tensor = network(seen)
    return answer.float()


def stitched(
    network: nn.Module, noisy: Tensor, index: Tensor, *, branches: int, stride: int = 1, fill: Inpaint = zero
) -> Tensor:
    """Every pixel as it was guessed in its own branch: (B, C, H, W) -> same shape, float32.

    index: (B or 1, 1, H, W); where it is `branches` or more, the answer is 0. stride: of the sub-images, whose sides
    must suit the network. The network runs `branches` times. A sub-image that a branch hides completely, as happens
    with an image of one or two pixels, leaves nothing to guess from: its pixels come back as they are.
    """
    parts = split(noisy, stride)
    owners = split(index.to(noisy.device).expand(len(noisy), -1, -1, -1), stride)
    answer = torch.zeros_like(parts, dtype=torch.float32)
    for branch in range(branches):
        hidden = owners == branch
        guessed = torch.where(hidden.all(2, True).all(3, True), parts, guess(network, parts, hidden, fill))
        answer = torch.where(hidden, guessed, answer)
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
    """How far each image's pixels are from what was guessed while they were hidden: (B, C, H, W) -> (B,).

    index: (B or 1, 1, H, W); pixels of `branches` or more are always visible, and do not count.
    No clean image is needed. Where the noise has no mean and pixels `stride` apart do not share it, the mean squared
    error is that to the clean image plus the variance of the noise: the difference of two networks, on images that
    neither was trained on and with one `index`, estimates the difference of their true errors.
    """
    restored = stitched(network, noisy, index, branches=branches, stride=stride, fill=fill)
    hidden = (index < branches).to(noisy.device).expand(len(noisy), -1, -1, -1)
    return torch.stack([_error(*each, loss) for each in zip(restored, noisy, hidden, strict=True)])


@dataclass(frozen=True)
class PixelHiding:
    """What is hidden to compare two networks: arguments of `hidden_pixel_error`.

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
    """The loss at the hidden pixels of each image, and the mean of that: a scalar.

    restored, noisy: (B, C, H, W). hidden: (B, 1, H, W) bool. Raises ValueError for an image that hides nothing.
    """
    return torch.stack([_error(*each, loss) for each in zip(restored, noisy, hidden, strict=True)]).mean()


def _error(restored: Tensor, noisy: Tensor, hidden: Tensor, loss: Loss) -> Tensor:
    places = hidden[0].nonzero(as_tuple=True)
    if not len(places[0]):
        raise ValueError("an image without a hidden pixel has nothing to be judged by")
    return loss(*(image[:, places[0], places[1]][None, :, None] for image in (restored, noisy)))


def roughness(images: Tensor) -> Tensor:
    """The mean length of the gradient: (B, C, H, W) -> scalar, in the images' own unit per pixel.

    Isotropic total variation, with 1e-8 under the root; the last row and column have no successor and do not count.
    """
    corner = images[..., :-1, :-1]
    down, right = images[..., 1:, :-1] - corner, images[..., :-1, 1:] - corner
    return (down.square() + right.square() + 1e-8).sqrt().mean()
