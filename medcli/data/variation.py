"""Variations of a training sample that its noise alone does not bring: gray, common noise, small ranges, patterns,
and what microscopes show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medcli.data.patterns import pattern
from medcli.data.structures import structures
from medcli.noise.base import Noise, log_uniform, uniform
from medcli.noise.camera import blur

LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
NOISY_PATTERNS = 0.6  # of the patterns; the others are clean, and stay as they are
LEAST_CONTRAST = 1 / 8
LEAST_EXPOSURE, MOST_OFFSET = 1 / 16, 0.15


@dataclass(frozen=True)
class Variation:
    """Shares of the samples, 0 to 1 each; with 0 nothing is drawn, so that older runs keep their samples.

    gray: gray image and equal noise in all channels, as from monochrome sensors and film.
    common: colour image with noise of which a share from U(0, 1) is common to all channels.
    contrast: values scaled by a factor from 1/8 to 1 and raised by a black level, before the noise.
    patterns: a pattern made by code (`medcli.data.patterns`) in place of the image.
    structures: a specimen made by code (`medcli.data.structures`) in place of the image.
    exposure: darkened like a micrograph: perhaps blurred, raised to a power from 1 to 3, scaled by 1/16 to 1, with an
    offset of up to 0.15. Noise of few photons then uses the range as files with stretched contrast do.
    """

    gray: float = 0.0
    common: float = 0.0
    contrast: float = 0.0
    patterns: float = 0.0
    structures: float = 0.0
    exposure: float = 0.0

    def views(self, clean: Tensor, noise: Noise, generator: Generator, count: int) -> tuple[Tensor, list[Tensor]]:
        """(clean, noisy views), each (C, H, W) float32, from a clean patch (C, H, W) in [0, 1]."""
        untouched = False
        if _chance(self.patterns, generator):
            clean = pattern(clean.shape[0], clean.shape[1], generator)
            untouched = not _chance(NOISY_PATTERNS, generator)
        if _chance(self.structures, generator):
            clean, untouched = structures(clean.shape[0], clean.shape[1], generator), False
        if _chance(self.exposure, generator):
            clean = _exposed(clean, generator)
        if _chance(self.contrast, generator):
            factor = log_uniform(LEAST_CONTRAST, 1, generator)
            clean = uniform(0, 1 - factor, generator) + factor * clean
        kind = uniform(0, 1, generator) if self.gray + self.common else 1.0
        if kind < self.gray:
            clean = _luma(clean).expand_as(clean).contiguous()
        if untouched:
            return clean, [clean.clone() for _ in range(count)]
        return clean, [self._noisy(clean, noise, kind, generator) for _ in range(count)]

    def _noisy(self, clean: Tensor, noise: Noise, kind: float, generator: Generator) -> Tensor:
        noisy = noise(clean, generator)
        if kind < self.gray:
            return _one_plane(noisy, generator)
        if kind < self.gray + self.common:
            return _with_common_noise(clean, noisy, uniform(0, 1, generator), generator)
        return noisy


def _one_plane(noisy: Tensor, generator: Generator) -> Tensor:
    """One channel, or the luma, in all channels."""
    if _chance(0.6, generator):
        plane = noisy[int(torch.randint(len(noisy), (), generator=generator))][None]
    else:
        plane = _luma(noisy)
    return plane.expand_as(noisy).contiguous()


def _exposed(clean: Tensor, generator: Generator) -> Tensor:
    if _chance(0.3, generator):
        clean = blur(clean, log_uniform(0.4, 2.0, generator))
    if _chance(0.5, generator):
        clean = clean.clamp(min=0) ** uniform(1, 3, generator)
    factor = log_uniform(LEAST_EXPOSURE, 1, generator)
    offset = uniform(0, min(MOST_OFFSET, 1 - factor), generator) if _chance(0.5, generator) else 0.0
    return offset + factor * clean


def _with_common_noise(clean: Tensor, noisy: Tensor, share: float, generator: Generator) -> Tensor:
    """The variance of the noise stays; `share` of it is that of one channel, common to all."""
    residual = noisy - clean
    common: Tensor = residual[int(torch.randint(len(residual), (), generator=generator))]
    mixed: Tensor = (1 - share) ** 0.5 * residual + share**0.5 * common
    return clean + mixed


def _luma(image: Tensor) -> Tensor:
    """(C, H, W) -> (1, H, W)."""
    luma: Tensor = image if len(image) == 1 else (LUMA * image).sum(0, keepdim=True)
    return luma


def _chance(share: float, generator: Generator) -> bool:
    return share > 0 and uniform(0, 1, generator) < share
