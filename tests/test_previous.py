"""Files that version 0.1.0 wrote are still read: a run with weights, recipe and checkpoint, pairs, and a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from medcli import images
from medcli.cli import med
from medcli.data.pairs import recorded_noises, recorded_pairs
from medcli.zoo.model import find_model

FILES = Path(__file__).parent / "previous" / "files"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the working directory."""
    shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "files"


def run(command: str) -> str:
    result = CliRunner().invoke(med, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("folder")
def test_weights_restore_as_before() -> None:
    model = find_model("run")
    assert (model.card.architecture, model.card.steps, model.card.noises) == ("dncnn", 6, ["gaussian:25"])
    run("denoise noisy -o new -m run --device cpu --precision fp32")
    for name in ("0.png", "1.png"):
        new, old = (images.read(Path(place, name)).pages[0].pixels.astype(int) for place in ("new", "restored"))
        assert np.abs(new - old).max() <= 1


def test_a_run_goes_on_to_the_same_weights(folder: Path) -> None:
    last = Path("run", "checkpoints", "step-0000006.safetensors")
    expected = load_file(last)
    last.unlink()
    Path("run", "tiny.safetensors").unlink()
    run("train --resume --data clean -o run --device cpu --precision fp32 --workers 0")
    found = load_file(last)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name


def test_pairs_are_found_and_not_made_again(folder: Path) -> None:
    pairs = recorded_pairs(folder / "noisy")
    assert [(noisy.parent.name, clean.parent.name) for noisy, clean in pairs] == [("noisy", "clean")] * 2
    assert recorded_noises(folder / "noisy") == {"gaussian:25": {"gaussian:25"}}
    assert "2 up to date" in run("synth-pairs --from clean --to noisy --noise gaussian:25 --seed 3")


@pytest.mark.usefixtures("folder")
def test_results_are_known_and_replaced_unless_they_were_changed() -> None:
    Path("restored", "1.png").write_bytes(Path("clean", "1.png").read_bytes())
    result = CliRunner().invoke(med, ["denoise", "noisy", "-o", "restored", "-m", "run", "--device", "cpu"])
    assert "1 done" in result.output
    assert "1.png exists, and is no result of an earlier run here" in result.output
