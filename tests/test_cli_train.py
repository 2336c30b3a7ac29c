"""Claims about the command `med train`: what it refuses and in which words, and what its runs survive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
import yaml
from click.testing import CliRunner
from PIL import Image

from medcli.cli import med as med_group
from medcli.errors import MedcliError
from medcli.noise.notation import parse_pool
from medcli.train import recipe as recipes
from medcli.train import validation_page
from medcli.zoo import weights
from medcli.zoo.capabilities import capabilities_of

Train = Callable[..., str]
TINY = """
id: tiny
title: Tiny
steps: 4
noises: {gaussian:25: 1}
architecture: dncnn
config: {width: 8, depth: 4}
patch: 16
batch: 2
warmup: 1
"""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Calls `med train` in an empty folder and returns what it says; errors are raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medcli.train.run.fitted", lambda recipe, *_: recipe)  # sizes: test_train_defaults.py
    Path("tiny.yaml").write_text(TINY)

    def call(*arguments: str, recipe: str = "tiny.yaml") -> str:
        machine = ["--device", "cpu", "--precision", "fp32", "--workers", "0", "--cache", "cache"]
        given = ["train", *machine, *(["--recipe", recipe] if recipe else []), *arguments]
        result = CliRunner().invoke(med_group, given, standalone_mode=False)
        if result.exception:
            raise result.exception
        return result.output

    return call


def message_lines(call: Callable[[], str]) -> str:
    """The words of the error that the call must end in, which is no traceback."""
    with pytest.raises((MedcliError, click.UsageError)) as caught:
        call()
    return str(caught.value)


def gray_folder(name: str, count: int = 3) -> Path:
    folder = Path(name)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((24, 30), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


class TestProduct:
    def test_card_names_the_images_also_of_a_recipe(self, train: Train, image_folder: Path) -> None:
        Path("tiny.yaml").write_text(TINY + "training_data: [those of another author]\n")
        said = train("--data", "clean", "-o", "a run ü.v1")
        assert "tiny.safetensors is ready" in said
        card = weights.read_card(Path("a run ü.v1/tiny.safetensors"))
        assert card.training_data == ["clean"]
        assert str(image_folder.parent) not in Path("a run ü.v1/README.md").read_text(encoding="utf-8")

    def test_licence_and_noise_are_of_ones_own_recipe_but_not_of_what_we_had(
        self, train: Train, image_folder: Path
    ) -> None:
        small = ["--data", "clean", "--steps", "1", "--batch", "1", "--patch", "16"]
        Path("tiny.yaml").write_text(TINY + "licence: MIT\n")
        train(*small, "-o", "mine")
        assert weights.read_card(Path("mine/tiny.safetensors")).licence == "MIT"
        assert recipes.load("ludvae-dncnn").licence
        assert "PolyU" in recipes.load("ludvae-dncnn").noise
        train("--noisy", "clean", "--clean", "clean", *small[2:], "-o", "ours", recipe="ludvae-dncnn")
        card = weights.read_card(Path("ours/ludvae-dncnn.safetensors"))
        assert (card.licence, card.noise) == ("", "")

    def test_card_claims_no_noise_of_a_recipe_that_the_images_did_not_have(
        self, train: Train, image_folder: Path
    ) -> None:
        Path("tiny.yaml").write_text(TINY.replace("gaussian:25", "drop:0.5") + "noise: what is missing\n")
        train("--data", "clean", "-o", "made")
        train("--noisy", "clean", "--clean", "clean", "-o", "recorded")
        card = weights.read_card(Path("made/tiny.safetensors"))
        assert (card.noise, capabilities_of(card).inpaints) == ("what is missing", True)
        card = weights.read_card(Path("recorded/tiny.safetensors"))
        assert (card.noise, card.noises) == ("", [])

    @pytest.mark.parametrize("option", ["--noise", "--pool"])
    def test_a_pool_in_a_file_is_kept_in_the_card(self, train: Train, image_folder: Path, option: str) -> None:
        Path("mine.yaml").write_text("{gaussian:9: 3, drop:0.5: 1}")
        train("--data", "clean", option, "mine.yaml", "-o", "run")
        card = weights.read_card(Path("run/tiny.safetensors"))
        assert (card.noise, card.noises) == ("gaussian:9, drop:0.5", ["gaussian:9", "drop:0.5"])
        Path("mine.yaml").unlink()
        assert "going on from step 4" in train("--data", "clean", "-o", "run", "--resume", "--steps", "5", recipe="")

    def test_words_on_a_noise_go_with_it(self, train: Train, image_folder: Path) -> None:
        Path("tiny.yaml").write_text(TINY + "noise: Gaussian of sigma 25\n")
        for noise, words in (("gaussian:25", "Gaussian of sigma 25"), ("speckle:9", "speckle:9")):
            train("--data", "clean", "--noise", noise, "-o", words)
            card = weights.read_card(Path(words, "tiny.safetensors"))
            assert (card.noise, card.noises) == (words, [noise])
        train("--data", "clean", "--noise", "poisson:30", "-o", "speckle:9", "--resume", "--steps", "6", recipe="")
        assert weights.read_card(Path("speckle:9/tiny.safetensors")).noise == "poisson:30"

    def test_images_here(self, train: Train, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = str(Path("tiny.yaml").resolve())
        monkeypatch.chdir(image_folder)
        train("--data", ".", "-o", "../run", recipe=recipe)
        assert weights.read_card(Path("../run/tiny.safetensors")).training_data == ["clean"]

    def test_other_processes_are_silent(
        self, train: Train, image_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        assert train("--data", "clean", "-o", "run") == ""

    def test_stacks_pair_page_by_page(self, train: Train) -> None:
        for number, name in enumerate(("noisy", "clean")):
            Path(name).mkdir()
            stack = np.full((4, 24, 30), 9000 * number, np.uint16)
            tifffile.imwrite(Path(name, "s.tif"), stack, photometric="minisblack")
        assert "4 images" in train("--noisy", "noisy", "--clean", "clean", "-o", "run")

    def test_links_that_lead_nowhere_are_left_out(self, train: Train, image_folder: Path) -> None:
        (image_folder / "gone.png").symlink_to("nowhere.png")
        (image_folder / "self.png").symlink_to("self.png")
        said = train("--data", "clean", "-o", "run")
        assert "5 images" in said
        assert said.count("left out") == 2

    def test_what_is_left_out_of_folders_is_reported(self, train: Train, image_folder: Path, locked: str) -> None:
        (image_folder / locked).mkdir()
        (image_folder / "a.psd").touch()
        said = train("--data", "clean", "-o", "run")
        assert f"left out: The folder clean/{locked} cannot be read: Permission denied." in said
        assert "left out: 1 skipped: .psd" in said

    def test_the_range_is_recorded_and_kept(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "run", "--range", "20:200", "--steps", "2")
        assert yaml.safe_load(Path("run/recipe.yaml").read_text())["range"] == "20:200"
        said = message_lines(lambda: train("--data", "clean", "-o", "run", "--resume", "--range", "20:210"))
        assert said.splitlines()[0] == "run was begun with --range 20:200."
        assert "going on from step 2" in train("--data", "clean", "-o", "run", "--resume", "--steps", "3")
        assert yaml.safe_load(Path("run/recipe.yaml").read_text())["range"] == "20:200"

    def test_patches_fit_small_images(self, train: Train) -> None:
        gray_folder("small")  # of 24x30 pixels
        said = message_lines(lambda: train("--data", "small", "-o", "run", "--patch", "64"))
        assert said.splitlines()[0] == "All images are smaller than the patches of 64 pixels."
        said = train("--noise", "gaussian:25", "--arch", "dncnn", "--config", "width=4", "--steps", "1",
                     "--data", "small", "-o", "free", recipe="")  # fmt: skip
        assert "patches of 24: no image has sides of" in said
        assert yaml.safe_load(Path("free/recipe.yaml").read_text())["patch"] == 24

    def test_images_left_out_of_val_are_named(self, train: Train, image_folder: Path) -> None:
        folder = gray_folder("validation")
        (folder / "bad.png").write_bytes(b"x")
        assert "bad.png" in train("--data", "clean", "--val", "validation", "-o", "run")


class TestConfig:
    def test_single_values_join_those_of_the_recipe(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "run", "--config", "width=6")
        assert weights.read_card(Path("run/tiny.safetensors")).config == {"width": 6, "depth": 4}
        assert recipes.load("run/recipe.yaml").config == {"width": 6, "depth": 4}

    def test_those_of_another_network_or_method_are_dropped(self, train: Train, image_folder: Path) -> None:
        Path("tiny.yaml").write_text(TINY + "method: r2r\noptions: {alpha: 0.3}\n")
        train("--data", "clean", "-o", "net", "--arch", "split", "--steps", "1")
        assert weights.read_card(Path("net/tiny.safetensors")).config == {}
        train("--data", "clean", "-o", "way", "--method", "n2n")
        assert recipes.load("way/recipe.yaml").options == {}


class TestUsualMethod:
    @pytest.mark.parametrize(
        ("given", "method", "architecture"),
        [
            ("--pool gaussian", "med", "split"),
            ("", "med", "split"),
            ("--pool gaussian --arch swin", "med", "swin"),
            ("--pool gaussian --method supervised", "supervised", "unet"),
            ("--pool gaussian --arch dncnn", "supervised", "dncnn"),
            ("--pool camera", "supervised", "unet"),
            ("--noise gaussian:25", "supervised", "unet"),
            ("--noise gaussian:25 --arch split", "supervised", "split"),
        ],
    )
    def test_of_clean_images(
        self, train: Train, image_folder: Path, given: str, method: str, architecture: str
    ) -> None:
        small = ["--steps", "1", "--batch", "1", "--patch", "16"]
        assert f"{method}: 5 images" in train("--data", "clean", *given.split(), *small, "-o", "run", recipe="")
        card = weights.read_card(Path("run/run.safetensors"))
        assert (card.method, card.architecture) == (method, architecture)

    def test_of_pairs(self, train: Train, image_folder: Path) -> None:
        pairs = ["--noisy", "clean", "--clean", "clean", "--steps", "1", "--batch", "1", "--patch", "16"]
        assert "supervised: 5 images" in train(*pairs, "-o", "run", recipe="")

    def test_a_recipe_says_it_itself(self, train: Train, image_folder: Path) -> None:
        assert "supervised: 5 images" in train("--data", "clean", "--pool", "gaussian", "-o", "run")

    def test_corruptions_are_reported_and_their_holes_are_no_targets(self, train: Train, image_folder: Path) -> None:
        small = ["--pool", "corruption", "--steps", "1", "--batch", "1", "--patch", "16"]
        assert "missing=true" in train("--data", "clean", *small, "-o", "run", recipe="")
        assert recipes.load("run/recipe.yaml").options == {"missing": True}
        found = capabilities_of(weights.read_card(Path("run/run.safetensors")))
        assert found.inpaints
        assert sorted(found.upscales) == [2, 3, 4]
        assert "enlarges 2, 3 or 4 times" in Path("run/README.md").read_text(encoding="utf-8")
        said = train("--data", "clean", *small, "--option", "missing=false", "-o", "other", recipe="")
        assert "missing=true" not in said
        assert recipes.load("other/recipe.yaml").options == {"missing": False}


def scales(notations: Iterable[str]) -> set[str]:
    return {each for each in notations if each.startswith("rescale")}


class TestPairs:
    SMALL = ("--pairs", "copies", "--steps", "1", "--batch", "1", "--patch", "16")

    def test_corruptions_are_reported_as_the_manifest_has_them(self, train: Train, image_folder: Path) -> None:
        made = ["--from", "clean", "--to", "copies", "--count", "9", "--pool", "corruption", "--processes", "1", "-q"]
        med_group.main(["synth-pairs", *made], prog_name="med", standalone_mode=False)
        train(*self.SMALL, "-o", "run", recipe="")
        card = weights.read_card(Path("run/run.safetensors"))
        drawn = {json.loads(line)["drawn"] for line in Path("copies/pairs.jsonl").read_text().splitlines()}
        assert {*card.noises} <= {str(noise) for _, noise in parse_pool("corruption").noises}
        assert scales(card.noises) == scales(drawn)
        assert {each.partition(":")[0] for each in card.noises} == {each.partition(":")[0] for each in drawn}
        assert capabilities_of(card).inpaints
        assert capabilities_of(card).upscales
        assert "fills in missing pixels" in Path("run/README.md").read_text(encoding="utf-8")


class TestInit:
    """Pre-trained with MeD, fine-tuned with another method, as in Table 2 of its paper."""

    CONFIGS = {  # noqa: RUF012 - not changed
        "split": {"widths": [16, 24], "encoders": [1, 1], "decoders": [1, 1]},
        "swin": {"width": 16, "depths": [1, 1], "heads": 2, "window": 4},
    }

    @pytest.fixture(params=CONFIGS)
    def start(self, train: Train, image_folder: Path, request: pytest.FixtureRequest) -> Path:
        changes = {"architecture": request.param, "config": self.CONFIGS[request.param], "method": "med", "id": "pre"}
        Path("pre.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | changes))
        train("--data", "clean", "-o", "pre", recipe="pre.yaml")
        return Path("pre/pre.safetensors")

    @pytest.mark.parametrize("method", ["supervised", "n2n", "med"])
    def test_another_method_goes_on_from_the_same_weights(self, train: Train, start: Path, method: str) -> None:
        still = ["--steps", "1", "--batch", "1", "--patch", "16", "--lr", "1e-9"]
        train("--data", "clean", "--noise", "gaussian:5-50", "--init", "pre", "--method", method, *still, "-o", "fine",
              recipe="")  # fmt: skip
        (before, old), (after, new) = (weights.load_network(path) for path in (start, Path("fine/fine.safetensors")))
        assert (new.method, new.architecture, new.noises) == (method, old.architecture, ["gaussian:5-50"])
        for name, tensor in before.state_dict().items():
            assert (after.state_dict()[name] - tensor).abs().max() < 1e-4

    def test_fine_tuning_moves_them(self, train: Train, start: Path) -> None:
        tuned = [
            "--steps",
            "2",
            "--batch",
            "1",
            "--patch",
            "16",
            "--lr",
            "1",
            "--init",
            "pre",
            "--noise",
            "gaussian:50",
        ]
        train("--data", "clean", *tuned, "-o", "fine", recipe="")
        (before, _), (after, card) = (weights.load_network(path) for path in (start, Path("fine/fine.safetensors")))
        assert card.method == "supervised"
        pairs = zip(before.parameters(), after.parameters(), strict=True)
        assert max((one - other).abs().max() for one, other in pairs) > 1e-3

    def test_card_names_the_images_of_both(self, train: Train, start: Path) -> None:
        gray_folder("more")
        small = ["--steps", "1", "--batch", "1", "--patch", "16"]
        train("--data", "more", "--data", "clean", "--init", "pre", *small, "-o", "fine", recipe="")
        assert weights.read_card(Path("fine/fine.safetensors")).training_data == ["clean", "more"]
        Path("on.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("pre.yaml").read_text()) | {"init": "fine"}))
        gray_folder("last")
        train("--data", "last", "--data", "clean", *small, "-o", "on", recipe="on.yaml")
        assert weights.read_card(Path("on/pre.safetensors")).training_data == ["clean", "more", "last"]

    def test_a_colour_model_takes_gray_images(self, train: Train, start: Path) -> None:
        gray_folder("gray")
        small = ["--steps", "1", "--batch", "1", "--patch", "16", "--init", "pre"]
        train("--data", "gray", *small, "-o", "fine", recipe="")
        assert weights.read_card(Path("fine/fine.safetensors")).channels == 3

    def test_noise_is_measured_anew(self, train: Train, image_folder: Path) -> None:
        of_others = {"width": 4, "sigma_x": 90.0, "sigma_y": 45.0, "gain": [2.0] * 3, "offset": [0.0] * 3}
        start = weights.build(weights.Card("start", "ludvae", of_others))
        weights.save(Path("start.safetensors"), start, weights.Card("start", "ludvae", of_others))
        Path("mine").mkdir()
        noise = np.random.default_rng(0).normal(128, 8, (3, 96, 96, 3)).astype(np.uint8)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(Path("mine", f"{number}.png"))
        unpaired = ["--noisy", "mine", "--clean", "clean", "--steps", "1", "--batch", "1", "--patch", "32"]
        learned = ["--method", "ludvae", "--init", "start.safetensors", "--option", "match=true"]
        assert "statistics matched" in train(*unpaired, *learned, "-o", "run", recipe="")
        config = weights.read_card(Path("run/run.safetensors")).config
        assert config["width"] == 4
        assert config["sigma_y"] == pytest.approx(1.2 * 8, rel=0.2)
        assert config["gain"] != of_others["gain"]


class TestStages:
    """AMSNet's two stages, from noisy images alone."""

    SHORT = ("--steps", "2", "--batch", "2", "--patch", "16", "--data", "clean", "--val", "clean")

    def test_stage_p_goes_on_from_stage_b_and_is_applied_like_it(self, train: Train, image_folder: Path) -> None:
        b = ("--method", "amsnet", "--arch", "dncnn", "--option", "branches=3", "--option", "fill=mean", "--pd", "2")
        train(*b, *self.SHORT, "-o", "b", recipe="")
        train("--method", "amsnet", "--option", "stage=p", "--init", "b", *self.SHORT, "-o", "p", recipe="")
        cards = [weights.read_card(Path(name, f"{name}.safetensors")) for name in "bp"]
        assert cards[0].strategy == cards[1].strategy == "masks:k=3,pd=2,fill=mean"
        assert cards[1].architecture == "dncnn"
        options = recipes.load("p/recipe.yaml").options
        assert {"stage": "p", "branches": 3, "fill": "mean"}.items() <= options.items()
        for name, terms in (("b", {"l1"}), ("p", {"l1", "roughness"})):
            lines = [json.loads(line) for line in Path(name, "log.jsonl").read_text().splitlines()]
            compared = next(line for line in lines if "val_score" in line)
            assert set(compared) == {"step", "val_score", *(f"val_{term}" for term in terms)}
            assert "psnr" not in compared

    @pytest.mark.parametrize(
        ("strategy", "options"),
        [("masks:k=4,pd=1", {"branches": 4, "fill": "zero", "denoise_pd": 1}), ("plain", {})],
    )
    def test_any_model_can_be_gone_on_from(
        self, train: Train, image_folder: Path, strategy: str, options: dict[str, object]
    ) -> None:
        train("--data", "clean", "-o", "run")
        network, card = weights.load_network(Path("run/tiny.safetensors"))
        weights.save(Path("run/tiny.safetensors"), network, replace(card, strategy=strategy))
        train("--method", "amsnet", "--option", "stage=p", "--init", "run", *self.SHORT, "-o", "p", recipe="")
        assert ({"stage": "p"} | options).items() <= recipes.load("p/recipe.yaml").options.items()

    def test_patches_that_no_stride_of_asking_divides_are_shown_all_the_same(
        self, train: Train, image_folder: Path
    ) -> None:
        requested = ("--method", "amsnet", "--arch", "dncnn", "--pd", "5", "--option", "denoise_pd=3")
        for noise in ((), ("--noise", "gaussian:9")):
            train(*requested, *noise, *self.SHORT, "-o", f"run{len(noise)}", recipe="")
            assert Path(f"run{len(noise)}/validation.png").is_file()

    def test_the_page_of_a_run_shows_the_patches_over_its_steps(
        self, train: Train, image_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(validation_page, "STEPS", 3)
        train("--data", "clean", "--val", "clean", "--steps", "5", "--save-every", "1", "-o", "run")
        text = Path("run/validation.html").read_text("utf-8")
        versions = list(dict.fromkeys(re.findall(r'data-name="([^"]*)"', text)))
        assert versions == ["noisy", "step 2", "step 4", "step 5", "clean"]
        assert sorted(path.name for path in Path("run/validation").iterdir()) == [
            f"step-000000{step}.png" for step in (2, 4, 5)
        ]
        assert text.count('<section class="scene"') == validation_page.PATCHES

    def test_camera_noise_of_the_validation_images_is_drawn_in_fp32(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "--val", "clean", "--pool", "camera", "--precision", "bf16", *self.SHORT, "-o", "run")
        assert Path("run/validation.png").is_file()

    def test_options_add_to_those_of_a_recipe_of_the_same_method(self, train: Train, image_folder: Path) -> None:
        Path("amsnet.yaml").write_text(TINY + "method: amsnet\noptions: {fill: mean, pd: 1}\n")
        train("--option", "branches=3", "--data", "clean", "-o", "same", recipe="amsnet.yaml")
        assert recipes.load("same/recipe.yaml").options == {"fill": "mean", "pd": 1, "branches": 3}
        train("--method", "n2s", "--option", "spacing=3", "--data", "clean", "-o", "other", recipe="amsnet.yaml")
        assert recipes.load("other/recipe.yaml").options == {"spacing": 3}


class TestErrors:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("--data clean --noisy clean --clean clean", "noisy already"),
            ("--noisy clean --clean clean --noise gaussian:5", "noisy already"),
            ("--data clean --noise gaussian:5 --pool noise", "exclude each other"),
            ("--pairs clean --data clean", "noisy already"),
            ("--pairs clean --noisy clean", "exclude each other"),
            ("--pairs clean", "holds no pairs.jsonl"),
            ("--data clean --config widht=8", "Did you mean 'width'"),
            ("--data clean --config width", "not NAME=VALUE"),
            ("--data clean --option match=true", "does not take these options"),
            ("--data clean --option views={a", "cannot be understood"),
            ("--data clean --option views", "not NAME=VALUE"),
            ("--data clean --option loss=zz", "no loss 'zz'"),
            ("--data clean --option loss=[1]", "no loss '[1]'"),
            ("--data clean --option views=2020-13-45", "cannot be understood"),
            ("--data clean --option colour=1", "does not take these options"),
            ("--data clean --method amsnet --option pd=2.5", "'pd' of 'amsnet' cannot be 2.5"),
            ("--data clean --lr inf", "'learning_rate' cannot be inf"),
            ("--data clean --seed 99999999999999999999", "'seed' cannot be"),
            ("--data gray --pool camera", "cannot be added to gray"),
            ("--data clean --method amsnet --arch unet --pd 5", "A patch of 16 pixels is too small"),
            ("--method n2n --noisy clean --noisy clean --val clean", "Leave --val out"),
        ],
    )
    def test_options(self, train: Train, image_folder: Path, given: str, words: str) -> None:
        gray_folder("gray")
        assert words in message_lines(lambda: train(*given.split(), "-o", "run"))
        assert not Path("run").exists()

    def test_a_patch_that_does_not_fit(self, train: Train, image_folder: Path) -> None:
        words = message_lines(lambda: train("--data", "clean", "--patch", "20", "-o", "run", recipe=""))
        assert "Give --patch 16 or 32" in words

    def test_init_is_of_one_architecture(self, train: Train, image_folder: Path) -> None:
        words = message_lines(
            lambda: train("--data", "clean", "--init", "photo", "--arch", "dncnn", "-o", "run", recipe="")
        )
        assert "leave --arch out" in words

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("batch: 0", "'batch' cannot be 0"),
            ("steps: 0", "'steps' cannot be 0"),
            ("ema: 2", "'ema' cannot be 2"),
            ("held_out: 1", "'held_out' cannot be 1"),
            ("learning_rate: 1e-3", "1.0e-3"),
            ("learning_rate: .nan", "'learning_rate' cannot be nan"),
            ("clip: 0", "'clip' cannot be 0"),
            ("id: ../evil", "cannot be the id"),
            ("noises: {25: 1}", "must hold names"),
            ("training_data: [1]", "must hold names"),
            ("training_data: abc", "of type list"),
            ("config: {channels: 2}", "2 channels"),
            ("title: 2020-13-45", "is not YAML"),
        ],
    )
    def test_recipes(self, line: str, words: str, tmp_path: Path) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text(f"{TINY}\n{line}\n")  # the last of two equal keys counts
        message = message_lines(lambda: str(recipes.load(str(path))))
        assert words in message
        assert str(path) in message


