"""Claims about `med train` where little was said: the run's folder, the images, and sizes that fit the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from sample_images import noise as random_pixels

from medcli.cli import med as med_group
from medcli.data.own import images_of_the_user
from medcli.errors import OptionError
from medcli.registry import ARCHITECTURES
from medcli.train import pace, run
from medcli.train.distributed import ProcessGroup
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.pace import OF_OTHERS, SIZES, fitted
from medcli.train.recipe import Recipe
from medcli.train.run import build_method

CPU = Hardware(torch.device("cpu"), torch.float32, workers=0)
QUICK = ["--steps", "1", "--batch", "1", "--patch", "16", "--config", "widths=[12, 16]"]
QUICK += ["--config", "encoders=[1, 1]", "--config", "decoders=[1, 1]", "--device", "cpu", "--workers", "0"]


def some_images(folder: str, count: int = 8) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(random_pixels("uint8", (24, 30, 3), number)).save(Path(folder, f"{number}.png"))


def med(*arguments: str) -> str:
    result = CliRunner().invoke(med_group, [*arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holiday").mkdir()
    monkeypatch.chdir(tmp_path / "holiday")
    monkeypatch.setattr(run, "user_cache_path", lambda _: tmp_path / "cache")


class TestPlaces:
    def test_runs_are_numbered_and_take_the_images_below_the_folder(self) -> None:
        some_images("a/b")
        said = med("train", "--pool", "noise", *QUICK).splitlines()
        assert said[0] == "the run goes to runs/med-1 (-o names another folder)"
        assert said[1].startswith("8 images below the current folder")
        assert Path("runs/med-1/med-1.safetensors").exists()
        recipe = yaml.safe_load(Path("runs/med-1/recipe.yaml").read_text())
        assert (recipe["method"], recipe["architecture"], recipe["training_data"]) == ("med", "split", ["holiday"])
        said = med("train", "--noise", "gaussian:9", *QUICK[:6], "--arch", "dncnn", "--config", "width=4")
        assert said.startswith("the run goes to runs/supervised-1")
        assert "8 images below" in said  # and none of runs/med-1
        assert med("train", "--pool", "noise", *QUICK).startswith("the run goes to runs/med-2")

    def test_the_latest_run_goes_on(self) -> None:
        some_images(".")
        med("train", *QUICK)
        said = med("train", "--resume", "--steps", "2", "--device", "cpu", "--workers", "0")
        assert "the run goes to runs/med-1" in said
        assert "going on from step 1 of 2" in said

    def test_there_is_nothing_to_go_on_with(self) -> None:
        with pytest.raises(OptionError, match="no run in runs/"):
            med("train", "--resume")

    def test_a_run_does_not_go_on_with_other_images(self) -> None:
        some_images(".")
        some_images("clean")
        med("train", "--data", "clean", *QUICK)
        with pytest.raises(OptionError, match="was trained on the images of clean"):
            med("train", "--resume", "--steps", "2")

    @pytest.mark.parametrize(("count", "words"), [(0, "no image lies"), (1, "only one"), (7, "only 7 images lie")])
    def test_too_few_images(self, count: int, words: str) -> None:
        some_images(".", count)
        with pytest.raises(OptionError, match=words) as caught:
            med("train", "--pool", "noise")
        assert "--data" in str(caught.value)
        assert not Path("runs").exists()

    def test_a_run_that_could_not_begin_leaves_its_number_free(self) -> None:
        some_images(".")
        with pytest.raises(Exception, match="no 'depth'"):
            med("train", "--pool", "noise", "--config", "depth=3")
        assert not Path("runs").exists()

    def test_what_med_made_and_what_is_hidden_is_not_taken(self) -> None:
        some_images("mine", 3)
        some_images("results", 2)
        some_images("noisy/0000", 2)
        some_images("env/lib", 2)
        some_images("first", 2)
        some_images(".thumbs", 2)
        some_images("runs/else", 2)
        Path("results/.medcli.jsonl").write_text('{"output": "0.png"}\ntorn {')
        Path("noisy/pairs.jsonl").write_text(json.dumps({"output": "0000/1.png"}))
        Path("env/pyvenv.cfg").touch()
        for name in ("recipe.yaml", "log.jsonl"):
            Path("first", name).touch()
        Path("mine/0.png").rename("mine/0.denoised.png")
        found = [path.as_posix() for path in images_of_the_user(Path(), leave_out=[Path("runs")])]
        assert found == ["mine/1.png", "mine/2.png", "noisy/0000/0.png", "results/1.png"]


def sizes(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, seconds: Callable[[int], float], *free: str, minutes: float = 600
) -> tuple[Recipe, list[str]]:
    """The recipe where a step of the n-th candidate takes seconds(n)."""
    tried: list[Recipe] = []

    def timed(method: object, recipe: Recipe, *_: object, **__: object) -> float:
        tried.append(recipe)
        return seconds(len(tried) - 1)

    monkeypatch.setattr(pace, "seconds_per_step", timed)
    said: list[str] = []
    build = partial(build_method, hardware=CPU)
    return fitted(recipe, free, build, CPU, ProcessGroup(), minutes, said.append), said


ALL = ("config", "patch", "batch")
MED = Recipe(id="x", title="x", steps=9, method="med", architecture="split")


class TestSizes:
    @pytest.mark.parametrize(("seconds", "place"), [(9.0, 0), (0.6, 1), (0.3, 2), (0.01, 3)])
    def test_the_largest_of_which_a_step_is_quick(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float, place: int
    ) -> None:
        chosen, said = sizes(monkeypatch, MED, lambda n: seconds * (1, 1.5, 3, 9)[n], *ALL)
        size = SIZES["split"][place]
        assert (chosen.config, chosen.patch, chosen.batch) == (size.config, size.patch, size.batch)
        assert f"patches of {size.patch}, batch {size.batch}" in said[-1]

    def test_a_short_run_gets_small_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen, _ = sizes(monkeypatch, MED, lambda n: 0.1 * 4**n, *ALL, minutes=4)
        assert chosen.config == SIZES["split"][0].config

    def test_what_was_given_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = replace(MED, patch=32, config={"channels": 1})
        chosen, said = sizes(monkeypatch, given, lambda _: 9, "config", "batch")
        assert (chosen.patch, chosen.batch) == (32, SIZES["split"][0].batch)
        assert chosen.config == {**SIZES["split"][0].config, "channels": 1}
        assert "--patch" not in said[-1]
        assert sizes(monkeypatch, given, lambda _: 9) == (given, [])

    def test_memory_that_runs_out_is_too_slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def seconds(place: int) -> float:
            if place == 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return 0.1

        assert sizes(monkeypatch, MED, seconds, *ALL)[0].config == SIZES["split"][0].config

    @pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"ludvae"}))
    def test_every_network_can_be_built_in_every_size(self, name: str) -> None:
        for size in SIZES.get(name, OF_OTHERS):
            usual = Recipe(id="x", title="x", steps=1, architecture=name, config=dict(size.config), patch=size.patch)
            build_method(usual, Hardware(torch.device("meta"), torch.float32, 0))

    def test_a_step_is_really_timed(self) -> None:
        recipe = replace(MED, config={**SIZES["split"][0].config}, patch=16, batch=1)
        said: list[str] = []
        chosen = fitted(recipe, ["batch"], partial(build_method, hardware=CPU), CPU, ProcessGroup(), 1e-9, said.append)
        assert chosen.batch == SIZES["split"][0].batch  # no step is quick enough: the smallest
        assert "batch 4; about" in said[-1]

    def test_med_train_chooses_what_is_not_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        some_images("clean", 3)
        requested: list[tuple[str, ...]] = []

        def note(recipe: Recipe, free: tuple[str, ...], *_: object) -> Recipe:
            requested.append(tuple(free))
            raise click.Abort

        monkeypatch.setattr(run, "fitted", note)
        Path("mine.yaml").write_text(replace(MED, id="mine").dump())
        for given in ([], ["--patch", "16"], ["--config", "channels=1", "--batch", "2"], ["--config", "unshuffle=1"],
                      ["--init", "photo"], ["--recipe", "mine.yaml"]):  # fmt: skip
            with pytest.raises(click.Abort):
                med("train", "--data", "clean", "-o", "run", *given)
        assert requested == [ALL, ("config", "batch"), ("config", "patch"), ALL[1:], ALL[1:], ()]


def test_the_first_report_of_slow_steps_comes_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.train.loop.SOON", 0.0)
    recipe = replace(MED, config={**SIZES["split"][0].config}, patch=16, batch=1, steps=3)
    lines: list[Line] = []
    method = build_method(recipe, CPU)
    blank = pace._Blank(method.needs, 3, 16)
    Trainer(method, recipe, CPU, tmp_path, lines.append).run(blank, Limits())
    assert [line["step"] for line in lines] == [1]
    assert math.isfinite(lines[0]["seconds_left"])
