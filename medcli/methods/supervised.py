"""Supervised training, the baseline of all other methods."""

from __future__ import annotations

from torch import nn

from medcli.losses import LOSSES
from medcli.methods.base import Batch, Needs, Terms, Update


class Supervised:
    """One network and one update: from the noisy patch to the clean one (N2C)."""

    needs = Needs(clean="paired")

    def __init__(self, network: nn.Module, *, loss: str = "log_mse") -> None:
        self.network = network
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.updates = [Update("denoiser", self.terms)]

    @property
    def model(self) -> nn.Module:
        return self.network

    def terms(self, batch: Batch) -> Terms:
        assert batch.clean is not None
        return {self.loss_name: self.loss(self.network(batch.noisy).float(), batch.clean)}
