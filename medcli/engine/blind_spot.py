"""Denoising through complementary masks: each pixel is predicted from the others while it is masked.

Liao et al., Asymmetric Mask Scheme for Self-Supervised Real Image Denoising (ECCV 2024), section 3.3 and figure 5; the
refinement is that of Lee et al., AP-BSN (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medcli.blind_spot import FILL_REACH, FILLS, WORD, scattered, stitched
from medcli.engine.strategies import PixelCoordinates, mean, whole
from medcli.errors import ModelError
from medcli.registry import nearest

MASKS, REPLACEMENTS = 0, 1  # what a number is drawn for
LIMITS: Mapping[str, tuple[float, float]] = {
    "k": (2, 16), "pd": (1, 16), "samples": (1, 64), "refine": (0, 64), "share": (0, 1), "seed": (0, WORD)
}  # fmt: skip


@dataclass(frozen=True)
class ComplementaryMasks:
    """For networks that were trained to predict masked pixels.

    k: branches, each hiding its share of the pixels. pd: stride of the sub-images that the network sees; 1 for noise
    that is independent from pixel to pixel. samples: sets of masks whose results are averaged. refine: random
    replacement refinement (R3): so many times the noisy value is put back at a `share` of the pixels, the rest being
    denoised already, and the masks are run again at full resolution; the results are averaged. 0 leaves it out, 8 is
    usual. seed: random seed of the masks. fill: the value of masked pixels, as in training.

    Random numbers are a function of seed, row and column alone, so the tiling does not change them.
    Raises ModelError for values out of range.
    """

    k: int = 2
    pd: int = 2
    samples: int = 1
    refine: int = 0
    share: float = 0.16
    seed: int = 0
    fill: str = "zero"

    def __post_init__(self) -> None:
        if self.fill not in FILLS:
            raise ModelError(f"Masks cannot be filled by '{self.fill}'.", nearest(self.fill, FILLS))
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ModelError(f"Masks with {name}={getattr(self, name)} make no sense.", f"Give {least} to {most}.")

    @property
    def passes(self) -> int:
        return self.k * (self.samples + self.refine)

    def multiple(self, of_network: int) -> int:
        return self.pd * of_network

    def context_radius(self, of_network: int) -> int:
        return (of_network + FILL_REACH[self.fill]) * (self.pd + bool(self.refine))

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        coordinates = PixelCoordinates(*(side.to(batch.device) for side in coordinates or whole(batch)))
        denoised = mean(self._predicted(network, batch, coordinates, self.pd, number) for number in range(self.samples))
        if not self.refine:
            return denoised

        def refined(number: int) -> Tensor:
            put_back = self._numbers(coordinates, number, REPLACEMENTS) < int(self.share * (WORD + 1))
            return self._predicted(network, torch.where(put_back, batch, denoised), coordinates, 1, number)

        return mean(map(refined, range(self.samples, self.samples + self.refine)))

    def _predicted(
        self, network: nn.Module, images: Tensor, coordinates: PixelCoordinates, stride: int, number: int
    ) -> Tensor:
        index = self._numbers(coordinates, number, MASKS) * self.k >> 32
        return stitched(network, images, index[None, None], branches=self.k, stride=stride, fill=FILLS[self.fill])

    def _numbers(self, coordinates: PixelCoordinates, number: int, purpose: int) -> Tensor:
        """(H, W) int64, even over 32 bits."""
        stream = (self.seed << 8) + 2 * number + purpose
        return scattered(coordinates.rows, coordinates.columns, (stream ^ stream >> 32) & WORD)
