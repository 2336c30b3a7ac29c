"""Two processes are one with twice the batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_UNET
from safetensors.torch import load_file

from medcli.train.distributed import ProcessGroup
from medcli.train.recipe import Recipe

RECIPE = Recipe(
    id="tiny", title="Tiny", noises={"gaussian:25": 1}, steps=20, loss="log_mse", config=TINY_UNET, patch=16, batch=4,
    warmup=2, ema=0.9, held_out=0.4,
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


# `python -m medcli` with a method of the tests beside those of the package
WITH_THREE = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from medcli.registry import METHODS; "
    "METHODS['three'] = 'three_optimizers:ThreeOptimizers'; from medcli.cli import main; main()"
)


def started(recipe: Recipe, folder: Path, data: Path, processes: int) -> list[subprocess.Popen[str]]:
    """The processes of a run, as `torchrun` would start them; what they say on standard error can be read."""
    folder.mkdir()
    (folder / "given.yaml").write_text(recipe.dump())
    command = [sys.executable, "-c", WITH_THREE, "train", "--data", data, "--recipe", folder / "given.yaml", "-q"]
    command += ["-o", folder / "run", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--report-every", "1"]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)}
    if processes > 1:
        common |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]


def run(
    recipe: Recipe, folder: Path, data: Path, processes: int
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The log and the product of a run with this many processes, started as `torchrun` would start them."""
    group = started(recipe, folder, data, processes)
    assert [process.wait(timeout=120) for process in group] == [0] * processes
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return log, load_file(folder / "run" / "tiny.safetensors")


def test_two_processes_equal_one_with_twice_the_batch(image_folder: Path, tmp_path: Path) -> None:
    lone_log, lone = run(RECIPE, tmp_path / "one", image_folder, 1)
    team_log, group = run(replace(RECIPE, batch=2), tmp_path / "two", image_folder, 2)
    assert len(lone_log) == len(team_log) == 21  # 20 steps and one validation
    for one, two in zip(lone_log, team_log, strict=True):
        for name in one.keys() & {"log_mse", "psnr"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)
    for name, tensor in lone.items():
        assert torch.allclose(tensor.float(), group[name].float(), atol=2e-3), name


def test_two_processes_equal_one_with_three_optimizers(image_folder: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, method="three", loss="", steps=6)
    lone_log, lone = run(recipe, tmp_path / "one", image_folder, 1)
    team_log, group = run(replace(recipe, batch=2), tmp_path / "two", image_folder, 2)
    assert len(lone_log) == len(team_log) == 7
    for one, two in zip(lone_log, team_log, strict=True):
        for name in ("codes", "critics", "noisy", "fool", "teach", "gradient/codes", "rate/critics", "val_teach"):
            assert (name in one) == (name in two)
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)
    for name, tensor in lone.items():
        assert torch.allclose(tensor.float(), group[name].float(), atol=2e-3), name


def test_a_doubled_signal_to_one_stops_all_after_one_step_and_is_saved(image_folder: Path, tmp_path: Path) -> None:
    group = started(replace(RECIPE, steps=100_000), tmp_path / "two", image_folder, 2)
    log = tmp_path / "two" / "run" / "log.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert group[0].poll() is None
        time.sleep(0.02)
    for _ in range(2):
        group[1].send_signal(signal.SIGINT)
        time.sleep(0.01)
    said = [process.communicate(timeout=60)[1] for process in group]
    assert [process.returncode for process in group] == [130, 130]
    assert "Traceback" not in "".join(said)
    assert list((tmp_path / "two" / "run" / "checkpoints").glob("step-*.safetensors"))


def test_what_stops_the_first_process_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    group = started(RECIPE, tmp_path / "run", tmp_path / "empty", 2)
    said = [process.communicate(timeout=60)[1] for process in group]
    assert [process.returncode for process in group] == [1, 1]
    assert "holds no images" in said[0]
    assert "error" not in said[1]
    assert "Traceback" not in said[1]


def test_shares_do_not_overlap() -> None:
    assert [list(ProcessGroup(rank, 3).share(2)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert ProcessGroup().is_main
    assert not ProcessGroup(1, 2).is_main
