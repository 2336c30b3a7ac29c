"""Weight files: safetensors that describe themselves.

The header holds one metadata key, `medcli`, whose JSON says how to build the network and what it was trained for, so
that a file alone is enough to denoise. One key only: safetensors orders several keys at random, and the same weights
must give the same bytes. Weights are stored as fp16 and computed with in fp32 unless a device asks otherwise.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError
from medcli.registry import ARCHITECTURES, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "medcli"
MAX_HEADER = 10_000_000


@dataclass(frozen=True)
class Card:
    """What a weight file says of itself.

    architecture, config: name in the table of architectures and the arguments of its constructor.
    strategy: how the engine applies the network; channels: of the picture it takes; noise: what it was trained to
    remove, in words; half_safe: whether fp16 gives the same pictures.
    """

    id: str
    architecture: str
    config: dict[str, Any]
    title: str = ""
    strategy: str = "plain"
    channels: int = 3
    noise: str = ""
    licence: str = ""
    training_data: list[str] = field(default_factory=list)
    method: str = ""
    recipe: str = ""
    steps: int = 0
    half_safe: bool = True
    version: str = ""


def read_card(path: Path) -> Card:
    """The card of a weight file; reads the header alone. Raises ModelError where the file is not one of ours."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ModelError(f"{path} is not a model: its header claims {length} bytes.")
            header = json.loads(file.read(length))
        text = header["__metadata__"][METADATA_KEY]
        values = json.loads(text)
        known = {item.name for item in fields(Card)}
        return Card(**{key: value for key, value in values.items() if key in known})
    except FileNotFoundError as error:
        raise ModelError(f"There is no model file {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a weight file of medcli.", "It must be a .safetensors file with a 'medcli' header."
        ) from error


def build(card: Card) -> nn.Module:
    """A network of the card's architecture and configuration, freshly initialised."""
    architecture = resolve(ARCHITECTURES, card.architecture, kind="architecture", error=ModelError)
    try:
        network: nn.Module = architecture(**card.config)
    except (TypeError, ValueError) as error:
        raise ModelError(f"'{card.id}' asks for a {card.architecture} that cannot be built: {error}") from error
    return network


def load_network(path: Path) -> tuple[nn.Module, Card]:
    """The network of a weight file in fp32, in evaluation mode, and its card.

    Raises ModelError where the file is corrupt or its tensors do not fit the architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    network = build(card)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt: {error}", "Fetch or copy the file again.") from error
    try:
        network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit its architecture '{card.architecture}'.") from error
    return network.eval(), card


def save(path: Path, network: nn.Module, card: Card) -> None:
    """Writes the network's weights as fp16 with the card in the header; the same input gives the same bytes."""
    import torch

    tensors = {name: tensor.to(torch.float16) for name, tensor in network.state_dict().items()}
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(asdict(card), sort_keys=True)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, written beside its place and moved there when it is whole."""
    from safetensors.torch import save

    partial = path.with_name(f".{path.name}.tmp")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial.write_bytes(save(whole, metadata))  # not save_file: it gives the file to its owner alone
    partial.replace(path)
