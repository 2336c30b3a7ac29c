"""What every method owes the loop, and what the loop owes any method: also one with three optimizers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from PIL import Image
from safetensors.torch import load_file
from test_archs import TINY
from three_optimizers import ThreeOptimizers
from torch import nn

import medcli
from medcli.data.cache import open_cache
from medcli.data.crops import CropSampler, SyntheticPairs, stacked
from medcli.errors import RecipeError, TrainingError
from medcli.methods.base import Batch, Method, Needs
from medcli.methods.n2n import Noise2Noise
from medcli.noise.gaussian import Gaussian
from medcli.registry import METHODS
from medcli.train import checkpoint
from medcli.train.curves import is_term
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Trainer
from medcli.train.optimizers import UpdateOptimizer, optimizers_of
from medcli.train.recipe import Recipe
from medcli.train.run import TrainOptions, build_method, train
from medcli.train.sources import Folders, open_sources
from medcli.zoo import weights

CPU = Hardware(torch.device("cpu"), torch.float32, workers=0)
RECIPE = Recipe(id="x", title="", steps=6, patch=16, batch=2, warmup=1, config=TINY_UNET, learning_rate=0.01)


def tiny_unet() -> nn.Module:
    return weights.build(weights.Card("x", "unet", TINY_UNET))


def source_of(folder: Path, needs: Needs) -> SyntheticPairs:
    images = open_cache(sorted(folder.iterdir()), folder.parent / "cache", smallest=16)
    return SyntheticPairs(images, Gaussian(25, 25), CropSampler(16), 0, needs.views, needs.alike, needs.clean)


def snapshot(method: Method) -> dict[str, list[torch.Tensor]]:
    return {name: [p.detach().clone() for p in network.parameters()] for name, network in method.networks.items()}


def moved(before: dict[str, list[torch.Tensor]], method: Method) -> set[str]:
    return {
        name
        for name, network in method.networks.items()
        if any(not torch.equal(old, new) for old, new in zip(before[name], network.parameters(), strict=True))
    }


def trainer_in(folder: Path, **changes: object) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(folder.name))
    return Trainer(ThreeOptimizers(tiny_unet()), replace(RECIPE, **changes), CPU, folder, lambda _: None)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return trainer_in(tmp_path / "run")


class TestThreeOptimizers:
    def test_an_update_moves_only_its_networks(self, trainer: Trainer, image_folder: Path) -> None:
        batch = CPU.batch(stacked(source_of(image_folder, trainer.method.needs), 0, range(2)))
        reported = {"codes": {"codes"}, "critics": {"codes", "noisy", "clean"}}
        reported["generators"] = {"encoder", "denoiser", "teacher"}
        for title, update in trainer.updates.items():
            before = snapshot(trainer.method)
            trainer._make(update, batch, 0.01)
            assert moved(before, trainer.method) == reported[title]

    def test_what_was_frozen_stays_so(self, trainer: Trainer, image_folder: Path) -> None:
        extractor, others = trainer.method.model.extractor, snapshot(trainer.method)
        before = [p.clone() for p in extractor.parameters()]
        trainer.run(source_of(image_folder, trainer.method.needs), Limits())
        assert moved(others, trainer.method) == set(trainer.method.networks)
        assert all(torch.equal(old, new) for old, new in zip(before, extractor.parameters(), strict=True))
        frozen = {name for name, p in trainer.method.model.named_parameters() if not p.requires_grad}
        assert frozen == {"extractor.weight", "extractor.bias"}

    def test_each_has_its_optimizer_and_rhythm(self, trainer: Trainer, image_folder: Path) -> None:
        trainer.run(source_of(image_folder, trainer.method.needs), Limits())
        codes, critics, generators = trainer.optimizers.values()
        assert [type(each).__name__ for each in (codes, critics, generators)] == ["Adam", "Muon", "AdamW"]
        steps = [{int(state[key]) for state in each.state.values() if key in state}
                 for each, key in ((codes, "step"), (critics, "steps"), (generators, "step"))]  # fmt: skip
        assert steps == [{18}, {6}, {6}]
        assert codes.param_groups[0]["betas"] == (0.0, 0.9)
        assert [each.param_groups[0]["weight_decay"] for each in (codes, critics, generators)] == [0, 1e-4, 0.1]

    def test_each_has_its_learning_rate_schedule_and_clip(self, trainer: Trainer) -> None:
        codes, critics, generators = trainer.updates.values()
        assert codes.learning_rate(5, 0.5) == pytest.approx(0.5e-3)  # half a cosine
        assert critics.learning_rate(5, 0.4) == pytest.approx(0.25 * RECIPE.learning_rate)  # halved at each third
        late = trainer_in(trainer.log.parent, warmup=10).updates
        assert late["generators"].learning_rate(0, 0.0) == pytest.approx(1e-4)
        assert late["critics"].learning_rate(0, 0.0) == pytest.approx(0.5 * RECIPE.learning_rate)
        assert [each.clip for each in (codes, critics, generators)] == [5.0, math.inf, RECIPE.clip]

    def test_gradients_and_rates_are_logged_for_each(self, trainer: Trainer, image_folder: Path) -> None:
        lines: list[dict[str, float]] = []
        trainer.report = lines.append
        trainer.run(source_of(image_folder, trainer.method.needs), Limits(report_every=1))
        titles = ("codes", "critics", "generators")
        assert {name for name in lines[0] if "/" in name} == {f"{k}/{t}" for k in ("gradient", "rate") for t in titles}
        assert len({lines[0][f"gradient/{title}"] for title in titles}) == 3
        assert {name for name in lines[0] if is_term(name)} == {
            "codes", "noisy", "clean", "codes_again", "fool", "teach"
        }  # fmt: skip

    def test_an_update_can_skip_steps(self, trainer: Trainer, image_folder: Path) -> None:
        lines: list[dict[str, float]] = []
        trainer.report = lines.append
        trainer.updates["codes"].update = replace(trainer.updates["codes"].update, every=2)
        trainer.run(source_of(image_folder, trainer.method.needs), Limits(report_every=1))
        assert ["codes" in line for line in lines] == [True, False] * 3

    def test_resumes_to_the_bit(self, trainer: Trainer, image_folder: Path, tmp_path: Path) -> None:
        source = source_of(image_folder, trainer.method.needs)
        trainer.run(source, Limits(save_every=3))
        whole, average = snapshot(trainer.method), list(trainer.average.parameters())
        for late in sorted(trainer.checkpoints.iterdir())[1:]:
            late.unlink()
        again = Trainer(ThreeOptimizers(tiny_unet()), RECIPE, CPU, tmp_path / "run", lambda _: None)
        assert again.resume()
        assert again.step == 3
        again.run(source, Limits())
        assert moved(whole, again.method) == set()
        assert all(torch.equal(a, b) for a, b in zip(average, again.average.parameters(), strict=True))

    def test_the_model_is_exported(self, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(METHODS, "three", "three_optimizers:ThreeOptimizers")
        recipe = replace(RECIPE, method="three", noises={"gaussian:25": 1}, held_out=0.4)
        options = TrainOptions(tmp_path / "run", [image_folder], device="cpu", precision="fp32", workers=0)
        path = train(recipe, replace(options, cache=tmp_path / "cache"), lambda _: None, lambda _: None)
        network, card = weights.load_network(path)
        assert (card.architecture, card.config) == ("unet", network.config)
        kept = checkpoint.saved(tmp_path / "run" / "checkpoints")[-1].with_name(checkpoint.BEST)
        tensors = load_file(kept)
        for name, tensor in network.state_dict().items():
            assert torch.allclose(tensor, tensors[f"module.average.network.{name}"], rtol=0.01)  # in 16 bits

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"optimizer": "muon", "betas": (0.5, 0.9)}, "'muon' takes no betas"),
            ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ],
    )
    def test_what_an_optimizer_does_not_take(self, change: dict[str, object], words: str) -> None:
        method = ThreeOptimizers(tiny_unet())
        with pytest.raises(RecipeError) as caught:
            UpdateOptimizer(replace(method.updates[0], **change), method.networks, RECIPE)
        assert words in str(caught.value)

    def test_the_recipe_has_the_defaults(self) -> None:
        method = Noise2Noise(tiny_unet())
        recipe = replace(RECIPE, optimizer="adam", betas=[0.5, 0.9], weight_decay=1e-3, schedule="constant", warmup=4)
        (update,) = optimizers_of(method, recipe).values()
        group = update.optimizer.param_groups[0]
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.9), 1e-3)
        assert [update.learning_rate(step, 0.9) for step in (0, 3)] == [RECIPE.learning_rate / 4, RECIPE.learning_rate]

    def test_updates_of_the_same_networks_need_names(self) -> None:
        method = Noise2Noise(tiny_unet())
        method.updates = method.updates * 2
        with pytest.raises(ValueError, match="need names"):
            optimizers_of(method, RECIPE)


def test_checkpoints_name_the_optimizer_state_after_the_networks(image_folder: Path, tmp_path: Path) -> None:
    """As they always did, so that runs of earlier versions go on."""
    trainer = Trainer(Noise2Noise(tiny_unet()), RECIPE, CPU, tmp_path, lambda _: None)
    trainer.run(source_of(image_folder, trainer.method.needs), Limits())
    states = {name for name in load_file(checkpoint.saved(trainer.checkpoints)[-1]) if name.startswith("optimizer.")}
    weights_and_biases = list(trainer.method.model.parameters())
    assert states == {
        f"optimizer.denoiser.{place}.{key}"
        for place, parameter in enumerate(weights_and_biases)
        for key in (("momentum",) if parameter.ndim > 1 else ("mean", "square", "steps"))
    }


class TestOthers:
    def test_unpaired_clean_images_come_from_their_own_folder(self, image_folder: Path, tmp_path: Path) -> None:
        white = tmp_path / "white"
        white.mkdir()
        for number in range(3):
            Image.new("RGB", (48, 48), "white").save(white / f"{number}.png")
        folders = Folders(tmp_path / "cache", data=[image_folder], clean=[white])
        recipe = replace(RECIPE, noises={"gaussian:25": 1}, held_out=0.4)
        sources = open_sources(recipe, Needs(clean="unpaired"), folders)
        noisy, clean, _ = stacked(sources.train, 0, range(8))
        assert clean is not None
        assert clean.min() == 1
        assert noisy[0].mean() < 0.9
        assert open_sources(recipe, Needs(clean="paired"), folders).images > sources.images
        assert sources.validation is not None


class TestNoise2Noise:
    def test_never_sees_a_clean_image(self) -> None:
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


def test_a_worker_that_dies_is_an_error(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(Trainer, "run", die)
    options = TrainOptions(tmp_path / "run", [image_folder], device="cpu", workers=0, cache=tmp_path / "cache")
    with pytest.raises(TrainingError, match="ended from outside"):
        train(replace(RECIPE, noises={"gaussian:25": 1}), options, lambda _: None, lambda _: None)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_from_images_to_a_denoised_image(name: str, image_folder: Path, tmp_path: Path) -> None:
    own = {
        "med": "swin",
        "lir": "lir",
        "ludvae": "ludvae",
        "noise2vst": "noise2vst",
        "nvt": "self2self",
        "self2self": "self2self",
    }
    architecture = own.get(name, "unet")
    recipe = Recipe(
        id="tiny", title="", steps=2, method=name, architecture=architecture, config=TINY[architecture],
        noises={"gaussian:25": 1}, patch=32, batch=2, warmup=1, held_out=0.2,
        options={"amsnet": {"pd": 1}, "self2self": {"passes": 2}}.get(name, {}),
    )  # fmt: skip
    options = TrainOptions(
        tmp_path / "run", [image_folder], device="cpu", precision="fp32", workers=0, limits=Limits(report_every=1)
    )
    path = train(recipe, replace(options, cache=tmp_path / "cache"), lambda _: None, lambda _: None)
    assert {"README.md", "curves.png", "recipe.yaml", "log.jsonl"} <= {file.name for file in path.parent.iterdir()}
    if name == "ludvae":
        return  # its model makes noise
    noisy = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    restored = medcli.load(path, device="cpu")(noisy)
    assert restored.shape == noisy.shape
    assert (path.parent / "validation.png").exists()
