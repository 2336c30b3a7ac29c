"""A recipe: all that decides what a training run will give, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from medcli.errors import RecipeError
from medcli.noise.base import Noise
from medcli.noise.pool import Pool
from medcli.registry import NOISES, nearest, resolve


@dataclass(frozen=True)
class Recipe:
    """Everything but the pictures and the machine.

    noises: entries {noise: name, weight: share, ...arguments of the noise}. learning_rate: the peak, reached after
    `warmup` steps and lowered to nothing along a half cosine. ema: decay of the averaged weights that become the
    product. init: a model to start from. enlarge_share: see `medcli.data.crops`.
    """

    id: str
    title: str
    noises: list[dict[str, Any]]
    steps: int
    noise: str = ""
    method: str = "supervised"
    loss: str = "log_mse"
    architecture: str = "unet"
    config: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    patch: int = 128
    batch: int = 10
    optimizer: str = "muon"
    learning_rate: float = 0.005
    warmup: int = 300
    clip: float = 1.0
    ema: float = 0.999
    enlarge_share: float = 0.0
    seed: int = 0
    licence: str = ""
    training_data: list[str] = field(default_factory=list)

    def draw_noise(self) -> Noise:
        """The noise that the recipe describes; raises RecipeError for an unknown name or argument."""
        return Pool([_noise(dict(entry)) for entry in self.noises])

    def dump(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def _noise(entry: dict[str, Any]) -> tuple[float, Noise]:
    weight, name = float(entry.pop("weight", 1.0)), str(entry.pop("noise", ""))
    kind = resolve(NOISES, name, kind="noise", error=RecipeError)
    try:
        return weight, kind(**entry)
    except TypeError as error:
        raise RecipeError(f"The noise '{name}' cannot be made: {error}") from error


def bundled() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(resources.files("medcli.train"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str) -> Recipe:
    """A bundled recipe by name, or one's own by path; raises RecipeError for unknown names, keys or types."""
    known = bundled()
    path = Path(name_or_path)
    if name_or_path in known:
        path = known[name_or_path]
    elif not path.is_file():
        raise RecipeError(f"There is no recipe '{name_or_path}'.", nearest(name_or_path, known))
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    return parse(values, str(path))


def parse(values: object, origin: str) -> Recipe:
    """A recipe from a mapping; `origin` names the file in error messages."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{origin} is not a recipe: it must be a list of 'key: value' lines.")
    known = {item.name: item for item in fields(Recipe)}
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{origin}: unknown key '{key}'.", nearest(str(key), known))
        _check(key, value, origin)
    try:
        return Recipe(**values)
    except TypeError as error:
        raise RecipeError(f"{origin} is incomplete: {error}") from error


def _check(key: str, value: object, origin: str) -> None:
    wanted = Recipe.__dataclass_fields__[key].type.partition("[")[0]  # annotations are strings here
    kinds: dict[str, type | tuple[type, ...]] = {
        "str": str, "int": int, "float": (int, float), "list": Sequence, "dict": Mapping,
    }  # fmt: skip
    if not isinstance(value, kinds[wanted]) or isinstance(value, bool):
        raise RecipeError(f"{origin}: '{key}' must be of type {wanted}, not {value!r}.")
