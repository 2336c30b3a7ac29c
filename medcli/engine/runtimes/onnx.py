"""ONNX Runtime on the CPU: imported in a tenth of the time of PyTorch, and as fast per pixel or faster, in fp32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from medcli import cpu
from medcli.archs.graphs.graph import INPUT, OUTPUT, Traits
from medcli.engine import memory
from medcli.engine.runtimes.base import Coordinates, Floats
from medcli.errors import ModelError
from medcli.images.values import ValueRange

SILENT = 4  # of the levels of its log: what fails is raised
_ERRORS = (  # which are no RuntimeErrors
    *(native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf),
    *(native.NotImplemented, native.RuntimeException),
)


class OnnxRuntime:
    """model: an ONNX file, (B, C, H, W) float32 in [0, 1] -> same shape. traits: of its network, applied once.

    Computes with the threads of `cpu.threads`, which sleep while they wait. Raises ModelError for an invalid model.
    """

    name, device, passes = "onnx", "cpu", 1

    def __init__(self, model: bytes, traits: Traits) -> None:
        self.channels, self.multiple = traits.channels, traits.multiple
        self.context_radius, self.global_context = traits.receptive_field, traits.global_context
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = cpu.threads(), 1
        options.log_severity_level = SILENT
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise ModelError(f"ONNX Runtime cannot run this model: {error}", "Try --runtime torch.") from error

    def precision(self, *, eight_bit: bool) -> str:
        return "fp32"

    def fit(self, rows: Callable[[int, int], Floats], shape: tuple[int, ...], values: ValueRange) -> str:
        return ""

    def restore(self, tile: Floats, coordinates: Coordinates, precision: str, passed: Callable[[], None]) -> Floats:
        batch = np.broadcast_to(tile.transpose(2, 0, 1)[None], (1, self.channels, *tile.shape[:2]))
        try:
            (restored,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(batch)})
        except _ERRORS as error:
            raise RuntimeError(str(error)) from error
        passed()
        floats: Floats = restored[0].transpose(1, 2, 0)
        return floats

    def largest_tile(self) -> int:
        return memory.comfortable_tile(memory.free_bytes())

    def release(self) -> None:
        memory.release()
