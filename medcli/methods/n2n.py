"""Noise2Noise: from one noisy view to another, without clean images.

Lehtinen et al., Noise2Noise: Learning Image Restoration without Clean Data (ICML 2018), equation 6.
"""

from __future__ import annotations

from torch import nn

from medcli.losses import LOSSES
from medcli.methods.base import Batch, Needs, Terms, Update


class Noise2Noise:
    """Each of two views of a scene is the target of the other.

    The noise must have zero mean: then the mean of all targets, the optimum for MSE, is the clean image. L1 finds the
    median. `log_mse` only changes the weights of patches.
    """

    needs = Needs(views=2, alike=True)

    def __init__(self, network: nn.Module, *, loss: str = "mse") -> None:
        self.network = network
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.updates = [Update("denoiser", self.terms)]

    @property
    def model(self) -> nn.Module:
        return self.network

    def terms(self, batch: Batch) -> Terms:
        first, second = batch.views
        there = self.loss(self.network(first).float(), second)
        back = self.loss(self.network(second).float(), first)
        return {self.loss_name: 0.5 * (there + back)}
