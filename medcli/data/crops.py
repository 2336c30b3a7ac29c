"""Training samples: a random crop, turned, sometimes enlarged, and its noisy mate. Every draw is keyed.

Sample `index` of step `step` is a pure function of (seed, step, index): it does not matter how many workers draw,
or whether the run was interrupted before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from medcli.data.cache import PixelCache
from medcli.noise.base import Noise, uniform


def keyed_generator(*key: int | str) -> Generator:
    """A CPU generator seeded by a hash of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class NoisyCrops:
    """Pairs of noisy and clean patches, (3, patch, patch) float in [0, 1].

    enlarge_share: share of crops that are enlarged by a factor from U(1, 2.2) before the noise. Photographs at the
    camera's own resolution are softer than the downscaled pictures that one trains on.
    """

    pictures: PixelCache
    noise: Noise
    patch: int
    seed: int
    enlarge_share: float = 0.0

    def sample(self, step: int, index: int) -> tuple[Tensor, Tensor]:
        """(noisy, clean) of one sample."""
        generator = keyed_generator(self.seed, step, index)
        picture = self.pictures[int(torch.randint(len(self.pictures), (), generator=generator))]
        clean = _turn(self._crop(picture, generator), generator)
        return self.noise(clean, generator), clean

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """(noisy, clean), each (size, 3, patch, patch)."""
        samples = [self.sample(step, index) for index in range(size)]
        return torch.stack([noisy for noisy, _ in samples]), torch.stack([clean for _, clean in samples])

    def _crop(self, picture: NDArray[np.uint8], generator: Generator) -> Tensor:
        side = self.patch
        if uniform(0, 1, generator) < self.enlarge_share:
            side = round(self.patch / uniform(1.0, 2.2, generator))
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in picture.shape[:2])
        crop = picture[top : top + side, left : left + side].astype(np.float32) / 255
        if side != self.patch:
            crop = cv2.resize(crop, (self.patch, self.patch), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        return torch.from_numpy(crop).permute(2, 0, 1)


def _turn(patch: Tensor, generator: Generator) -> Tensor:
    """One of the eight flips and quarter turns."""
    choice = int(torch.randint(8, (), generator=generator))
    if choice & 1:
        patch = patch.flip(2)
    return torch.rot90(patch, choice >> 1, (1, 2)).contiguous()
