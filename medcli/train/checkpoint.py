"""Checkpoints: all that a run needs to go on, in one safetensors file. Nothing is pickled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from medcli.zoo.weights import write_tensors

KEY = "medcli-checkpoint"
NAME = re.compile(r"step-(\d+)\.safetensors")


def save(folder: Path, step: int, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer], keep: int) -> None:
    """Writes `step-N.safetensors` and removes all but the last `keep` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"module.{name}.{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    # clone: averaged weights may share storage with the live ones, which safetensors refuses
    write_tensors(
        folder / f"step-{step:07d}.safetensors",
        {name: tensor.clone() for name, tensor in tensors.items()},
        {KEY: json.dumps({"step": step})},
    )
    for path in saved(folder)[:-keep]:
        path.unlink()


def saved(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if NAME.fullmatch(path.name))


def load(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> int:
    """Restores modules and optimizers in place and returns the step at which the checkpoint was taken."""
    with safe_open(path, "pt") as file:
        step = int(json.loads(file.metadata()[KEY])["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    for name, module in modules.items():
        module.load_state_dict(_below(f"module.{name}.", tensors))
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(f"optimizer.{name}.", tensors).items():
            index, _, slot = key.partition(".")
            state.setdefault(int(index), {})[slot] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
