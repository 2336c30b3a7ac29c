"""An ONNX graph, written node by node.

The file format is protocol buffers (https://protobuf.dev/programming-guides/encoding); field numbers are those of
onnx.proto, version 1.17. A dozen message fields are used, so they are written here: the onnx package would add 18 MB
and a tenth of a second to every start.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INPUT, OUTPUT = "noisy", "restored"
IR_VERSION, OPSET = 8, 17
MOST_FOLDED = 1024  # channels that blocks of pixels become
FLOAT = 1  # of TensorProto.DataType
Attribute = float | int | str | Sequence[int]


@dataclass(frozen=True)
class Traits:
    """What the engine needs to know of a network.

    channels: of the image. multiple: H and W must be multiples of it. receptive_field: largest distance in pixels at
    which an input can influence an output. global_context: whether outputs also depend on means over H and W.
    """

    channels: int
    multiple: int
    receptive_field: int
    global_context: bool = False


class Value(NamedTuple):
    """The result of a node, (B, channels, H, W) float32, by its name."""

    name: str
    channels: int


class MisfitError(ValueError):
    """Weights that are not those of the network."""


class Graph:
    """weights: name -> tensor of any float type; stored as float32. Raises MisfitError where they do not fit."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], channels: int) -> None:
        self.noisy = Value(INPUT, channels)
        self._weights = weights
        self._nodes: list[bytes] = []
        self._tensors: dict[str, bytes] = {}
        self._passed_over: set[str] = set()

    def conv(
        self, value: Value, name: str, outputs: int, side: int = 3, *, stride: int = 1, depthwise: bool = False,
        bias: bool = True,
    ) -> Value:  # fmt: skip
        """A convolution with the weights `name`; padded with zeros to keep H and W unless it has a stride."""
        inner = 1 if depthwise else value.channels
        inputs = [value.name, self._weight(f"{name}.weight", (outputs, inner, side, side))]
        inputs += [self._weight(f"{name}.bias", (outputs,))] if bias else []
        pads = [side // 2 if stride == 1 else 0] * 4
        groups = value.channels if depthwise else 1
        return self.node(
            "Conv", inputs, outputs, kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads, group=groups
        )

    def double(self, value: Value, name: str, outputs: int) -> Value:
        """A transposed convolution of 2x2 with a stride of 2."""
        weight = self._weight(f"{name}.weight", (value.channels, outputs, 2, 2))
        inputs = [value.name, weight, self._weight(f"{name}.bias", (outputs,))]
        return self.node("ConvTranspose", inputs, outputs, kernel_shape=[2, 2], strides=[2, 2])

    def batch_norm(self, value: Value, name: str) -> Value:
        """Batch normalisation with the means and variances of training."""
        parts = ("weight", "bias", "running_mean", "running_var")
        inputs = [value.name, *(self._weight(f"{name}.{part}", (value.channels,)) for part in parts)]
        self._passed_over.add(f"{name}.num_batches_tracked")
        return self.node("BatchNormalization", inputs, value.channels, epsilon=1e-5)

    def relu(self, value: Value, slope: float = 0.0) -> Value:
        if slope:
            return self.node("LeakyRelu", [value.name], value.channels, alpha=slope)
        return self.node("Relu", [value.name], value.channels)

    def add(self, first: Value, second: Value | float) -> Value:
        """second: a number, or a value of the same shape."""
        return self._two("Add", first, second)

    def subtract(self, first: Value, second: Value | float) -> Value:
        return self._two("Sub", first, second)

    def concatenate(self, values: Sequence[Value]) -> Value:
        return self.node("Concat", [each.name for each in values], sum(each.channels for each in values), axis=1)

    def halve(self, value: Value) -> Value:
        """The maximum of each 2x2 pixels."""
        return self.node("MaxPool", [value.name], value.channels, kernel_shape=[2, 2], strides=[2, 2])

    def unshuffle(self, value: Value, side: int) -> Value:
        """As torch's pixel_unshuffle, whose channels are ordered by channel, row, column.

        As a convolution that picks single pixels: SpaceToDepth orders the channels otherwise, and a Gather behind it
        is fused wrongly into the next convolution by OpenVINO 2026.4.
        """
        count = value.channels * side**2
        if not 0 < count <= MOST_FOLDED:
            raise MisfitError(f"{value.channels} channels cannot be folded by {side}")
        picks = np.eye(count, dtype=np.float32).reshape(count, value.channels, side, side)
        inputs = [value.name, self._constant(picks)]
        return self.node("Conv", inputs, count, kernel_shape=[side, side], strides=[side, side])

    def shuffle(self, value: Value, side: int) -> Value:
        """As torch's pixel_shuffle."""
        return self.node("DepthToSpace", [value.name], value.channels // side**2, blocksize=side, mode="CRD")

    def node(self, kind: str, inputs: Sequence[str], channels: int, **attributes: Attribute) -> Value:
        """Any operator with one output. inputs: names of values and tensors."""
        output = f"{kind}{len(self._nodes)}"
        texts = [_text(1, name) for name in inputs] + [_text(2, output), _text(4, kind)]
        self._nodes.append(b"".join(texts + [_field(5, _attribute(*each)) for each in attributes.items()]))
        return Value(output, channels)

    def model(self, restored: Value) -> bytes:
        """The ONNX file, whose output is `restored`. Raises MisfitError where a tensor is left over."""
        if unused := sorted(self._weights.keys() - self._tensors.keys() - self._passed_over):
            raise MisfitError(f"nothing there is called {unused[0]!r}")
        self._nodes.append(_text(1, restored.name) + _text(2, OUTPUT) + _text(4, "Identity"))
        ends = [(11, INPUT, self.noisy.channels), (12, OUTPUT, restored.channels)]
        graph = b"".join(
            [_field(1, node) for node in self._nodes]
            + [_text(2, "medcli")]
            + [_field(5, tensor) for tensor in self._tensors.values()]
            + [_field(number, _end(name, channels)) for number, name, channels in ends]
        )
        return _number(1, IR_VERSION) + _text(2, "medcli") + _field(7, graph) + _field(8, _number(2, OPSET))

    def _two(self, kind: str, first: Value, second: Value | float) -> Value:
        other = second.name if isinstance(second, Value) else self._constant(np.array(second, np.float32))
        return self.node(kind, [first.name, other], first.channels)

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        if name not in self._weights:
            raise MisfitError(f"the file lacks {name!r}")
        tensor = self._weights[name]
        if tensor.shape != shape:
            raise MisfitError(f"{name!r} is {tensor.shape} in the file and {shape} in the network")
        self._tensors[name] = _tensor(name, tensor.astype("<f4"))
        return name

    def _constant(self, values: NDArray[np.float32]) -> str:
        name = f"constant{len(self._tensors)}"
        self._tensors[name] = _tensor(name, values)
        return name


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    sides = b"".join(_number(1, side) for side in values.shape)
    return sides + _number(2, FLOAT) + _text(8, name) + _field(9, values.tobytes())


def _end(name: str, channels: int) -> bytes:
    """An input or output: (batch, channels, rows, columns) float32, of which only the channels are fixed."""
    sides = [_text(2, "batch"), _number(1, channels), _text(2, "rows"), _text(2, "columns")]
    shape = b"".join(_field(1, side) for side in sides)
    return _text(1, name) + _field(2, _field(1, _number(1, FLOAT) + _field(2, shape)))


def _attribute(name: str, value: Attribute) -> bytes:
    """Fields and types of AttributeProto: a float, an integer, a string or integers."""
    if isinstance(value, float):
        content, kind = _varint(2 << 3 | 5) + struct.pack("<f", value), 1
    elif isinstance(value, int):
        content, kind = _number(3, value), 2
    elif isinstance(value, str):
        content, kind = _text(4, value), 3
    else:
        content, kind = b"".join(_number(8, each) for each in value), 7
    return _text(1, name) + content + _number(20, kind)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _field(field, value.encode())
