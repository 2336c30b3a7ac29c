"""Training samples: random crops, flipped and rotated, with synthetic or recorded noise. Every draw is keyed.

Sample `index` of step `step` is a pure function of (seed, step, index): independent of the number of workers and
processes, and of interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from medcli.data.cache import PixelCache
from medcli.data.variation import Variation
from medcli.images.values import dtype_range
from medcli.noise.base import Noise, uniform
from medcli.noise.views import views
from medcli.seeding import derived_seed, keyed_generator

Clean = Literal["none", "paired", "unpaired"]
Stacked = tuple[list[Tensor], Tensor | None, Tensor]


class Sample(NamedTuple):
    """views: noisy images of one scene, each (C, patch, patch) float32. clean: same shape. key: for further draws."""

    views: Sequence[Tensor]
    clean: Tensor | None
    key: int


class SampleSource(Protocol):
    """Where samples come from."""

    def sample(self, step: int, index: int) -> Sample: ...

    def release(self) -> None:
        """Releases the memory of mapped images."""


@dataclass(frozen=True)
class Crop:
    """A position in an image, the side there and in the patch, and one of the eight flips and rotations."""

    top: int
    left: int
    side: int
    patch: int
    turn: int

    def cut(self, pixels: NDArray[Any], channels: int) -> Tensor:
        """(H, W, C) -> (channels, patch, patch) float32; integers span [0, 1], floats keep their values."""
        window = as_unit(pixels[self.top : self.top + self.side, self.left : self.left + self.side])
        if self.side != self.patch:
            window = cv2.resize(window, (self.patch, self.patch), interpolation=cv2.INTER_CUBIC).clip(0, 1)
            window = window.reshape(self.patch, self.patch, -1)
        patch = torch.from_numpy(_with_channels(window, channels)).permute(2, 0, 1)
        if self.turn & 1:
            patch = patch.flip(2)
        return torch.rot90(patch, self.turn >> 1, (1, 2)).contiguous()


@dataclass(frozen=True)
class CropSampler:
    """How frames are drawn.

    patch: side in pixels. channels: of the patch; 3 repeats gray, 1 takes the mean of colours.
    enlarge_share: share of crops that are enlarged by a factor from U(1, 2.2) before the noise. Photographs at the
    camera's own resolution are softer than the downscaled images that one trains on.
    """

    patch: int
    channels: int = 3
    enlarge_share: float = 0.0

    def draw(self, pixels: NDArray[Any], generator: Generator) -> Crop:
        """A frame within `pixels`, (H, W, C)."""
        side = self.patch
        if uniform(0, 1, generator) < self.enlarge_share:
            side = round(self.patch / uniform(1.0, 2.2, generator))
        top, left = (_below(length - side + 1, generator) for length in pixels.shape[:2])
        return Crop(top, left, side, self.patch, _below(8, generator))


@dataclass(frozen=True)
class SyntheticPairs:
    """Clean images that are made noisy. views, alike, clean: as in `medcli.methods.base.Needs`.

    variation: of the sample, for methods that take clean images. others: where `clean="unpaired"` come
    from, the same images unless given. mixup: share of samples whose clean image is mixed with another one.
    """

    images: PixelCache
    noise: Noise
    crop_sampler: CropSampler
    seed: int
    views: int = 1
    alike: bool = False
    clean: Clean = "paired"
    variation: Variation | None = None
    others: PixelCache | None = None
    mixup: float = 0.0

    def sample(self, step: int, index: int) -> Sample:
        generator = keyed_generator(self.seed, step, index)
        clean = _patch(self.images, self.crop_sampler, generator)
        if self.mixup and uniform(0, 1, generator) < self.mixup:
            clean = mixed(clean, _patch(self.images, self.crop_sampler, generator), generator)
        if self.variation:
            clean, noisy = self.variation.views(clean, self.noise, generator, self.views)
        elif self.alike:
            noisy = list(views(self.noise, clean, generator, self.views))
        else:
            noisy = [self.noise(clean, generator) for _ in range(self.views)]
        key = derived_seed(self.seed, step, index, "method")
        if self.clean == "unpaired":
            return Sample(noisy, self._other(generator), key)
        return Sample(noisy, clean if self.clean == "paired" else None, key)

    def _other(self, generator: Generator) -> Tensor:
        """A clean patch of another image, varied as well."""
        other = _patch(self.images if self.others is None else self.others, self.crop_sampler, generator)
        if self.variation:
            other, _ = self.variation.views(other, self.noise, generator, 0)
        return other

    def for_validation(self) -> SyntheticPairs:
        """The same images and noise as pairs of one view and its clean image, not mixed."""
        return replace(self, views=1, alike=False, clean="paired", mixup=0.0)

    def release(self) -> None:
        for images in (self.images, *filter(None, [self.others])):
            images.release()


@dataclass(frozen=True)
class RecordedImages:
    """Noisy images as they are.

    noisy: one cache for each view; equal indices show one scene. clean: the clean images by the same indices, or
    other scenes, or None.
    """

    noisy: Sequence[PixelCache]
    crop_sampler: CropSampler
    seed: int
    clean: PixelCache | None = None
    paired: bool = False

    def sample(self, step: int, index: int) -> Sample:
        generator = keyed_generator(self.seed, step, index)
        index_of_image = _below(len(self.noisy[0]), generator)
        images = [view[index_of_image] for view in self.noisy]
        crop = self.crop_sampler.draw(images[0], generator)
        noisy = [crop.cut(image, self.crop_sampler.channels) for image in images]
        key = derived_seed(self.seed, step, index, "method")
        if self.clean is None:
            return Sample(noisy, None, key)
        if self.paired:
            return Sample(noisy, crop.cut(self.clean[index_of_image], self.crop_sampler.channels), key)
        return Sample(noisy, _patch(self.clean, self.crop_sampler, generator), key)

    def release(self) -> None:
        for images in (*self.noisy, *filter(None, [self.clean])):
            images.release()


def stacked(source: SampleSource, step: int, indices: Sequence[int]) -> Stacked:
    """Samples as a batch: views, each (B, C, patch, patch); clean, same shape, or None; keys (B,) int64."""
    samples = [source.sample(step, index) for index in indices]
    noisy = [torch.stack(list(view)) for view in zip(*(sample.views for sample in samples), strict=True)]
    clean = [sample.clean for sample in samples if sample.clean is not None]
    keys = torch.tensor([sample.key for sample in samples])
    return noisy, torch.stack(clean) if clean else None, keys


def mixed(image: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Mixup: weights from Beta(0.5, 0.5), the arcsine distribution (Zhang et al., mixup, ICLR 2018)."""
    share = math.sin(uniform(0, math.pi / 2, generator)) ** 2
    return image + share * (other - image)


def as_unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """float32, where integers span [0, 1]; floats keep their values, and those that are not finite become 0."""
    unit = dtype_range(pixels.dtype).to_unit(pixels)
    return np.nan_to_num(unit, nan=0.0, posinf=0.0, neginf=0.0) if pixels.dtype.kind == "f" else unit


def _patch(images: PixelCache, crop_sampler: CropSampler, generator: Generator) -> Tensor:
    image = images[_below(len(images), generator)]
    return crop_sampler.draw(image, generator).cut(image, crop_sampler.channels)


def _with_channels(window: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if window.shape[2] == channels:
        return window
    return np.repeat(window, channels, axis=2) if window.shape[2] == 1 else window.mean(axis=2, keepdims=True)


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
