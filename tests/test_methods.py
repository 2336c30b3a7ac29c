"""What every method owes the loop, and what the loop owes any method: also one with an adversary and a slow teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_UNET
from test_archs import TINY
from torch import nn

import medcli
from medcli.data.cache import open_cache
from medcli.data.crops import Framing, MadeNoisy, stacked
from medcli.errors import RecipeError, TrainingError
from medcli.methods.base import Batch, Method, Needs, Terms, Turn
from medcli.methods.n2n import Noise2Noise
from medcli.noise.gaussian import Gaussian
from medcli.registry import METHODS
from medcli.train.loop import Limits, Trainer
from medcli.train.machine import Machine
from medcli.train.recipe import Recipe
from medcli.train.run import Options, build_method, train
from medcli.zoo import weights

CPU = Machine(torch.device("cpu"), torch.float32, workers=0)
RECIPE = Recipe(id="x", title="", steps=6, patch=16, batch=2, warmup=1, config=TINY_UNET, learning_rate=0.01)


def tiny_unet() -> nn.Module:
    return weights.build(weights.Card("x", "unet", TINY_UNET))


def source_of(folder: Path, needs: Needs) -> MadeNoisy:
    pictures = open_cache(sorted(folder.iterdir()), folder.parent / "cache", smallest=16)
    return MadeNoisy(pictures, Gaussian(25, 25), Framing(16), 0, needs.views, needs.alike, needs.clean)


class Teacher(nn.Module):
    """An average of the student that moves only when told to."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        for mine, other in zip(self.network.parameters(), student.parameters(), strict=True):
            mine.lerp_(other, 0.1)


class Adversarial:
    """A denoiser against a critic that moves twice as seldom, beside a teacher that follows."""

    needs = Needs(clean="others")

    def __init__(self, network: nn.Module) -> None:
        self.network, self.teacher = network, Teacher(network)
        self.critic = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.LeakyReLU(), nn.Conv2d(8, 1, 4))
        self.players: dict[str, nn.Module] = {
            "denoiser": network, "critic": self.critic, "teacher": self.teacher
        }  # fmt: skip
        self.turns = [
            Turn("critic", self.judge, every=2, rate=0.5),
            Turn("denoiser", self.deceive, after=lambda: self.teacher.follow(network)),
        ]

    @property
    def product(self) -> nn.Module:
        return self.network

    def judge(self, batch: Batch) -> Terms:
        fake = self.critic(self.network(batch.noisy).detach())
        return {"critic": F.softplus(fake).mean() + F.softplus(-self.critic(batch.clean)).mean()}

    def deceive(self, batch: Batch) -> Terms:
        restored = self.network(batch.noisy)
        with torch.no_grad():
            taught = self.teacher.network(batch.noisy)
        return {"deceive": 0.1 * F.softplus(-self.critic(restored)).mean(), "teach": (restored - taught).abs().mean()}


def snapshot(method: Method) -> dict[str, list[torch.Tensor]]:
    return {name: [p.detach().clone() for p in player.parameters()] for name, player in method.players.items()}


def moved(before: dict[str, list[torch.Tensor]], method: Method) -> set[str]:
    return {
        name
        for name, player in method.players.items()
        if any(not torch.equal(old, new) for old, new in zip(before[name], player.parameters(), strict=True))
    }


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    (tmp_path / "run").mkdir()
    torch.manual_seed(0)
    return Trainer(Adversarial(tiny_unet()), RECIPE, CPU, tmp_path / "run", lambda _: None)


class TestAnAdversaryAndATeacher:
    def test_a_turn_moves_only_its_player(self, trainer: Trainer, picture_folder: Path) -> None:
        batch = CPU.batch(stacked(source_of(picture_folder, trainer.method.needs), 0, range(2)))
        critic, denoiser = trainer.method.turns
        before = snapshot(trainer.method)
        trainer._take(critic, batch, 0.01)
        assert moved(before, trainer.method) == {"critic"}
        before = snapshot(trainer.method)
        trainer._take(denoiser, batch, 0.01)
        assert moved(before, trainer.method) == {"denoiser", "teacher"}

    def test_the_rhythm_is_uneven(self, trainer: Trainer, picture_folder: Path) -> None:
        lines: list[dict[str, float]] = []
        trainer.report = lines.append
        trainer.run(source_of(picture_folder, trainer.method.needs), Limits(report_every=1))
        assert ["critic" in line for line in lines] == [True, False] * 3
        assert all("teach" in line and "deceive" in line for line in lines)

    def test_resumes_to_the_bit_with_every_player(self, trainer: Trainer, picture_folder: Path, tmp_path: Path) -> None:
        source = source_of(picture_folder, trainer.method.needs)
        trainer.run(source, Limits(save_every=3))
        whole = snapshot(trainer.method)
        for late in sorted(trainer.checkpoints.iterdir())[1:]:
            late.unlink()
        torch.manual_seed(5)
        again = Trainer(Adversarial(tiny_unet()), RECIPE, CPU, tmp_path / "run", lambda _: None)
        assert again.resume()
        assert again.step == 3
        again.run(source, Limits())
        assert moved(whole, again.method) == set()


class TestNoise2Noise:
    def test_never_sees_a_clean_picture(self) -> None:
        assert Noise2Noise.needs == Needs(views=2, alike=True, clean="none")

    def test_the_target_is_the_other_view(self) -> None:
        method = Noise2Noise(nn.Identity())
        first, second = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
        terms = method.terms(Batch([first, second], None, torch.zeros(2, dtype=torch.int64)))
        assert terms["mse"].item() == pytest.approx(0.25)


def test_options_of_a_method_are_checked() -> None:
    with pytest.raises(RecipeError, match="does not take these options"):
        build_method(Recipe(id="x", title="", steps=1, config=TINY_UNET, options={"colour": "red"}), CPU)
    with pytest.raises(RecipeError, match="no loss 'l2'"):
        build_method(Recipe(id="x", title="", steps=1, config=TINY_UNET, loss="l2"), CPU)


def test_a_worker_that_dies_is_a_letter(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(Trainer, "run", die)
    options = Options(tmp_path / "run", [picture_folder], device="cpu", workers=0, cache=tmp_path / "cache")
    with pytest.raises(TrainingError, match="ended from outside"):
        train(replace(RECIPE, noises={"gaussian:25": 1}), options, lambda _: None, lambda _: None)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_from_pictures_to_a_denoised_picture(name: str, picture_folder: Path, tmp_path: Path) -> None:
    architecture = {"med": "swin", "ludvae": "ludvae"}.get(name, "unet")
    recipe = Recipe(
        id="tiny", title="", steps=2, method=name, architecture=architecture, config=TINY[architecture],
        noises={"gaussian:25": 1}, patch=32, batch=2, warmup=1, held_out=0.2,
        options={"pd": 1} if name == "amsnet" else {},
    )  # fmt: skip
    options = Options(
        tmp_path / "run", [picture_folder], device="cpu", precision="fp32", workers=0, limits=Limits(report_every=1)
    )
    path = train(recipe, replace(options, cache=tmp_path / "cache"), lambda _: None, lambda _: None)
    assert {"README.md", "curves.png", "recipe.yaml", "log.jsonl"} <= {file.name for file in path.parent.iterdir()}
    if name == "ludvae":
        return  # its product makes noise
    noisy = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    restored = medcli.load(path, device="cpu")(noisy)
    assert restored.shape == noisy.shape
    assert (path.parent / "validation.png").exists()
