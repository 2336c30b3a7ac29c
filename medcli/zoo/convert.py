"""Foreign checkpoints into weight files of ours: `.pth` or safetensors in, safetensors with a card out.

Nothing is guessed that the tensors do not show, and nothing is left over: every tensor of the file has its place in
the network, and every parameter of the network is in the file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError, OutputError
from medcli.registry import ARCHITECTURES, nearest
from medcli.zoo.namings import NAMINGS, Reading, Tensors, detect, renamed
from medcli.zoo.unpickle import unpickled
from medcli.zoo.weights import METADATA_KEY, Card, build, write_tensors

if TYPE_CHECKING:
    from torch import nn

EDITION = 1  # of the conversion: another one makes cached results anew


@dataclass(frozen=True)
class Wish:
    """What is known of a foreign file beside its tensors.

    architecture: None for what the names of its tensors say. config: values that replace inferred ones. renames: the
    file's names to ours, where the naming is not a known one; see `namings.renamed`.
    """

    id: str
    architecture: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    renames: Mapping[str, str | None] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True)
class Found:
    """What an import found. naming: "" for our own names; prefix: that all names had before them."""

    card: Card
    naming: str
    prefix: str
    tensors: int
    parameters: int
    remark: str


def import_file(source: Path, target: Path, wish: Wish) -> Found:
    """Writes `target`, a weight file of ours, from a foreign `.pth` or safetensors file, and says what was found.

    Weights keep the precision that they have. Half precision counts as unsafe, because nobody has measured it.
    Raises ModelError for files that are hostile, damaged, unknown or do not fit, OutputError for one not written.
    """
    raw = tensors_of(source)
    naming, prefix, reading = _understood(raw, wish)
    architecture = wish.architecture or NAMINGS[naming].architecture
    config = {**reading.config, **wish.config}
    card = Card(wish.id, architecture, config, licence=wish.licence, half_safe=False)
    network = _fitted(card, reading.tensors)
    card = _completed(card, network)
    try:
        _write(target, card, reading.tensors)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from error
    return Found(card, naming, prefix, len(raw), sum(each.numel() for each in network.parameters()), reading.remark)


def converted(raw: Path, card: Card, naming: str, folder: Path) -> Path:
    """Our form of a foreign file that a catalogue describes: made in `folder` once, found there afterwards.

    naming: one of `namings.NAMINGS`. The name of the result depends on all that went into it, so that a file fetched
    anew or a card that changed is converted anew. Raises ModelError as `import_file` does.
    """
    if naming not in NAMINGS:
        raise ModelError(f"'{card.id}' has tensors in an unknown naming '{naming}'.", nearest(naming, NAMINGS))
    try:
        place = folder / f"{card.id}-{_digest(raw, card, naming)}.safetensors"
        if place.is_file():
            return place
        folder.mkdir(parents=True, exist_ok=True)
        _, reading = _read_as(naming, tensors_of(raw))
        _fitted(card, reading.tensors)
        _write(place, card, reading.tensors)
    except OSError as error:
        raise ModelError(f"'{card.id}' cannot be converted: {error.filename}: {error.strerror}.") from error
    return place


def tensors_of(path: Path) -> Tensors:
    """The tensors of a foreign file, by their own names; finite, all of them.

    Raises ModelError where the file is hostile, damaged, no checkpoint, or one of ours already.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            tensors = _plain(path)
        else:
            with tempfile.TemporaryDirectory(prefix="medcli-") as scratch:
                tensors = _plain(unpickled(path, Path(scratch)))
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{path}: '{name}' holds values that are no numbers.", "The training may have diverged.")
    return tensors


def _plain(path: Path) -> Tensors:
    """All of a safetensors file, copied to memory: a file that shrinks under a map would end the process."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        tensors: Tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is corrupt: {error}", "Fetch or copy the file again.") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if METADATA_KEY in header.get("__metadata__", {}):
        raise ModelError(f"{path} is a weight file of medcli already.", f"Use it: med denoise --model {path}")
    if not tensors:
        raise ModelError(f"{path} holds no tensors.")
    return tensors


def _understood(raw: Tensors, wish: Wish) -> tuple[str, str, Reading]:
    """(naming, prefix, reading) of a file; the naming is "" where its names, after renaming, are ours."""
    if wish.architecture is not None and wish.architecture not in ARCHITECTURES:
        names = nearest(wish.architecture, ARCHITECTURES)
        raise ModelError(f"There is no architecture called '{wish.architecture}'.", names)
    if wish.renames:
        if wish.architecture is None:
            raise ModelError("A map of names needs the architecture that it maps to.", "Give --arch, and --config.")
        return "", "", Reading({}, renamed(raw, wish.renames))
    try:
        naming, _ = detect(raw)
    except ModelError:
        if wish.architecture is None:
            raise
        return "", "", Reading({}, raw)
    if wish.architecture not in (None, naming.architecture):
        raise ModelError(
            f"The file holds a {naming.architecture} in the naming of {naming.origin}, not a {wish.architecture}."
        )
    prefix, reading = _read_as(naming.id, raw)
    return naming.id, prefix, reading


def _read_as(naming: str, raw: Tensors) -> tuple[str, Reading]:
    """(prefix, reading) of tensors in a naming that is known; ModelError where they are in another."""
    seen, prefix = detect(raw)
    if seen.id != naming:
        raise ModelError(f"The file is in the naming of {seen.origin}, not of {NAMINGS[naming].origin}.")
    return prefix, seen.read({name[len(prefix) :]: tensor for name, tensor in raw.items()})


def _fitted(card: Card, tensors: Tensors) -> nn.Module:
    """The card's network without weights, after checking that `tensors` fill it exactly."""
    import torch

    with torch.device("meta"):
        network = build(card)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    what = f"a {card.architecture} of {card.config}"
    if missing := [name for name in wanted if name not in given]:
        raise ModelError(f"The file lacks {_some(missing)}, which {what} needs.", _HINT)
    if unused := [name for name in given if name not in wanted]:
        raise ModelError(f"The file holds {_some(unused)}, which {what} does not have.", _HINT)
    for name, shape in given.items():
        if shape != wanted[name]:
            raise ModelError(f"'{name}' is {shape} in the file, and {what} needs {wanted[name]}.", _HINT)
    return network


_HINT = "Names are medcli's own, after the renaming; --config and --map say what the file does not show."


def _some(names: list[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed


def _completed(card: Card, network: nn.Module) -> Card:
    """The card with what the network says of itself: every argument spelled out, its channels."""
    return Card(**{**asdict(card), "config": network.config, "channels": network.channels})


def _write(place: Path, card: Card, tensors: Tensors) -> None:
    """Like `weights.save`, but with the weights as exact as they came; several processes may do it at once."""
    import torch

    exact = {name: tensor.float() if tensor.dtype == torch.float64 else tensor for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(prefix=".medcli-", dir=place.parent) as scratch:
        whole = Path(scratch) / place.name
        write_tensors(whole, exact, {METADATA_KEY: json.dumps(asdict(card), sort_keys=True)})
        whole.replace(place)


def _digest(raw: Path, card: Card, naming: str) -> str:
    """Of what a conversion depends on, without reading the file: a fetched one keeps its size and time."""
    state = raw.stat()
    parts = [EDITION, naming, asdict(card), state.st_size, state.st_mtime_ns]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
