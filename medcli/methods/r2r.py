"""Recorrupted-to-Recorrupted: one noisy image, with more noise added in two uncorrelated ways.

Pang et al., Recorrupted-to-Recorrupted: Unsupervised Deep Learning for Image Denoising (CVPR 2021), theorem 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcli.errors import RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import Batch, Needs, Terms, Update


class Recorrupted:
    """From y = x + n with n ~ N(0, sigma^2): y + alpha sigma z is restored to y - sigma z / alpha, z ~ N(0, 1).

    The noise of both is then uncorrelated, as in Noise2Noise; for Gaussian noise that is independence.
    sigma: of the noise, in grey levels of 255, 0 to estimate it for each image. alpha: added noise in units of
    sigma. Raises RecipeError where sigma < 0 or alpha <= 0.

    Departs: the model runs once, on the image itself. The paper averages over 50 recorrupted copies.
    Departs: where sigma is 0, it is estimated. In the paper it is known.
    """

    needs = Needs()

    def __init__(self, network: nn.Module, *, loss: str = "mse", sigma: float = 0.0, alpha: float = 0.5) -> None:
        if not 0 <= sigma <= 255:
            raise RecipeError(f"sigma cannot be {sigma:g}.", "Give grey levels of 255, or 0 to estimate it.")
        if not 0 < alpha < float("inf"):
            raise RecipeError(f"alpha cannot be {alpha:g}.", "Give more than 0; 0.5 is usual.")
        self.model, self.sigma, self.alpha = network, sigma / 255, alpha
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.updates = [Update("denoiser", self.terms)]

    def terms(self, batch: Batch) -> Terms:
        noisier, target = self.recorrupted(batch)
        return {self.loss_name: self.loss(self.model(noisier).float(), target)}

    def recorrupted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(input, target), each (B, C, H, W) like the batch's first view."""
        noisy = batch.noisy
        draws = [torch.randn(noisy.shape[1:], generator=generator) for generator in batch.generators()]
        added = self._sigma(noisy) * torch.stack(draws).to(noisy.device, non_blocking=True)
        return noisy + self.alpha * added, noisy - added / self.alpha

    def _sigma(self, noisy: Tensor) -> Tensor:
        return torch.full_like(noisy[:, :1, :1, :1], self.sigma) if self.sigma else estimated_sigma(noisy)


def estimated_sigma(noisy: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, 1, 1): standard deviation of white Gaussian noise, in the scale of the image.

    The median of the finest diagonal Haar details, over 0.6745 (Donoho and Johnstone, 1994).
    """
    corners = noisy[..., ::2, ::2][..., :-1, :-1], noisy[..., 1::2, ::2], noisy[..., ::2, 1::2], noisy[..., 1::2, 1::2]
    height, width = (min(corner.shape[side] for corner in corners) for side in (2, 3))
    first, below, beside, across = (corner[..., :height, :width] for corner in corners)
    details = 0.5 * (first - below - beside + across)
    return (details.abs().flatten(1).median(1).values / 0.6745).view(-1, 1, 1, 1)
