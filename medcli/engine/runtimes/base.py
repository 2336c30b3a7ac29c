"""What the engine asks of a runtime: a network that is applied to tiles, which are arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medcli.images.values import ValueRange

Floats = NDArray[np.float32]


class Coordinates(NamedTuple):
    """Which rows and columns of the image a tile shows, (H,) and (W,); those that are mirrored come again."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


class Runtime(Protocol):
    """A network on a device, applied by its strategy.

    name: as in --runtime. device: `cpu`, `cuda:0`, ... channels: of the images. passes: of the network over each tile.
    multiple: what origin and sides of a tile must be multiples of. context_radius: largest distance in pixels at which
    an input can influence an output. global_context: whether outputs also depend on statistics over the whole tile.
    """

    name: str
    device: str
    channels: int
    passes: int
    multiple: int
    context_radius: int
    global_context: bool

    def precision(self, *, eight_bit: bool) -> str:
        """The number format for images of 8 bits or of more: fp32, fp16 or bf16."""

    def fit(self, rows: Callable[[int, int], Floats], shape: tuple[int, ...], values: ValueRange) -> str:
        """Adapts the strategy to the image whose tiles come next; returns what it found there, in one line or none.

        rows: (first, end) -> (end - first, W, C) of it. shape: (H, W, C). values: what is 0 and 1 there.
        """

    def restore(self, tile: Floats, coordinates: Coordinates, precision: str, passed: Callable[[], None]) -> Floats:
        """(h, w, channels), or (h, w, 1) that runs as equal channels, float32 in [0, 1] -> (h, w, channels).

        passed: called after each pass. Raises MemoryError, or a RuntimeError that says that memory ran out.
        """

    def largest_tile(self) -> int:
        """Side in pixels of the largest square tile worth using."""

    def release(self) -> None:
        """Hand back the memory that a failed attempt left behind."""
