"""What a run takes over from the model that it starts from, as the method says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from medcli.errors import RecipeError
from medcli.methods.base import InheritsOptions, MeasuresConfig, WeightsFrom
from medcli.registry import METHODS, resolve
from medcli.train.validation import applied
from medcli.zoo.model import find_model
from medcli.zoo.unpickle import unpickled
from medcli.zoo.weights import Card


def start_options(method: str, start: Card) -> dict[str, Any]:
    """Options of the method, from how the model is applied."""
    kind = resolve(METHODS, method, kind="method", error=RecipeError)
    return kind.inherited(applied(start.strategy)) if isinstance(kind, InheritsOptions) else {}


def start_config(method: str, config: dict[str, Any]) -> dict[str, Any]:
    """That of the network, without what is measured anew on the images of each run."""
    kind = resolve(METHODS, method, kind="method", error=RecipeError)
    measured = kind.measured_config if isinstance(kind, MeasuresConfig) else ()
    return {key: value for key, value in config.items() if key not in measured}


def weights_of(source: WeightsFrom) -> nn.Module | Mapping[str, Tensor]:
    """The network of a model, or the tensors of a file. Raises ModelError and RecipeError."""
    if source.kind == "model":
        return find_model(source.name).network()
    path = Path(source.name).expanduser()
    if not path.is_file():
        raise RecipeError(f"There is no file {path}.", "Give the path of a file of weights.")
    if path.suffix == ".safetensors":
        return load_file(path)
    with TemporaryDirectory() as folder:
        return load_file(unpickled(path, Path(folder)))
