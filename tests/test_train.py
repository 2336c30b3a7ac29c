"""Claims about training: what a seed fixes, what a kill costs, what a recipe may say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_UNET

from medcli.data.cache import open_cache
from medcli.data.crops import NoisyCrops
from medcli.errors import OutputError, RecipeError, TrainingError
from medcli.methods.supervised import LOSSES, Supervised
from medcli.noise.gaussian import Gaussian
from medcli.train import recipe as recipes
from medcli.train.loop import Limits, Machine, Trainer, learning_rate
from medcli.train.recipe import Recipe
from medcli.train.run import Options, build_method, train
from medcli.zoo import weights

CPU = Machine(torch.device("cpu"), torch.float32, workers=0)


def tiny(**changes: object) -> Recipe:
    recipe = Recipe(
        id="tiny", title="Tiny", noises=[{"noise": "gaussian", "low": 25, "high": 25}], steps=12, config=TINY_UNET,
        patch=16, batch=2, warmup=2, ema=0.9, seed=3,
    )  # fmt: skip
    return replace(recipe, **changes)


def crops_of(folder: Path, tmp_path: Path, seed: int = 3) -> NoisyCrops:
    return NoisyCrops(open_cache([folder], tmp_path / "cache", smallest=16), Gaussian(25, 25), 16, seed, 0.5)


def trainer_in(folder: Path, recipe: Recipe, reports: list[dict[str, float]] | None = None) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    seen = [] if reports is None else reports
    return Trainer(build_method(recipe, CPU), recipe, CPU, folder, seen.append)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class TestData:
    def test_a_sample_depends_on_its_key_alone(self, picture_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(picture_folder, tmp_path)
        direct = crops.sample(7, 1)
        crops.batch(3, 2)
        again = crops.batch(7, 2)
        assert all(torch.equal(one, many[1]) for one, many in zip(direct, again, strict=True))
        assert not torch.equal(direct[1], crops.sample(8, 1)[1])
        assert not torch.equal(direct[1], crops_of(picture_folder, tmp_path, seed=4).sample(7, 1)[1])

    def test_clean_stays_in_range_and_noise_has_its_strength(self, picture_folder: Path, tmp_path: Path) -> None:
        noisy, clean = crops_of(picture_folder, tmp_path).batch(0, 40)
        assert clean.min() >= 0
        assert clean.max() <= 1
        assert ((noisy - clean) * 255).std().item() == pytest.approx(25, rel=0.05)

    def test_cache_follows_the_folder(self, picture_folder: Path, tmp_path: Path) -> None:
        first = open_cache([picture_folder], tmp_path / "cache", smallest=16)
        (picture_folder / "0.png").unlink()
        (picture_folder / "broken.png").write_bytes(b"not a picture")
        second = open_cache([picture_folder], tmp_path / "cache", smallest=16)
        assert (len(first), len(second)) == (5, 4)
        assert "broken.png" in second.skipped[0]
        assert (first[1] == second[0]).all()

    def test_small_pictures_are_named(self, picture_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="None of the pictures") as caught:
            open_cache([picture_folder], tmp_path / "cache", smallest=50)
        assert "4.png: smaller than the 50 pixel patch" in caught.value.hint

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="no folder"):
            open_cache([tmp_path / "nowhere"], tmp_path / "cache", smallest=16)


class TestLoop:
    def test_the_loss_falls(self, picture_folder: Path, tmp_path: Path) -> None:
        reports: list[dict[str, float]] = []
        trainer = trainer_in(tmp_path / "run", tiny(steps=80, batch=4, learning_rate=0.02), reports)
        trainer.run(crops_of(picture_folder, tmp_path), Limits(report_every=10))
        assert reports[-1]["log_mse"] < reports[0]["log_mse"] - 0.1
        logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert logged == reports

    def test_interrupted_and_resumed_is_bit_identical(self, picture_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(picture_folder, tmp_path)
        whole = trainer_in(tmp_path / "whole", tiny())
        whole.run(crops, Limits())
        first = trainer_in(tmp_path / "parts", tiny())
        first.report = _stop_at(first, 5)
        with pytest.raises(KeyboardInterrupt):
            first.run(crops, Limits(save_every=5, report_every=6))
        second = trainer_in(tmp_path / "parts", tiny())
        assert second.resume()
        assert second.step == 5
        second.run(crops, Limits())
        assert same(whole.average, second.average)
        assert same(whole.method.product, second.method.product)

    def test_keeps_the_last_three_checkpoints(self, picture_folder: Path, tmp_path: Path) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        trainer.run(crops_of(picture_folder, tmp_path), Limits(save_every=2))
        names = sorted(path.name for path in trainer.checkpoints.iterdir())
        assert names == [f"step-{step:07d}.safetensors" for step in (8, 10, 12)]

    def test_a_broken_loss_stops_with_a_letter(self, picture_folder: Path, tmp_path: Path) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        with torch.no_grad():
            trainer.method.product.head.weight.fill_(float("nan"))
        with pytest.raises(TrainingError, match="loss became nan"):
            trainer.run(crops_of(picture_folder, tmp_path), Limits())

    def test_a_time_limit_ends_the_schedule(self) -> None:
        limits = Limits(minutes=1, started=time.monotonic() - 45)
        assert limits.progress(10, 1000, first=0) == pytest.approx(0.75, abs=0.01)
        assert limits.progress(900, 1000, first=0) == pytest.approx(0.9)
        assert limits.progress(500, 1000, first=500) == pytest.approx(0.875, abs=0.01)
        assert Limits().progress(10, 1000, first=0) == pytest.approx(0.01)

    def test_learning_rate_rises_and_falls(self) -> None:
        recipe = tiny(learning_rate=1.0, warmup=10)
        assert learning_rate(recipe, 0, 0.0) == pytest.approx(0.1)
        assert learning_rate(recipe, 50, 0.5) == pytest.approx(0.5)
        assert learning_rate(recipe, 99, 1.0) == pytest.approx(0.0, abs=1e-9)


def _stop_at(trainer: Trainer, step: int):
    def report(line: dict[str, float]) -> None:
        if line["step"] > step:
            raise KeyboardInterrupt

    return report


class TestLosses:
    def test_a_perfect_answer_costs_least(self) -> None:
        clean = torch.rand(2, 3, 8, 8)
        for loss in LOSSES.values():
            assert loss(clean, clean) < loss(clean + 0.01, clean) < loss(clean + 0.1, clean)

    def test_log_mse_is_psnr(self) -> None:
        clean = torch.zeros(1, 3, 8, 8)
        loss = LOSSES["log_mse"](clean + 0.1, clean)
        assert -loss.item() * 20 / torch.log(torch.tensor(10.0)) == pytest.approx(20.0, abs=0.01)

    def test_supervised_moves_its_one_player(self) -> None:
        method = Supervised(weights.build(weights.Card("x", "unet", TINY_UNET)), loss="l1")
        terms = method.turns[0].terms((torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
        assert terms["l1"].item() == pytest.approx(1.0)
        assert method.players == {"denoiser": method.product}


class TestRecipes:
    @pytest.mark.parametrize("name", recipes.bundled())
    def test_bundled_recipes_can_be_cooked(self, name: str) -> None:
        recipe = recipes.load(name)
        assert recipe.id == name
        noisy = recipe.draw_noise()(torch.rand(3, 32, 32), torch.Generator().manual_seed(0))
        assert noisy.shape == (3, 32, 32)
        network = weights.build(weights.Card(name, recipe.architecture, recipe.config))
        assert recipe.patch % network.multiple == 0

    def test_a_recipe_survives_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(tiny().dump())
        assert recipes.load(str(path)) == tiny()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stepz": 3}, "Did you mean 'steps'"),
            ({"steps": "many"}, "'steps' must be of type int"),
            ({"noises": {}}, "'noises' must be of type list"),
        ],
    )
    def test_mistakes_are_named(self, change: dict[str, object], message: str) -> None:
        values = yaml.safe_load(tiny().dump()) | change
        with pytest.raises(RecipeError) as caught:
            recipes.parse(values, "mine.yaml")
        assert message in str(caught.value)

    def test_unknown_names(self) -> None:
        with pytest.raises(RecipeError, match="Did you mean 'photo'"):
            recipes.load("phto")
        with pytest.raises(RecipeError, match="no noise called 'gausian'"):
            tiny(noises=[{"noise": "gausian"}]).draw_noise()
        with pytest.raises(RecipeError, match="cannot be made"):
            tiny(noises=[{"noise": "gaussian", "sigma": 3}]).draw_noise()


class TestRun:
    def options(self, picture_folder: Path, tmp_path: Path, **changes: object) -> Options:
        return replace(
            Options([picture_folder], tmp_path / "run", "cpu", "fp32", workers=0, cache=tmp_path / "cache"), **changes
        )

    def test_the_product_denoises(self, picture_folder: Path, tmp_path: Path) -> None:
        path = train(tiny(), self.options(picture_folder, tmp_path), _ignore, _ignore)
        network, card = weights.load_network(path)
        assert (card.id, card.steps, card.recipe) == ("tiny", 12, "tiny")
        assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)

    def test_the_same_recipe_gives_the_same_bytes(self, picture_folder: Path, tmp_path: Path) -> None:
        first = train(tiny(), self.options(picture_folder, tmp_path), _ignore, _ignore)
        other = self.options(picture_folder, tmp_path, output=tmp_path / "other", workers=1)
        assert first.read_bytes() == train(tiny(), other, _ignore, _ignore).read_bytes()

    def test_a_run_is_not_overwritten(self, picture_folder: Path, tmp_path: Path) -> None:
        options = self.options(picture_folder, tmp_path)
        train(tiny(), options, _ignore, _ignore)
        with pytest.raises(OutputError, match="holds a training run"):
            train(tiny(), options, _ignore, _ignore)

    def test_init_starts_from_a_model(self, picture_folder: Path, tmp_path: Path) -> None:
        path = train(tiny(), self.options(picture_folder, tmp_path), _ignore, _ignore)
        method = build_method(tiny(init=str(path)), CPU)
        assert same(method.product, weights.load_network(path)[0])

    def test_killed_runs_resume_to_the_same_weights(self, picture_folder: Path, tmp_path: Path) -> None:
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(tiny(steps=520).dump())
        command = [sys.executable, "-m", "medcli", "train", "--data", picture_folder, "--recipe", recipe]
        command += ["--device", "cpu", "--precision", "fp32", "--workers", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "home")}
        subprocess.run([*command, "-o", tmp_path / "whole", "-q"], env=environment, check=True)
        victim = subprocess.Popen([*command, "-o", tmp_path / "killed"], env=environment, stderr=subprocess.DEVNULL)
        checkpoints = tmp_path / "killed" / "checkpoints"
        while not list(checkpoints.glob("step-*.safetensors")):
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        subprocess.run([*command, "-o", tmp_path / "killed", "--resume", "-q"], env=environment, check=True)
        name = "tiny.safetensors"
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _ignore(_: object) -> None:
    pass
