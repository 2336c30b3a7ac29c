"""Weight files: safetensors that describe themselves.

The header holds one metadata key, `medcli`, whose JSON says how to build the network and what it was trained for, so
that a file alone is enough to denoise. One key only: safetensors orders several keys at random, and the same weights
must give the same bytes. Weights are stored as fp16 and computed with in fp32 unless the device needs another.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from medcli.errors import ModelError
from medcli.files.atomic import open_atomic
from medcli.registry import ARCHITECTURES, GRAPHS, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medcli.archs.graphs.graph import Traits

METADATA_KEY = "medcli"
MAX_HEADER = 10_000_000
CONFIG_ROOM = 4096  # what the numbers of a configuration may sum up to beyond what the tensors account for
MASK_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "masks": {"refine": "refine", "samples": "samples", "seed": "seed"},
    "bernoulli": {"samples": "passes", "seed": "seed"},
}
DTYPES = ("F16", "BF16", "F32", "F64", "I64")
NOT_OURS = "It must be a .safetensors file with a 'medcli' header."
CORRUPT = "Fetch or copy the file again."


@dataclass(frozen=True)
class Card:
    """What a weight file says of itself.

    architecture, config: name in the table of architectures and the arguments of its constructor.
    strategy: how the engine applies the network; channels: of the image it takes; noise: what it was trained to
    remove, in words; noises: the same in the notation of noises, from which `medcli.zoo.capabilities` derives what
    else it can do; half_safe: whether fp16 gives the same images; gray: whether it restores gray
    images, which run as equal channels, None where it was not measured; domain: a key of `catalog.DOMAINS`, or empty.
    """

    id: str
    architecture: str
    config: dict[str, Any]
    title: str = ""
    strategy: str = "plain"
    channels: int = 3
    noise: str = ""
    noises: list[str] = field(default_factory=list)
    licence: str = ""
    training_data: list[str] = field(default_factory=list)
    method: str = ""
    recipe: str = ""
    steps: int = 0
    half_safe: bool = True
    gray: bool | None = None
    version: str = ""
    domain: str = ""

    @property
    def blind_spot(self) -> bool:
        """Whether the network predicts each pixel from the others, through complementary masks."""
        return self.strategy.partition(":")[0] == "masks"

    @property
    def mask_options(self) -> Mapping[str, str]:
        """Which of refine, samples and seed the strategy takes, and what it calls them; empty without masks."""
        return MASK_OPTIONS.get(self.strategy.partition(":")[0], {})

    def as_dict(self) -> dict[str, Any]:
        """What the header holds, without what is not known, so that older files are written again byte by byte."""
        unknown = {"gray": None, "domain": ""}
        return {key: value for key, value in asdict(self).items() if key not in unknown or value != unknown[key]}

    def metadata(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        return {METADATA_KEY: json.dumps(self.as_dict(), sort_keys=True)}


def read_card(path: Path) -> Card:
    """The card of a weight file; reads the header alone. Raises ModelError where the file is not one of ours."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ModelError(f"{path} is not a model: its header claims {length} bytes.")
            header = json.loads(file.read(length))
        return msgspec.json.decode(header["__metadata__"][METADATA_KEY], type=Card)
    except FileNotFoundError as error:
        raise ModelError(f"There is no model file {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path} is not a weight file of medcli.", NOT_OURS) from error


def build(card: Card) -> nn.Module:
    """A network of the card's architecture and configuration, freshly initialised."""
    architecture = resolve(ARCHITECTURES, card.architecture, kind="architecture", error=ModelError)
    try:
        network: nn.Module = architecture(**card.config)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ModelError(f"'{card.id}' needs a {card.architecture} that cannot be built: {error}") from error
    return network


