"""Checkpoints: all that a run needs to go on, in one safetensors file. Nothing is pickled.

The file's one metadata key holds the step, which is the only position in the data there is, and what validation said.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from medcli.errors import TrainingError
from medcli.files.atomic import remove_stale
from medcli.zoo.weights import write_tensors

KEY = "medcli-checkpoint"
NAME = re.compile(r"step-(\d+)\.safetensors")
BEST = "best.safetensors"


def save(
    folder: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    score: float | None = None,
    *,
    keep: int,
) -> None:
    """Writes `step-N.safetensors`, removes all but the last `keep`, and keeps the one of the highest score as BEST.

    Raises TrainingError where there is no room or no right to write; what was there before is left.
    """
    tensors = {f"module.{name}.{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    path = folder / f"step-{step:07d}.safetensors"
    # clone: averaged weights may share storage with the live ones, which safetensors refuses
    whole = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        remove_stale([folder])
        write_tensors(path, whole, {KEY: json.dumps({"step": step, "score": score})})
        keep_best(folder)
        for old in saved(folder)[:-keep]:
            old.unlink()
    except OSError as error:
        raise unwritable(path, folder, error) from error


def unwritable(path: Path, folder: Path, error: OSError) -> TrainingError:
    """The error for a file of the run that cannot be written."""
    return TrainingError(
        f"{path} cannot be written: {error.strerror}.",
        f"Make room and go on with --resume; the last good checkpoint is in {folder}.",
    )


def keep_best(folder: Path) -> None:
    """Links the checkpoint of the highest score, of those that are there and the best so far, as BEST."""
    best = folder / BEST
    scored = {path: value for path in (best, *saved(folder)) if (value := score(path)) is not None}
    path = max(scored, key=lambda path: scored[path], default=best)
    if path != best:
        partial = folder / f".{BEST}.tmp"
        partial.unlink(missing_ok=True)
        _link(path, partial)
        partial.replace(best)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # a file system without links
        shutil.copyfile(path, place)


def saved(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first; without the best, which is one of them or older."""
    return sorted(path for path in folder.glob("step-*.safetensors") if NAME.fullmatch(path.name))


def step_of(path: Path) -> int:
    """The step of one of `saved`, by its name."""
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def load(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> int:
    """Restores modules and optimizers in place and returns the step at which the checkpoint was taken.

    Raises TrainingError where the file is damaged or belongs to another kind of run.
    """
    try:
        with safe_open(path, "pt") as file:
            step = int(_facts(file.metadata())["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        for name, module in modules.items():
            module.load_state_dict(_below(f"module.{name}.", tensors))
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(  # without torch's own words, which list every tensor
            f"The checkpoint {path} is damaged, or of a run with other options.",
            "Where options were changed, --resume without them goes on. Where it is damaged, remove it: --resume then "
            "goes on from the one before.",
        ) from error
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(f"optimizer.{name}.", tensors).items():
            index, _, slot = key.partition(".")
            state.setdefault(int(index), {})[slot] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _facts(metadata: dict[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(metadata[KEY])
    return facts


def score(path: Path) -> float | None:
    """What validation said of a checkpoint; None where it said nothing, or the file is not there or damaged."""
    try:
        with safe_open(path, "pt") as file:
            value: float | None = _facts(file.metadata()).get("score")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None
    return value


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
