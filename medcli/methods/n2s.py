"""Noise2Self: a network that predicts a pixel from its neighbours cannot learn independent noise.

Batson and Royer, Noise2Self: Blind Denoising by Self-Supervision (ICML 2019), proposition 1 and section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import torch
from torch import Tensor, nn

from medcli.blind_spot import PixelHiding, around
from medcli.errors import RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import Adaptation, Application, Batch, Needs, NoisyImages, Terms, Update

Phase = tuple[int, int]
SPACING = 4  # pixels from one hidden pixel to the next
PHASES: Sequence[Phase] = ((0, 0), (1, 2), (2, 1), (3, 3))  # for comparing two networks


class Noise2Self:
    """Every `spacing`-th pixel of a grid is replaced by the mean of its neighbours; the loss is over these pixels.

    One noisy image of each scene is enough. The noise must have zero mean and be independent from pixel to pixel.
    The offset of the grid is drawn for each sample. The model is the plain network, applied to all pixels.
    spacing: pixels from one hidden pixel to the next, 2 or more. Raises RecipeError for less.
    """

    needs = Needs()

    @staticmethod
    def adaptation(application: Application, network: nn.Module, images: NoisyImages) -> Adaptation | None:
        """For models without masks."""
        if application.strategy != "plain":
            return None
        step = lcm(32, int(network.multiple))  # type: ignore[arg-type]
        why = "the noise is spatially correlated, so noisy images cannot show whether a model is better"
        return Adaptation({"spacing": SPACING}, max(96, step), step, 4, scattered_pixels(), 1, why)

    def __init__(self, network: nn.Module, *, loss: str = "mse", spacing: int = SPACING) -> None:
        if spacing < 2:
            raise RecipeError(f"A spacing of {spacing} hides the neighbours too.", "Give 2 or more; 4 is usual.")
        self.model, self.spacing = network, spacing
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.updates = [Update("denoiser", self.terms)]

    def terms(self, batch: Batch) -> Terms:
        phases = [self._phase(generator) for generator in batch.generators()]
        restored = self.model(self.hidden(batch.noisy, phases)).float()
        return {self.loss_name: self.loss(self.grid(restored, phases), self.grid(batch.noisy, phases))}

    def hidden(self, noisy: Tensor, phases: list[Phase]) -> Tensor:
        """(B, C, H, W) with the grid of each sample, in all channels, replaced by the mean of the neighbours."""
        chosen = torch.zeros_like(noisy[:, :1], dtype=torch.bool)
        for sample, (top, left) in zip(chosen, phases, strict=True):
            sample[:, top :: self.spacing, left :: self.spacing] = True
        return around(noisy, chosen)

    def grid(self, images: Tensor, phases: list[Phase]) -> Tensor:
        """(B, C, H, W) -> (B, C, H // spacing, W // spacing): only the pixels of the grids."""
        height, width = (side // self.spacing for side in images.shape[2:])
        pairs = zip(images, phases, strict=True)
        picked = [image[:, top :: self.spacing, left :: self.spacing] for image, (top, left) in pairs]
        return torch.stack([pixels[:, :height, :width] for pixels in picked])

    def _phase(self, generator: torch.Generator) -> Phase:
        top, left = torch.randint(self.spacing, (2,), generator=generator).tolist()
        return top, left


def scattered_pixels() -> PixelHiding:
    """For networks without masks: some pixels, far apart, replaced by the mean of their neighbours."""
    return PixelHiding(len(PHASES), 1, around, _scattered_map)


def _scattered_map(count: int, side: int, seed: int) -> Sequence[Tensor]:
    index = torch.full((1, 1, side, side), len(PHASES), dtype=torch.uint8)
    for owner, (top, left) in enumerate(PHASES):
        index[..., top::SPACING, left::SPACING] = owner
    return [index]
