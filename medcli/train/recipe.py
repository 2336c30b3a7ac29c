"""A recipe: all that decides what a training run will give, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medcli.errors import RecipeError
from medcli.noise.base import Noise
from medcli.noise.notation import parse as parse_noise
from medcli.noise.pool import Pool
from medcli.registry import DEFAULT_METHOD, nearest
from medcli.train.schedule import SCHEDULES


class _Range(NamedTuple):
    """Of a number, both ends included, and in words."""

    least: float
    most: float
    words: str


TINY, ALMOST = 1e-12, 1 - 1e-12
RANGES: Mapping[str, _Range] = {
    "steps": _Range(1, 2**53, "1 or more"),
    "patch": _Range(1, 2**15, "1 to 32768 pixels"),
    "batch": _Range(1, 2**20, "1 or more"),
    "learning_rate": _Range(TINY, 1e3, "above 0, such as 0.005"),
    "warmup": _Range(0, 2**53, "0 or more"),
    "weight_decay": _Range(0, 1e3, "0 or more, such as 0.0001"),
    "clip": _Range(TINY, float("inf"), "above 0"),
    "ema": _Range(0, ALMOST, "0 or more and below 1"),
    "enlarge_share": _Range(0, 1, "0 to 1"),
    "held_out": _Range(0, ALMOST, "0 or more and below 1"),
    "seed": _Range(-(2**63), 2**63 - 1, "a number of 64 bits"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything but the images and the machine. What it says of the optimizer are defaults: a method's updates may
    say otherwise.

    noises: notation to weight, as in a pool's file; empty where the images are noisy already. learning_rate: the
    peak, reached after `warmup` steps and then lowered by the `schedule`, a key of `medcli.train.schedule.SCHEDULES`.
    betas: of Adam and AdamW, two numbers, or none for the usual ones. clip: largest norm of a gradient. batch: patches
    per step and process.
    loss: the method's own unless given; options: further arguments of the method. ema: decay of the averaged weights
    that become the model. init: a model to start from; with partial_init one of another size, of which the tensors are
    taken that have the name and shape of the network's own. enlarge_share: see `medcli.data.crops`. held_out: share of
    the images that are kept for validation, where no others are given for it. id: also the name of the
    model's file. range: which values of the images are black and white, as `--range` has it.

    Raises RecipeError where a number is out of its range, or a name is none.
    """

    id: str
    title: str
    steps: int
    noises: dict[str, float] = field(default_factory=dict)
    noise: str = ""
    method: str = DEFAULT_METHOD
    loss: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    architecture: str = "unet"
    config: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    partial_init: bool = False
    patch: int = 128
    batch: int = 10
    optimizer: str = "muon"
    learning_rate: float = 0.005
    warmup: int = 300
    schedule: str = "cosine"
    betas: list[float] = field(default_factory=list)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    enlarge_share: float = 0.0
    variation: dict[str, float] = field(default_factory=dict)
    held_out: float = 0.05
    seed: int = 0
    range: str = "auto"
    licence: str = ""
    training_data: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if not allowed.least <= value <= allowed.most:
                raise RecipeError(f"'{name}' cannot be {value}.", f"It must be {allowed.words}.")
        if self.id in ("", ".", "..") or {"/", "\\", "\0"} & set(self.id):
            raise RecipeError(f"'{self.id}' cannot be the id of a recipe: it names a file.", "Choose a plain name.")
        for name in ("noises", "training_data"):
            if not all(isinstance(each, str) for each in getattr(self, name)):
                raise RecipeError(f"'{name}' must hold names, not {list(getattr(self, name))}.")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"There is no schedule '{self.schedule}'.", nearest(self.schedule, SCHEDULES))
        if self.betas and not (len(self.betas) == 2 and all(_is_share(beta) for beta in self.betas)):
            raise RecipeError(f"'betas' cannot be {self.betas}.", "Give two numbers from 0 to below 1: [0.9, 0.999].")
        if self.config.get("channels", 3) not in (1, 3):
            raise RecipeError(f"A network of {self.config['channels']} channels cannot be trained.", "Give 1 or 3.")

    def draw_noise(self) -> Noise:
        """The noise that the recipe describes; raises RecipeError where it cannot be understood, or is none."""
        try:
            return Pool([(float(weight), parse_noise(notation)) for notation, weight in self.noises.items()])
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"The weights of the noises must be numbers, not {list(self.noises.values())}."
            ) from error

    def dump(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
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
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error.problem}", error.hint) from error
    except TypeError as error:
        raise RecipeError(f"{origin} is incomplete: {error}", "It needs 'id', 'title' and 'steps'.") from error


def _check(key: str, value: object, origin: str) -> None:
    wanted = Recipe.__dataclass_fields__[key].type.partition("[")[0]  # annotations are strings here
    kinds: dict[str, type | tuple[type, ...]] = {
        "str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": Mapping,
    }  # fmt: skip
    if not isinstance(value, kinds[wanted]) or isinstance(value, bool) != (wanted == "bool"):
        numeral = isinstance(value, str) and wanted == "float"
        hint = "A number needs a point before its exponent: 1.0e-3." if numeral else ""
        raise RecipeError(f"{origin}: '{key}' must be of type {wanted}, not {value!r}.", hint)
