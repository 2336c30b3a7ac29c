"""Claims about training: what a seed fixes, what a kill costs, what a recipe may say."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_UNET
from safetensors.torch import load_file

from medcli.data.cache import open_cache
from medcli.data.crops import CropSampler, SyntheticPairs
from medcli.errors import ModelError, OutputError, RecipeError, TrainingError
from medcli.losses import LOSSES
from medcli.methods.base import Batch
from medcli.methods.supervised import Supervised
from medcli.noise.gaussian import Gaussian
from medcli.train import recipe as recipes
from medcli.train.hardware import Hardware
from medcli.train.loop import Interruption, Limits, Trainer
from medcli.train.optimizers import optimizers_of
from medcli.train.recipe import Recipe
from medcli.train.run import TrainOptions, build_method, train
from medcli.train.validation import Validation
from medcli.zoo import weights

CPU = Hardware(torch.device("cpu"), torch.float32, workers=0)


def tiny(**changes: object) -> Recipe:
    recipe = Recipe(
        id="tiny", title="Tiny", noises={"gaussian:25": 1}, steps=12, loss="log_mse", config=TINY_UNET,
        patch=16, batch=2, warmup=2, ema=0.9, seed=3,
    )  # fmt: skip
    return replace(recipe, **changes)


def crops_of(folder: Path, tmp_path: Path, **changes: object) -> SyntheticPairs:
    images = open_cache(sorted(folder.iterdir()), tmp_path / "cache", smallest=16)
    return replace(SyntheticPairs(images, Gaussian(25, 25), CropSampler(16, 3, 0.5), seed=3), **changes)


def trainer_in(folder: Path, recipe: Recipe, reports: list[dict[str, float]] | None = None) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    seen = [] if reports is None else reports
    return Trainer(build_method(recipe, CPU), recipe, CPU, folder, seen.append)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class TestLoop:
    def test_the_loss_falls(self, image_folder: Path, tmp_path: Path) -> None:
        reports: list[dict[str, float]] = []
        trainer = trainer_in(tmp_path / "run", tiny(steps=80, batch=4, learning_rate=0.02), reports)
        trainer.run(crops_of(image_folder, tmp_path), Limits(report_every=10))
        assert reports[-1]["log_mse"] < reports[0]["log_mse"] - 0.1
        logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert logged == reports
        assert {"images_per_second", "seconds_left", "loader_wait", "rate"} <= logged[0].keys()

    def test_a_run_that_failed_leaves_no_worker(self, image_folder: Path, tmp_path: Path) -> None:
        """Also while its error, and with it the frame of the loop, is still held: workers would keep the process."""
        machine = replace(CPU, workers=1)
        trainer = Trainer(build_method(tiny(), CPU), tiny(), machine, tmp_path, lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError) as held:
            trainer.run(crops_of(image_folder, tmp_path), Limits(report_every=1))
        assert held.value.__traceback__ is not None
        assert multiprocessing.active_children() == []

    def test_interrupted_and_resumed_is_bit_identical(self, image_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(image_folder, tmp_path)
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
        assert same(whole.method.model, second.method.model)

    def test_the_best_checkpoint_outlives_its_time(self, image_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(image_folder, tmp_path)
        reports: list[dict[str, float]] = []
        trainer = trainer_in(tmp_path / "run", tiny(), reports)
        figures = iter([10.0, 30.0, 20.0, 20.0, 25.0, 5.0])
        trainer.validation = _Scripted(figures)
        trainer.run(crops, Limits(save_every=2))
        kept = {path.name for path in trainer.checkpoints.iterdir()}
        assert kept == {"best.safetensors", *(f"step-{step:07d}.safetensors" for step in (8, 10, 12))}
        assert [line["psnr"] for line in reports if "psnr" in line] == [10.0, 30.0, 20.0, 20.0, 25.0, 5.0]
        trainer.best()
        assert trainer.step == 4

    def test_the_best_is_found_again_after_a_kill(self, image_folder: Path, tmp_path: Path) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        trainer.validation = _Scripted(iter([10.0, 30.0, 20.0, 20.0, 25.0, 28.0]))
        trainer.run(crops_of(image_folder, tmp_path), Limits(save_every=2))
        (trainer.checkpoints / "best.safetensors").unlink()  # killed between the checkpoint and its link
        again = trainer_in(tmp_path / "run", tiny())
        again.resume()
        again.best()
        assert again.step == 12

    def test_validation_sees_the_average_and_leaves_the_run_alone(self, image_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(image_folder, tmp_path)
        validation = Validation(crops.for_validation(), by_psnr=True)
        alone, compared = trainer_in(tmp_path / "alone", tiny()), trainer_in(tmp_path / "compared", tiny())
        compared.validation = validation
        for trainer in (alone, compared):
            trainer.run(crops, Limits(save_every=4))
        assert same(alone.average, compared.average)
        figures = validation.score(compared.method, compared.average, CPU)
        assert figures["psnr_input"] == pytest.approx(-20 * math.log10(25 / 255), abs=0.2)
        with torch.no_grad():
            for parameter in compared.average.parameters():
                parameter.zero_()  # a residual network of zeros is the identity
        zeros = validation.score(compared.method, compared.average, CPU)
        assert zeros["psnr"] == pytest.approx(zeros["psnr_input"], abs=0.01)

    def test_without_clean_images_the_terms_validate(self, image_folder: Path, tmp_path: Path) -> None:
        crops = crops_of(image_folder, tmp_path, views=2, alike=True, clean="none")
        trainer = trainer_in(tmp_path / "run", tiny(method="n2n", loss="mse"))
        trainer.validation = Validation(crops, by_psnr=False)
        trainer.run(crops, Limits())
        figures = trainer.validation.score(trainer.method, trainer.average, CPU)
        assert figures["val_score"] == -figures["val_mse"]
        assert (trainer.checkpoints / "best.safetensors").exists()

    def test_a_full_disk_leaves_the_last_good_checkpoint(
        self, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        replace = Path.replace

        def full(path: Path, target: Path) -> Path:
            if "0000008" in target.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(TrainingError, match="No space left") as caught:
            trainer.run(crops_of(image_folder, tmp_path), Limits(save_every=4))
        assert "--resume" in caught.value.hint
        assert [path.name for path in trainer.checkpoints.iterdir()] == ["step-0000004.safetensors"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_step_is_finished_and_saved(
        self, image_folder: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        crops = crops_of(image_folder, tmp_path)
        whole, cut = trainer_in(tmp_path / "whole", tiny()), trainer_in(tmp_path / "cut", tiny())
        whole.run(crops, Limits())
        cut.report = lambda line: os.kill(os.getpid(), number) if line["step"] == 5 else None
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            cut.run(crops, Limits(report_every=1))
        again = trainer_in(tmp_path / "cut", tiny())
        again.resume()
        assert again.step == 5
        again.run(crops, Limits())
        assert same(whole.average, again.average)

    def test_a_doubled_signal_is_one_and_the_next_is_handled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        received: list[int] = []
        former = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
        try:
            with Interruption() as requested:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert (requested.to_stop, received) == (signal.SIGINT, [])
            monkeypatch.setattr(Interruption, "AT_ONCE", 0.0)
            signal.raise_signal(signal.SIGINT)
            assert received == [signal.SIGINT]
            signal.raise_signal(signal.SIGINT)
            assert received == [signal.SIGINT] * 2
            with Interruption():
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.001)
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, former)

    def test_keeps_the_last_three_checkpoints(self, image_folder: Path, tmp_path: Path) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        trainer.run(crops_of(image_folder, tmp_path), Limits(save_every=2))
        names = sorted(path.name for path in trainer.checkpoints.iterdir())
        assert names == [f"step-{step:07d}.safetensors" for step in (8, 10, 12)]

    def test_a_broken_loss_stops_with_an_error(self, image_folder: Path, tmp_path: Path) -> None:
        trainer = trainer_in(tmp_path / "run", tiny())
        with torch.no_grad():
            trainer.method.model.head.weight.fill_(float("nan"))
        with pytest.raises(TrainingError, match="loss became nan"):
            trainer.run(crops_of(image_folder, tmp_path), Limits())

    def test_a_time_limit_ends_the_schedule(self) -> None:
        limits = Limits(minutes=1, started=time.monotonic() - 45)
        assert limits.progress(10, 1000, first=0) == pytest.approx(0.75, abs=0.01)
        assert limits.progress(900, 1000, first=0) == pytest.approx(0.9)
        assert limits.progress(500, 1000, first=500) == pytest.approx(0.875, abs=0.01)
        assert Limits().progress(10, 1000, first=0) == pytest.approx(0.01)

    def test_learning_rate_rises_and_falls(self) -> None:
        recipe = tiny(learning_rate=1.0, warmup=10)
        (update,) = optimizers_of(build_method(recipe, CPU), recipe).values()
        assert update.learning_rate(0, 0.0) == pytest.approx(0.1)
        assert update.learning_rate(50, 0.5) == pytest.approx(0.5)
        assert update.learning_rate(99, 1.0) == pytest.approx(0.0, abs=1e-9)


class _Scripted:
    """A validation whose verdicts are known beforehand."""

    best_is = "psnr"

    def __init__(self, figures: Iterator[float]) -> None:
        self.figures = figures

    def score(self, *_: object) -> dict[str, float]:
        return {"psnr": next(self.figures)}


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

    def test_supervised_has_one_network(self) -> None:
        method = Supervised(weights.build(weights.Card("x", "unet", TINY_UNET)), loss="l1")
        batch = Batch([torch.zeros(1, 3, 16, 16)], torch.ones(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
        terms = method.updates[0].terms(batch)
        assert terms["l1"].item() == pytest.approx(1.0)
        assert method.networks == {"denoiser": method.model}


class TestRecipes:
    @pytest.mark.parametrize("name", recipes.bundled())
    def test_bundled_recipes_can_be_cooked(self, name: str) -> None:
        recipe = recipes.load(name)
        assert recipe.id == name
        if recipe.noises:  # others take noise as it was recorded
            noisy = recipe.draw_noise()(torch.rand(3, 32, 32), torch.Generator().manual_seed(0))
            assert noisy.shape == (3, 32, 32)
        network = weights.build(weights.Card(name, recipe.architecture, recipe.config))
        assert recipe.patch % (network.multiple * recipe.options.get("pd", 1)) == 0

    def test_a_recipe_survives_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(tiny().dump())
        assert recipes.load(str(path)) == tiny()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stepz": 3}, "Did you mean 'steps'"),
            ({"steps": "many"}, "'steps' must be of type int"),
            ({"steps": True}, "'steps' must be of type int"),
            ({"partial_init": 1}, "'partial_init' must be of type bool"),
            ({"noises": []}, "'noises' must be of type dict"),
            ({"schedule": "cosin"}, "Did you mean 'cosine'"),
            ({"betas": [0.9]}, "'betas' cannot be [0.9]"),
            ({"weight_decay": -1}, "'weight_decay' cannot be -1"),
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
        with pytest.raises(RecipeError, match="no noise or pool called 'gausian'"):
            tiny(noises={"gausian:3": 1}).draw_noise()
        with pytest.raises(RecipeError, match="must be numbers"):
            tiny(noises={"gaussian:3": "often"}).draw_noise()


class TestRun:
    def options(self, image_folder: Path, tmp_path: Path, **changes: object) -> TrainOptions:
        return replace(
            TrainOptions(
                tmp_path / "run", [image_folder], device="cpu", precision="fp32", workers=0, cache=tmp_path / "cache"
            ),
            **changes,
        )

    def test_the_model_denoises(self, image_folder: Path, tmp_path: Path) -> None:
        path = train(tiny(), self.options(image_folder, tmp_path), _ignore, _ignore)
        network, card = weights.load_network(path)
        assert (card.id, card.steps, card.recipe) == ("tiny", 12, "tiny")
        assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)

    def test_the_same_recipe_gives_the_same_bytes(self, image_folder: Path, tmp_path: Path) -> None:
        first = train(tiny(), self.options(image_folder, tmp_path), _ignore, _ignore)
        other = self.options(image_folder, tmp_path, output=tmp_path / "other", workers=1)
        assert first.read_bytes() == train(tiny(), other, _ignore, _ignore).read_bytes()

    def test_a_run_is_not_overwritten(self, image_folder: Path, tmp_path: Path) -> None:
        options = self.options(image_folder, tmp_path)
        train(tiny(), options, _ignore, _ignore)
        with pytest.raises(OutputError, match="holds a training run"):
            train(tiny(), options, _ignore, _ignore)

    def test_a_smaller_network_may_start_from_what_fits(self, image_folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "start.safetensors"
        start = build_method(tiny(), CPU).model
        for each in start.parameters():
            torch.nn.init.constant_(each, 0.25)
        weights.save(path, start, weights.Card("start", "unet", TINY_UNET))
        smaller = tiny(init=str(path), partial_init=True, config=TINY_UNET | {"channels": 1, "middle": 0})
        state = build_method(smaller, CPU).model.state_dict()
        assert (state["head.weight"] == 0.75).all()  # the sum of three channels
        assert (state["tail.weight"] == 0.25).all()  # their mean
        coarser = replace(smaller, config=TINY_UNET | {"channels": 1, "unshuffle": 4})
        wider = build_method(coarser, CPU).model.state_dict()
        assert not (wider["head.weight"] == 0.75).any()
        assert all((wider[name] == state[name]).all() for name in state if name.startswith("encoders"))
        with pytest.raises(ModelError, match="another unet"):
            build_method(replace(smaller, partial_init=False), CPU)

    def test_init_starts_from_a_model(self, image_folder: Path, tmp_path: Path) -> None:
        path = train(tiny(), self.options(image_folder, tmp_path), _ignore, _ignore)
        method = build_method(tiny(init=str(path)), CPU)
        assert same(method.model, weights.load_network(path)[0])

    def test_a_run_of_version_0_1_0_goes_on(self, image_folder: Path, tmp_path: Path) -> None:
        """Recipe and checkpoint at step 3 were written by that version, and so was that at step 6."""
        previous, output = Path(__file__).parent / "previous", tmp_path / "run"
        (output / "checkpoints").mkdir(parents=True)
        shutil.copy(previous / "recipe.yaml", output)
        shutil.copy(previous / "step-0000003.safetensors", output / "checkpoints")
        options = self.options(image_folder, tmp_path, output=output, resume=True)
        train(recipes.load(str(output / "recipe.yaml")), options, _ignore, _ignore)
        found, expected = (
            load_file(folder / "step-0000006.safetensors") for folder in (output / "checkpoints", previous)
        )
        assert found.keys() == expected.keys()
        # Muon orthogonalises in bf16 where the CPU multiplies it, else in fp32: the last digits differ.
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, atol=1e-3), name

    def test_killed_runs_resume_to_the_same_weights(self, image_folder: Path, tmp_path: Path) -> None:
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(tiny(steps=120).dump())
        command = [sys.executable, "-m", "medcli", "train", "--data", image_folder, "--recipe", recipe]
        command += ["--device", "cpu", "--precision", "fp32", "--workers", "0", "--save-every", "40"]
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
