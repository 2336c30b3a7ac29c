"""A model in the form of another runtime: ONNX, or TorchScript.

The file holds the network alone, in fp32: whoever runs it pads images to the network's multiple, cuts them into
tiles and applies the strategy. It is compared with the network it came from before it gets its name.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError
from medcli.files.atomic import atomic_write
from medcli.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medcli.zoo.weights import Card

TOLERANCE = 1e-4  # largest difference to the network, on values in [0, 1]; a grey level of 8 bits is 4e-3
OPSET = 18
NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "noisy", "restored"
EXTRA_FILE = "medcli.json"  # inside a TorchScript archive

Size = tuple[int, int]
Answer = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Exported:
    """A file that was written. size: of the images it takes, None for any; difference: to the network."""

    path: Path
    bytes: int
    size: Size | None
    difference: float


def export(network: nn.Module, card: Card, target: Path, *, form: str, size: Size | None = None) -> Exported:
    """Writes `network` to `target` in the form "onnx" or "torchscript", whole or not at all.

    size: height and width that the file is to be bound to, multiples of `network.multiple`; None for any.
    Raises ModelError for a size or an architecture that does not allow it, for a missing package, and where the
    file's answer differs from the network's by more than `TOLERANCE`; OutputError for a place that cannot be written.
    """
    import torch

    if form not in FORMS:
        raise ModelError(f"There is no export format called '{form}'.", nearest(form, FORMS))
    traits: Any = network.eval()
    _check(size, traits.multiple)
    with _quiet():
        with torch.no_grad():
            content, run = FORMS[form](traits, notes(traits, card, size), size)
        difference = max(_difference(traits, run, sample) for sample in _samples(traits, size))
    if difference > TOLERANCE:
        fault = f"differs from the model by {difference:.2g}, more than {TOLERANCE:g}"
        if difference == math.inf:
            fault = "does not run on all supported image sizes"
        hint = "Nothing was written. Try a fixed --size, or the other format."
        raise ModelError(f"The exported '{card.id}' {fault}.", hint)
    with atomic_write(target) as file:
        file.write(content)
    return Exported(target, len(content), size, difference)


def notes(network: Any, card: Card, size: Size | None) -> dict[str, str]:
    """The metadata of the file, text to text."""
    metadata = {
        "id": card.id,
        "title": card.title,
        "licence": card.licence,
        "training_data": ", ".join(card.training_data),
        "noise": card.noise,
        "architecture": card.architecture,
        "strategy": card.strategy,
        "layout": "(batch, channels, height, width) float32" + (", RGB" if network.channels == 3 else ""),
        "channels": str(network.channels),
        "value_range": "[0, 1]",
        "multiple": str(network.multiple),
        "receptive_field": str(network.receptive_field),
        "size": "dynamic" if size is None else f"{size[0]}x{size[1]}",
        "tolerance": f"{TOLERANCE:g}",
        "medcli": card.version,
    }
    return {key: value for key, value in metadata.items() if value}


def _check(size: Size | None, multiple: int) -> None:
    if size and any(side < 1 or side % multiple for side in size):
        height, width = (max(1, -(-side // multiple)) * multiple for side in size)
        raise ModelError(
            f"This model takes images whose sides are multiples of {multiple} pixels, not {size[0]}x{size[1]}.",
            f"Ask for --size {height}x{width}, or for --size dynamic.",
        )


def _to_onnx(network: Any, metadata: Mapping[str, str], size: Size | None) -> tuple[bytes, Answer]:
    """The file's content, and what onnxruntime makes of it."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"To export to ONNX, {' and '.join(missing)} must be installed.", "pip install 'medcli[onnx]'")
    import torch

    try:
        program = torch.onnx.export(
            network,
            (_samples(network, size)[0],),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=None if size else [_free_axes(network.multiple)],
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise _refusal("ONNX", network, size) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content, _onnx_answer(content)


def _free_axes(multiple: int) -> dict[int, Any]:
    """The axes that stay open: how many images, and their height and width in steps of the multiple."""
    from torch.export import Dim

    height, width = (Dim(name, min=1, max=2**20) for name in ("rows", "columns"))
    if multiple > 1:
        height, width = multiple * height, multiple * width
    return {0: Dim("batch", min=1, max=2**16), 2: height, 3: width}


def _onnx_answer(content: bytes) -> Answer:
    import onnxruntime
    import torch
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

    def answer(noisy: Tensor) -> Tensor:
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            return torch.from_numpy(session.run([OUTPUT], {INPUT: noisy.numpy()})[0])
        except (Fail, InvalidArgument, InvalidGraph, RuntimeException) as error:
            raise RuntimeError(str(error)) from error

    return answer


def _to_torchscript(network: Any, metadata: Mapping[str, str], size: Size | None) -> tuple[bytes, Answer]:
    """The file's content, and what it does when it is loaded again."""
    import torch

    content = io.BytesIO()
    try:
        traced = torch.jit.trace(network, _samples(network, size)[0], check_trace=False)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise _refusal("TorchScript", network, size) from error
    torch.jit.save(traced, content, _extra_files={EXTRA_FILE: json.dumps(metadata, sort_keys=True)})
    content.seek(0)
    return content.getvalue(), torch.jit.load(content)  # type: ignore[no-untyped-call]


def _refusal(form: str, network: Any, size: Size | None) -> ModelError:
    side = -(-256 // network.multiple) * network.multiple
    what = f"for {size[0]}x{size[1]} pixels" if size else "for images of any size"
    hint = "Try the other form." if size else f"Try one size: --size {side}x{side}. Or the other form."
    return ModelError(f"A {type(network).__name__} cannot be exported to {form} {what}.", hint)


def _samples(network: Any, size: Size | None) -> Sequence[Tensor]:
    """Images to trace and to compare with: one of the given size, or several of different sizes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    steps = -(-32 // network.multiple)
    sides = [(2, steps, steps + 1), (1, steps + 3, steps), (1, 2 * steps, 3 * steps)]
    shapes = [(1, *size)] if size else [(n, h * network.multiple, w * network.multiple) for n, h, w in sides]
    return [torch.rand(n, network.channels, h, w, generator=generator) for n, h, w in shapes]


def _difference(network: nn.Module, run: Answer, noisy: Tensor) -> float:
    """Largest, on one batch, per unit of an answer that leaves [-1, 1]; infinite where there is none or no number."""
    import torch

    with torch.no_grad():
        wanted = network(noisy)
    try:
        answer = run(noisy)  # with gradients, as whoever loads the file may run it
    except RuntimeError:
        return math.inf
    largest = float((answer - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    return largest if math.isfinite(largest) else math.inf


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters' output; they raise errors."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


FORMS: Mapping[str, Callable[[Any, Mapping[str, str], Size | None], tuple[bytes, Answer]]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
}