def load_network(path: Path) -> tuple[nn.Module, Card]:
    """The network of a weight file in fp32, in evaluation mode, and its card.

    Names and shapes are compared before anything of their size is made. Raises ModelError where the file is corrupt
    or its tensors do not fit the architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    try:
        check_fit(path, card, _shapes(path))
        network = build(card)
        tensors = load_file(path)
        network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt: {error}", CORRUPT) from error
    return network.eval(), card


def load_graph(path: Path) -> tuple[bytes, Traits]:
    """The network of a weight file as an ONNX model with its weights in fp32, built without PyTorch; and its traits.

    The model maps (B, C, H, W) float32 in [0, 1] to the same shape; see `medcli.archs.graphs`. Raises ModelError where
    the file is corrupt, its tensors do not fit the architecture, or that has no graph.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from medcli.archs.graphs.graph import Graph, MisfitError

    card = read_card(path)
    if card.architecture not in GRAPHS:
        known = ", ".join(GRAPHS)
        raise ModelError(f"A {card.architecture} needs PyTorch.", f"Leave out --runtime; other runtimes know {known}.")
    module = importlib.import_module(GRAPHS[card.architecture])
    try:
        weights = load_file(path)
        _check_config(path, card, {name: tensor.shape for name, tensor in weights.items()}, CORRUPT)
        traits = module.traits(card.config)
        graph = Graph(weights, traits.channels)
        return graph.model(module.build(graph, card.config)), traits
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt: {error}", CORRUPT) from error
    except (MisfitError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        problem = f"The weights in {path} do not fit a {card.architecture} of {card.config}: {error}."
        raise ModelError(problem, CORRUPT) from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, from the header. Raises SafetensorError, OSError; ModelError for odd dtypes."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        odd = {kind for part in slices.values() if (kind := part.get_dtype()) not in DTYPES}
        if odd:
            raise ModelError(f"The weights in {path} are of type {odd.pop()}.", f"Known: {', '.join(DTYPES)}.")
        return {name: tuple(part.get_shape()) for name, part in slices.items()}


def check_fit(path: Path, card: Card, shapes: Mapping[str, tuple[int, ...]], hint: str = CORRUPT) -> nn.Module:
    """The card's network, its weights in no memory; raises ModelError unless it has just these names and shapes.

    Takes no memory of the network's size, whatever the card claims. hint: what to do where they do not fit.
    """
    import torch

    _check_config(path, card, shapes, hint)
    with torch.device("meta"):
        network = build(card)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if odd := _difference(shapes, expected):
        raise ModelError(f"The weights in {path} do not fit a {card.architecture} of {card.config}: {odd}.", hint)
    return network


def _check_config(path: Path, card: Card, shapes: Mapping[str, tuple[int, ...]], hint: str) -> None:
    """Raises ModelError for a configuration whose network could not be built in reasonable time."""
    room = CONFIG_ROOM + len(shapes) + 4 * max((side for shape in shapes.values() for side in shape), default=0)
    if _numbers_in(card.config) > room:
        raise ModelError(f"The card in {path} describes a far larger {card.architecture} than its weights.", hint)


def _difference(seen: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """What is wrong with the tensors of a file, in words; empty where they are those that are wanted."""
    if missing := [name for name in wanted if name not in seen]:
        return f"the file lacks {_some(missing)}"
    if unused := [name for name in seen if name not in wanted]:
        return f"nothing there is called {_some(unused)}"
    other = next((name for name in wanted if seen[name] != wanted[name]), None)
    return "" if other is None else f"'{other}' is {seen[other]} in the file and {wanted[other]} in the network"


def _some(names: list[str]) -> str:
    listed = ", ".join(repr(name[:80]) for name in names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed


def _numbers_in(config: Mapping[str, Any]) -> float:
    """The sum of all numbers of a configuration, each at least 1: an upper bound of its depth and of its width."""
    total, waiting = 0.0, list(config.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | dict):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float):
            total += max(1, min(abs(value), 1e18))
    return total


def save(path: Path, network: nn.Module, card: Card) -> None:
    """Writes the network's weights as fp16 with the card in the header; the same input gives the same bytes."""
    import torch

    tensors = {name: tensor.to(torch.float16) for name, tensor in network.state_dict().items()}
    write_tensors(path, tensors, card.metadata())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, written atomically. Raises OSError."""
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with open_atomic(path) as file:  # not save_file: it gives the file to its owner alone
        file.write(data)
