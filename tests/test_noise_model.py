"""`med synth-pairs --like`: a camera's noise modelled from its own images, then used to train a denoiser."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from medcli.batch.synth.options import SynthPairsOptions
from medcli.batch.synth.run import SynthOutcome, SynthTask
from medcli.cli import med
from medcli.cli.progress import ProgressDisplay
from medcli.cli.synth_run import report
from medcli.data.folders import images_in
from medcli.data.pairs import MANIFEST
from medcli.errors import InputError, MedcliError, ModelError, OptionError, OutputError, RecipeError
from medcli.train import noise_model
from medcli.train.loop import Trainer
from medcli.train.recipe import load
from medcli.zoo import weights

STEPS = 6
TINY = f"""
id: tiny
title: Tiny
method: ludvae
architecture: ludvae
config: {{width: 4}}
options: {{rise: 2}}
steps: {STEPS}
patch: 32
batch: 2
warmup: 1
held_out: 0.1
"""

Call = Callable[..., str]


@pytest.fixture
def call(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Calls `med` in a folder with `clean` and `mine`, noisy images of other scenes; returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("tiny.yaml").write_text(TINY)
    monkeypatch.setattr(noise_model, "NOISE_MODEL_RECIPE", "tiny.yaml")
    monkeypatch.setattr(noise_model, "SELDOM", 1)
    noisy_images(Path("mine"))

    def said(*arguments: str) -> str:
        capsys.readouterr()
        med.main([part for each in arguments for part in each.split()], prog_name="med", standalone_mode=False)
        return capsys.readouterr().err

    return said


def noisy_images(folder: Path, seed: int = 0) -> None:
    """Three smooth ones with noise of 8 grey levels."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    down, right = np.mgrid[0:50, 0:61] / 50
    for number in range(3):
        scene = np.stack([120 + 60 * np.sin(2 * down + number) * np.cos(2 * right + c) for c in range(3)], -1)
        levels = (scene + 8 * draw.normal(size=scene.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")


SYNTH = "synth-pairs --from clean --to noisy --like mine --device cpu --processes 1"
MODEL = Path("noisy") / noise_model.PLACE


def content(folder: str) -> dict[str, bytes]:
    """What decides anything, hidden files too: neither logs, which tell the pace, nor checkpoints."""
    names = [path for path in Path(folder).rglob("*") if path.suffix in (".png", ".jsonl", ".safetensors")]
    kept = [
        path for path in names if path.parent.name != "checkpoints" and path.name not in ("log.jsonl", "curves.png")
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_from_noisy_images_to_a_denoiser(call: Call) -> None:
    said = call(SYNTH, "--count 2")
    assert f"{STEPS} steps of " in said
    assert "s an image, " in said
    assert "10 done in " in said
    assert (MODEL / "noise.png").is_file()
    assert len(images_in(Path("noisy"))) == 10
    assert {json.loads(line)["noise"] for line in Path("noisy", MANIFEST).read_text().splitlines()} == {"noise-of-mine"}
    machine = "--device cpu --precision fp32 --workers 0"
    small = "--arch dncnn --config width=4 --config depth=3 --patch 32 --batch 2 --steps 3"
    assert "10 images" in call("train --pairs noisy -o run", machine, small)
    call("denoise mine/0.png --model run -o out.png --device cpu")
    with Image.open("out.png") as restored, Image.open("mine/0.png") as noisy:
        assert restored.size == noisy.size
        assert restored.tobytes() != noisy.tobytes()
    assert "5 done" in call("synth-pairs --from clean --to later --processes 1 --device cpu --model", str(MODEL))


class TestContinuing:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_interrupted_training_is_continued(self, number: int, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        call(SYNTH.replace("noisy", "whole"))
        if (child := os.fork()) == 0:
            stopped_by(number, monkeypatch)
        os.waitpid(child, 0)
        assert not list(MODEL.glob("*.safetensors"))
        assert f"going on from step 3 of {STEPS}" in call(SYNTH)
        assert content("noisy") == content("whole")

    def test_a_trained_model_is_not_trained_again(self, call: Call) -> None:
        call(SYNTH)
        before = content("noisy")
        said = call(SYNTH)
        assert f"the noise model of mine is there: {MODEL}" in said
        assert "5 up to date" in said
        (MODEL / "noise-of-mine.safetensors").unlink()  # as if it had been killed before the last file
        assert "5 up to date" in call(SYNTH)
        assert content("noisy") == before

    @pytest.mark.parametrize(
        ("options", "words"), [("--config width=5", "--config"), ("--option kl=0.01", "--option"), ("", "--like")]
    )
    def test_a_model_of_something_else_is_not_used(self, options: str, words: str, call: Call) -> None:
        call(SYNTH)
        if not options:
            Path("mine/1.png").write_bytes(Path("mine/0.png").read_bytes())
        with pytest.raises(OutputError, match=f"was trained on something else: there is a change in .*{words}"):
            call(SYNTH, options)
        first = (MODEL / "noise-of-mine.safetensors").read_bytes()
        assert "5 done" in call(SYNTH, options, "--overwrite")
        assert (MODEL / "noise-of-mine.safetensors").read_bytes() != first
        assert not list(Path("noisy").glob("*.old"))
        assert "5 up to date" in call(SYNTH, options)

    def test_other_clean_images_keep_the_noise(self, call: Call) -> None:
        call(SYNTH)
        Path("clean/new.png").write_bytes(Path("clean/0.png").read_bytes())
        said = call(SYNTH)
        assert "other clean images" in said
        assert "1 done, 5 up to date" in said

    def test_a_dry_run_trains_nothing(self, call: Call) -> None:
        said = call(SYNTH, "--dry-run")
        assert "would train the noise model of mine first" in said
        assert "5 to do in" in said
        assert not Path("noisy").exists()
        call(SYNTH)
        assert "5 up to date" in call(SYNTH, "--dry-run")


def stopped_by(number: int, monkeypatch: pytest.MonkeyPatch) -> NoReturn:
    """In the run itself, not in the trial of its pace: the signal comes in the third step, or just after it."""
    turn = Trainer._train_step
    last = 2 if number == signal.SIGINT else 3  # Ctrl-C lets the step be finished

    def turn_all(trainer: Trainer, *given: object) -> dict[str, float]:
        if trainer.recipe.steps == STEPS and trainer.step == last:
            os.kill(os.getpid(), number)
        return turn(trainer, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_step", turn_all)
    try:
        med.main(SYNTH.split(), prog_name="med", standalone_mode=False)
    finally:
        os._exit(0)


def test_the_first_copy_of_a_process_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """It waits for the model to be loaded, which no later one does."""
    seconds = [9.0, 8.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    made = (
        SynthOutcome(SynthTask(f"{i}.png", f"{i}.png", 0), "done", seconds=taken) for i, taken in enumerate(seconds)
    )
    given = SynthPairsOptions(clean=Path("clean"), noisy=Path("noisy"), model="run")
    with ProgressDisplay(animate=False) as display:
        report(made, given, len(seconds), 2, display)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "an image" in line)
    assert line == "about 1 s an image, 4 s for the 4 that are left"


def test_a_start_model_brings_its_weights_and_not_its_levels(call: Call) -> None:
    start = weights.build(weights.Card("start", "ludvae", {"width": 6, "sigma_x": 90.0, "sigma_y": 45.0}))
    weights.save(
        Path("start.safetensors"), start, weights.Card("start", "ludvae", start.config, training_data=["others"])
    )
    call(SYNTH, "--model start.safetensors")
    card = weights.read_card(MODEL / "noise-of-mine.safetensors")
    config = card.config
    assert card.training_data == ["others", "mine", "clean"]
    assert config["width"] == 6
    assert config["sigma_y"] == pytest.approx(1.2 * 8, rel=0.2)
    assert load(str(MODEL / "recipe.yaml")).init == "start.safetensors"
    with pytest.raises(OutputError, match="the --model to start from"):
        call(SYNTH)
    with pytest.raises(ModelError, match="of this very folder"):
        call(SYNTH, "--overwrite --model", str(MODEL))
    assert MODEL.is_dir()


def test_statistics_can_be_matched(call: Call) -> None:
    assert "statistics matched" in call(SYNTH, "--option match=true")
    assert len(weights.read_card(MODEL / "noise-of-mine.safetensors").config["gain"]) == 3


def test_the_docs_give_the_steps_of_the_recipe() -> None:
    page = Path(__file__).parents[1] / "docs" / "noise-of-your-camera.md"
    assert f"{load(noise_model.NOISE_MODEL_RECIPE).steps:,} steps" in page.read_text(encoding="utf-8")


def test_minutes_become_steps_with_all_in_proportion() -> None:
    job = noise_model.NoiseModelJob(Path("mine"), Path("clean"), Path("x"), minutes=10.0)
    usual = replace(load("ludvae"), steps=2400, warmup=100, options={"rise": 1000})
    fitted = noise_model._fitted(usual, job, 0.5)
    assert fitted == replace(usual, steps=1200, warmup=50, options={"rise": 500})
    assert noise_model._fitted(usual, replace(job, minutes=None), 0.5) == usual
    assert noise_model._fitted(usual, replace(job, options={"rise": 7}), 0.5).options == {"rise": 7}
    assert noise_model._fitted(usual, job, 1e9).steps == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ("--like mine --noise gaussian:5", OptionError, "one of them"),
            ("--like mine --direction noisy-to-clean", OptionError, "learns how images become noisy"),
            ("--minutes 3", OptionError, "need a folder to learn from"),
            ("--like clean", InputError, "must be apart"),
            ("--like .", InputError, "must be apart"),
            ("--like mine -m photo", ModelError, "cannot generate it"),
            ("--like mine --option views=3", RecipeError, "does not take these options"),
            ("--like mine --config widht=3", RecipeError, "Did you mean 'width'"),
            ("--like small", MedcliError, "smaller than the patches of 32 pixels"),
            ("--like mine --sigma 50-5", RecipeError, "is reversed"),
            ("--like mine --sigma 300", RecipeError, "300 is not a valid level for 'sigma'"),
            ("--like mine --temperature 11", RecipeError, "11 is not a valid level for 'temperature'"),
        ],
    )
    def test_nothing_is_left(self, options: str, error: type[Exception], words: str, call: Call) -> None:
        Path("small").mkdir()
        Image.new("RGB", (20, 40)).save("small/a.png")
        with pytest.raises(error, match=words):
            call("synth-pairs --from clean --to noisy --processes 1", options)
        assert not Path("noisy").exists()

    def test_a_manifest_of_others_is_refused_before_the_training(self, call: Call) -> None:
        Path("noisy").mkdir()
        Path("noisy", MANIFEST).write_text("a page of mine\n")
        with pytest.raises(OutputError, match="is not a manifest"):
            call(SYNTH)
        assert not MODEL.exists()

    def test_gray_images_get_no_colour_noise(self, call: Call) -> None:
        Path("gray").mkdir()
        for path in Path("clean").iterdir():
            Image.open(path).convert("L").save(Path("gray", path.name))
        with pytest.raises(RecipeError, match="modelled in colour, and all images of --from are gray"):
            call(SYNTH.replace("clean", "gray"))
        assert not Path("noisy").exists()
        assert "5 done" in call(SYNTH.replace("clean", "gray"), "--config channels=1")

    def test_a_place_of_others_stays(self, call: Call) -> None:
        MODEL.mkdir(parents=True)
        (MODEL / "mine.txt").write_text("mine")
        with pytest.raises(OutputError, match="something else than a noise model"):
            call(SYNTH, "--overwrite")
        assert (MODEL / "mine.txt").read_text() == "mine"

    def test_quiet_is_quiet(self, call: Call) -> None:
        assert call(SYNTH, "--quiet") == ""
