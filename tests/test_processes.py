"""Two processes are one with twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_UNET
from safetensors.torch import load_file

from medcli.train.processes import Team
from medcli.train.recipe import Recipe

RECIPE = Recipe(
    id="tiny", title="Tiny", noises={"gaussian:25": 1}, steps=20, loss="log_mse", config=TINY_UNET, patch=16, batch=4,
    warmup=2, ema=0.9, held_out=0.4,
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def run(
    recipe: Recipe, folder: Path, data: Path, processes: int
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The log and the product of a run with this many processes, started as `torchrun` would start them."""
    folder.mkdir()
    (folder / "given.yaml").write_text(recipe.dump())
    command = [sys.executable, "-m", "medcli", "train", "--data", data, "--recipe", folder / "given.yaml", "-q"]
    command += ["-o", folder / "run", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--report-every", "1"]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)}
    if processes > 1:
        common |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    team = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(processes)]
    assert [process.wait(timeout=120) for process in team] == [0] * processes
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return log, load_file(folder / "run" / "tiny.safetensors")


def test_two_processes_equal_one_with_twice_the_batch(picture_folder: Path, tmp_path: Path) -> None:
    lone_log, lone = run(RECIPE, tmp_path / "one", picture_folder, 1)
    team_log, team = run(replace(RECIPE, batch=2), tmp_path / "two", picture_folder, 2)
    assert len(lone_log) == len(team_log) == 21  # 20 steps and one validation
    for one, two in zip(lone_log, team_log, strict=True):
        for name in one.keys() & {"log_mse", "psnr"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)
    for name, tensor in lone.items():
        assert torch.allclose(tensor.float(), team[name].float(), atol=2e-3), name


def test_shares_do_not_overlap() -> None:
    assert [list(Team(rank, 3).share(2)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Team().leads
    assert not Team(1, 2).leads
