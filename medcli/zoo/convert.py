"""Foreign checkpoints into weight files of ours: `.pth` or safetensors in, safetensors with a card out.

Nothing is assumed that the tensors do not show, and nothing is left over: every tensor of the file has its place in
the network, and every parameter of the network is in the file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError, OutputError
from medcli.files.checksum import checksums, sha256
from medcli.registry import ARCHITECTURES, nearest
from medcli.zoo.checkpoint_formats import NAMINGS, ParsedCheckpoint, Tensors, detect, renamed
from medcli.zoo.unpickle import checked_name, unpickled
from medcli.zoo.weights import METADATA_KEY, Card, check_fit, write_tensors

if TYPE_CHECKING:
    from torch import nn

EDITION = 1  # of the conversion: another one makes cached results anew


@dataclass(frozen=True)
class ImportOptions:
    """What is known of a foreign file beside its tensors.

    architecture: None for what the names of its tensors say. config: values that replace inferred ones. renames: the
    file's names to ours, where the naming is not a known one; see `checkpoint_formats.renamed`.
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


def import_file(source: Path, target: Path, options: ImportOptions) -> Found:
    """Writes `target`, a weight file of ours, from a foreign `.pth` or safetensors file, and says what was found.

    Weights keep the precision that they have. Half precision counts as unsafe, because it was not measured.
    Raises ModelError for files that are hostile, damaged, unknown or do not fit, OutputError for one not written.
    """
    raw = tensors_of(source)
    naming, prefix, reading = _understood(raw, options)
    architecture = options.architecture or NAMINGS[naming].architecture
    config = {**reading.config, **options.config}
    card = Card(options.id, architecture, config, licence=options.licence, half_safe=False)
    network = _fitted(source, card, reading.tensors)
    card = _completed(card, network)
    try:
        _write(target, card, reading.tensors)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from error
    return Found(card, naming, prefix, len(raw), sum(each.numel() for each in network.parameters()), reading.remark)


def converted(raw: Path, card: Card, naming: str, folder: Path) -> Path:
    """Our form of a foreign file that a catalogue describes: made in `folder` once, found there afterwards.

    naming: one of `checkpoint_formats.NAMINGS`. The name of the result depends on all that went into it, so that a file
    fetched anew or a card that changed is converted anew; so is one whose bytes have changed since. Raises ModelError
    as `import_file` does.
    """
    if naming not in NAMINGS:
        raise ModelError(f"'{card.id}' has tensors in an unknown naming '{naming}'.", nearest(naming, NAMINGS))
    try:
        place = folder / f"{card.id}-{_digest(raw, card, naming)}.safetensors"
        note = place.with_suffix(".sha256")
        if _is_whole(place, note):
            return place
        _, reading = _read_as(naming, tensors_of(raw))
        _fitted(raw, card, reading.tensors)
        _write(place, card, reading.tensors)
        note.write_text(checksums(place).sha256, encoding="ascii")
    except OSError as error:
        problem = f"'{card.id}' cannot be converted: {error.filename or place}: {error.strerror}."
        raise ModelError(problem, "Make room, or name another folder in MED_HOME.") from error
    return place


def _is_whole(place: Path, note: Path) -> bool:
    """Whether a conversion lies there as it was made, by the checksum that was noted then."""
    with suppress(FileNotFoundError):
        return note.read_bytes() == checksums(place).sha256.encode()
    return False


def tensors_of(path: Path) -> Tensors:
    """The tensors of a foreign file, by their own names.

    Raises ModelError where the file is hostile, damaged, no checkpoint, or one of ours already.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise ModelError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            return _plain(path)
        with tempfile.TemporaryDirectory(prefix="medcli-") as scratch:
            return _plain(unpickled(path, Path(scratch)))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def _sound(tensors: Tensors) -> Tensors:
    """The same, each of a type that weight files may have and of finite numbers. Raises ModelError."""
    import torch

    for name, tensor in tensors.items():
        counter = tensor.dtype == torch.int64 and not tensor.ndim  # of batches, beside a normalisation
        if not counter and tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ModelError(f"'{name}' is of type {tensor.dtype}.", "Weights are fp16, bf16, fp32 or fp64.")
        if not tensor.isfinite().all():
            raise ModelError(f"'{name}' holds values that are no numbers.", "The training may have diverged.")
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
    if METADATA_KEY in (header.get("__metadata__") or {}):
        raise ModelError(f"{path} is a weight file of medcli already.", f"Use it: med denoise --model {path}")
    if not tensors:
        raise ModelError(f"{path} holds no tensors.")
    return {checked_name(path, name): tensor for name, tensor in tensors.items()}


def _understood(raw: Tensors, options: ImportOptions) -> tuple[str, str, ParsedCheckpoint]:
    """(naming, prefix, reading) of a file; the naming is "" where its names, after renaming, are ours."""
    if options.architecture is not None and options.architecture not in ARCHITECTURES:
        names = nearest(options.architecture, ARCHITECTURES)
        raise ModelError(f"There is no architecture called '{options.architecture}'.", names)
    if options.renames:
        if options.architecture is None:
            raise ModelError("A map of names needs the architecture that it maps to.", "Give --arch, and --config.")
        return "", "", ParsedCheckpoint({}, _sound(renamed(raw, options.renames)))
    try:
        naming, _ = detect(raw)
    except ModelError:
        if options.architecture is None:
            raise
        return "", "", ParsedCheckpoint({}, _sound(raw))
    if options.architecture not in (None, naming.architecture):
        raise ModelError(
            f"The file holds a {naming.architecture} in the naming of {naming.origin}, not a {options.architecture}."
        )
    prefix, reading = _read_as(naming.id, raw)
    return naming.id, prefix, reading


def _read_as(naming: str, raw: Tensors) -> tuple[str, ParsedCheckpoint]:
    """(prefix, reading) of tensors in a naming that is known; ModelError where they are in another."""
    seen, prefix = detect(raw)
    if seen.id != naming:
        raise ModelError(f"The file is in the naming of {seen.origin}, not of {NAMINGS[naming].origin}.")
    return prefix, seen.read({name[len(prefix) :]: tensor for name, tensor in _sound(raw).items()})


def _fitted(source: Path, card: Card, tensors: Tensors) -> nn.Module:
    """The card's network without weights, after checking that `tensors` fill it exactly."""
    hint = "Names are medcli's own, after the renaming; --config and --map say what the file does not show."
    return check_fit(source, card, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, hint)


def _completed(card: Card, network: nn.Module) -> Card:
    """The card with what the network says of itself: all arguments, its channels."""
    return replace(card, config=network.config, channels=network.channels)  # type: ignore[arg-type]


def _write(place: Path, card: Card, tensors: Tensors) -> None:
    """Like `weights.save`, but with the weights as exact as they came; several processes may do it at once."""
    import torch

    exact = {name: tensor.float() if tensor.dtype == torch.float64 else tensor for name, tensor in tensors.items()}
    write_tensors(place, exact, card.metadata())


def _digest(raw: Path, card: Card, naming: str) -> str:
    """Of what a conversion depends on, without reading the file: a fetched one keeps its size and time.

    The domain is left out: conversions of versions before it was on the card stay valid.
    """
    state = raw.stat()
    parts = [EDITION, naming, replace(card, domain="").as_dict(), state.st_size, state.st_mtime_ns]
    return sha256(json.dumps(parts, sort_keys=True).encode())[:16]
