"""OpenVINO on the CPU: Intel's runtime, in fp32, and in bf16 where the CPU multiplies it."""

from __future__ import annotations

from typing import Any

import openvino

from medcli import cpu
from medcli.archs.graphs.graph import Traits
from medcli.engine.runtimes.base import Floats
from medcli.engine.runtimes.graph import GraphRuntime
from medcli.errors import ModelError

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime(GraphRuntime):
    """model, traits: as of `OnnxRuntime`. precision: auto, fp32 or bf16; half_safe: whether bf16 gives the same images.

    "auto" is bf16 for images of 8 bits, as in `medcli.engine.device`. Raises ModelError for an invalid model.
    """

    name = "openvino"

    def __init__(self, model: bytes, traits: Traits, *, precision: str = "auto", half_safe: bool = True) -> None:
        super().__init__(traits)
        self._precision = precision
        self._bf16 = precision == "auto" and half_safe and cpu.multiplies_bf16()
        self._core = openvino.Core()
        self._requests: dict[str, Any] = {}
        try:
            self._model = self._core.read_model(model)
            self._request(self.precision(eight_bit=False))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run this model: {error}", "Try --runtime torch.") from error

    def precision(self, *, eight_bit: bool) -> str:
        if self._precision != "auto":
            return self._precision
        return "bf16" if self._bf16 and eight_bit else "fp32"

    def infer(self, batch: Floats, precision: str) -> Floats:
        floats: Floats = self._request(precision).infer({0: batch})[0]
        return floats

    def release(self) -> None:
        self._requests.clear()
        super().release()

    def _request(self, precision: str) -> Any:
        """What computes in this precision; compiled when it is first needed."""
        if precision not in self._requests:
            options = {
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "INFERENCE_NUM_THREADS": cpu.threads(),
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # other processes compute here too
            }
            self._requests[precision] = self._core.compile_model(self._model, "CPU", options).create_infer_request()
        return self._requests[precision]
