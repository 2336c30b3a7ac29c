"""What ONNX Runtime and OpenVINO share: a network as a graph on the CPU, applied once to each tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from medcli.archs.graphs.graph import Traits
from medcli.engine import memory
from medcli.engine.runtimes.base import Coordinates, Floats
from medcli.images.values import ValueRange


class GraphRuntime(ABC):
    """See `Runtime`. traits: of the network."""

    device, passes = "cpu", 1

    def __init__(self, traits: Traits) -> None:
        self.channels, self.multiple = traits.channels, traits.multiple
        self.context_radius, self.global_context = traits.receptive_field, traits.global_context

    @abstractmethod
    def infer(self, batch: Floats, precision: str) -> Floats:
        """(1, channels, h, w) float32, contiguous -> same shape."""

    def fit(self, rows: Callable[[int, int], Floats], shape: tuple[int, ...], values: ValueRange) -> str:
        return ""

    def restore(self, tile: Floats, coordinates: Coordinates, precision: str, passed: Callable[[], None]) -> Floats:
        batch = np.broadcast_to(tile.transpose(2, 0, 1)[None], (1, self.channels, *tile.shape[:2]))
        restored = self.infer(np.ascontiguousarray(batch), precision)
        passed()
        floats: Floats = restored[0].transpose(1, 2, 0)
        return floats

    def largest_tile(self) -> int:
        return memory.comfortable_tile(memory.free_bytes())

    def release(self) -> None:
        memory.release()
