"""A method that asks all of the training loop: three optimizers with an uneven rhythm, an adversary that moves in two
updates, a frozen extractor, a teacher that follows, and a model that is saved without some of its branches."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.methods.base import Batch, Needs, Terms, Update


class Teacher(nn.Module):
    """An average of the student that moves only when reported to."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        for mine, other in zip(self.network.parameters(), student.parameters(), strict=True):
            mine.lerp_(other, 0.1)


class Branched(nn.Module):
    """A denoiser, and beside it a branch behind an extractor that is not trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.extractor = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
        self.branch = nn.Conv2d(4, 3, 1)

    def forward(self, noisy: Tensor) -> Tensor:
        restored: Tensor = self.network(noisy) + 0.1 * self.branch(self.extractor(noisy).tanh())
        return restored


def critic() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.LeakyReLU(), nn.Conv2d(8, 1, 1))


class ThreeOptimizers:
    """Three steps of one critic, a joint one of all three, one of the generators."""

    needs = Needs(clean="unpaired")

    def __init__(self, network: nn.Module) -> None:
        self.model, self.encoder = Branched(network), nn.Conv2d(3, 3, 3, padding=1)
        self.teacher = Teacher(self.model)
        self.networks: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "denoiser": self.model,
            "codes": critic(),
            "noisy": critic(),
            "clean": critic(),
            "teacher": self.teacher,
        }
        self.updates = [
            Update(
                "codes", self.judge_codes, repeat=3, optimizer="adam", learning_rate=1e-3, betas=(0.0, 0.9), clip=5.0
            ),
            Update(
                ("noisy", "clean", "codes"),
                self.judge_all,
                rate=0.5,
                weight_decay=1e-4,
                clip=math.inf,
                warmup=0,
                schedule=lambda progress: 0.5 ** int(3 * progress),
                name="critics",
            ),
            Update(
                ("encoder", "denoiser"),
                self.generate,
                optimizer="adamw",
                learning_rate=1e-3,
                weight_decay=0.1,
                after=lambda: self.teacher.follow(self.model),
                name="generators",
            ),
        ]

    def export(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Branched)
        return network.network

    def judge_codes(self, batch: Batch) -> Terms:
        return {"codes": self._validated("codes", self.encoder(batch.noisy).detach(), self._clean(batch))}

    def judge_all(self, batch: Batch) -> Terms:
        restored, code = self.model(batch.noisy).detach(), self.encoder(batch.noisy).detach()
        return {
            "noisy": self._validated("noisy", code, batch.noisy),
            "clean": self._validated("clean", restored, self._clean(batch)),
            "codes_again": self._validated("codes", code, self._clean(batch)),
        }

    def generate(self, batch: Batch) -> Terms:
        code = self.encoder(batch.noisy)
        restored = self.model(code)
        with torch.no_grad():
            taught = self.teacher.network(batch.noisy)
        fooled = F.softplus(-self.networks["clean"](restored)) + F.softplus(-self.networks["codes"](code))
        return {"fool": 0.1 * fooled.mean(), "teach": (restored - taught).abs().mean()}

    def _validated(self, name: str, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(self.networks[name](fake)).mean() + F.softplus(-self.networks[name](real)).mean()

    def _clean(self, batch: Batch) -> Tensor:
        assert batch.clean is not None
        return batch.clean
