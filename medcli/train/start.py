"""What a run takes over from the model that it starts from, as the method says."""

from __future__ import annotations

from typing import Any

from medcli.errors import RecipeError
from medcli.methods.base import InheritsOptions, MeasuresConfig
from medcli.registry import METHODS, resolve
from medcli.train.validation import applied
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