class TestResume:
    def test_options_that_do_not_fit_leave_the_run_as_it_was(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "run")
        frozen = Path("run/recipe.yaml").read_text()
        wider = ["--data", "clean", "-o", "run", "--resume", "--method", "med", "--arch", "split"]
        message_lines(lambda: train(*wider, recipe=""))
        Path("other.yaml").write_text(frozen.replace("width: 8", "width: 16"))
        Path("run/recipe.yaml").write_text(Path("other.yaml").read_text())
        words = message_lines(lambda: train("--data", "clean", "-o", "run", "--resume", recipe=""))
        assert "other options" in words
        assert len(words.splitlines()) == 2  # a problem and a hint, not a list of all tensors
        Path("run/recipe.yaml").write_text(frozen)
        assert "going on from step 4" in train("--data", "clean", "-o", "run", "--resume", recipe="")

    def test_another_network_is_reported_in_one_line(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "run")
        again = ["--data", "clean", "-o", "run", "--resume", "--steps", "5"]
        words = message_lines(lambda: train(*again, "--arch", "unet", recipe=""))
        assert words.splitlines()[0] == "run was begun with the network 'dncnn'."
        assert "going on from step 4" in train(*again, "--arch", "dncnn", recipe="")

    def test_a_recipe_that_is_named_again_is_not_read_and_that_is_said(self, train: Train, image_folder: Path) -> None:
        again = ["--data", "clean", "-o", "run", "--resume"]
        assert "keeps the recipe" not in train(*again)
        Path("tiny.yaml").write_text(TINY.replace("steps: 4", "steps: 6"))
        said = train(*again)
        assert "run keeps the recipe that it was begun with: --recipe tiny.yaml is for new runs" in said
        assert "going on from step 4 of 4" in said
        assert "keeps the recipe" not in train(*again, "--steps", "6", recipe="")
        Path("tiny.yaml").write_text(TINY.replace("id: tiny", "id: other"))
        words = message_lines(lambda: train(*again))
        assert "begun with the recipe 'tiny', not 'other'" in words
        assert "Leave --recipe out" in words

    def test_a_refused_checkpoint_keeps_the_frozen_recipe(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "run")
        frozen = Path("run/recipe.yaml").read_text()
        Path("run/checkpoints/step-0000004.safetensors").write_bytes(b"torn")
        words = message_lines(lambda: train("--data", "clean", "-o", "run", "--resume", "--steps", "6", recipe=""))
        assert "remove it" in words
        assert Path("run/recipe.yaml").read_text() == frozen

    def test_a_damaged_best_is_no_obstacle(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "--save-every", "2", "--val", "clean", "-o", "run")
        best = Path("run/checkpoints/best.safetensors")
        best.unlink()
        best.write_bytes(b"torn")
        train("--data", "clean", "--val", "clean", "-o", "run", "--resume", "--steps", "6", recipe="")
        assert weights.read_card(Path("run/tiny.safetensors")).steps > 0

    def test_a_torn_line_of_the_log_costs_no_other(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "--report-every", "1", "-o", "run")
        log = Path("run/log.jsonl")
        log.write_text(log.read_text() + '{"step": 4, "log_')
        again = ["--data", "clean", "-o", "run", "--resume", "--steps", "6", "--report-every", "1"]
        train(*again, recipe="")
        lines = log.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines[-2:]] == [5, 6]

    def test_a_run_goes_on_without_the_model_that_it_started_from(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "start")
        train("--data", "clean", "--init", "start", "-o", "run")
        Path("start").rename("elsewhere")
        again = ["--data", "clean", "-o", "run", "--resume", "--steps", "6"]
        assert "going on from step 4 of 6" in train(*again, recipe="")
        assert recipes.load("run/recipe.yaml").init == "start"
        Path("run/checkpoints/step-0000004.safetensors").unlink()
        Path("run/checkpoints/step-0000006.safetensors").unlink()
        assert "no model called 'start'" in message_lines(lambda: train(*again, recipe=""))

    def test_nothing_to_go_on_from_is_said(self, train: Train, image_folder: Path) -> None:
        assert "no checkpoint in run: a new run" in train("--data", "clean", "-o", "run", "--resume")

    def test_a_cache_that_lost_a_file_is_made_again(self, train: Train, image_folder: Path) -> None:
        train("--data", "clean", "-o", "first")
        (pixels,) = Path("cache").glob("*.pixels")
        pixels.write_bytes(pixels.read_bytes()[:100])
        train("--data", "clean", "-o", "second")
        pixels.unlink()
        train("--data", "clean", "-o", "third")
        (index,) = Path("cache").glob("*.json")
        index.write_text("{")
        train("--data", "clean", "-o", "fourth")
        products = {Path(run, "tiny.safetensors").read_bytes() for run in ("first", "second", "third", "fourth")}
        assert len(products) == 1
