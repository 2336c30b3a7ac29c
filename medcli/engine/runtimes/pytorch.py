"""PyTorch: every network, strategy and device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, channels_last, nn

from medcli.engine import memory
from medcli.engine.device import PRECISIONS, choose_device, choose_precision, unsupported, wait
from medcli.engine.runtimes.base import Coordinates, Floats
from medcli.engine.strategies import FitsImage, PixelCoordinates, Plain, Strategy
from medcli.images.values import ValueRange

LARGEST_GPU_TILE = 2048


class Network(Protocol):
    """What is needed to know of a network."""

    channels: int
    multiple: int  # H and W must be multiples of it

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""

    # Optional: `global_context`, whether outputs also depend on statistics over H and W (pooling, attention between
    # channels), so that a tile's result depends on the size of the tile.


class TorchRuntime:
    """network: (B, C, H, W) float in [0, 1] -> same shape, with `channels`, `multiple` (of H and W) and
        `receptive_field` (pixels). It is moved to the device, to fp32 weights and to evaluation mode.
    strategy: how the network is applied; Plain unless given.
    device, precision: as `choose_device` and `choose_precision` read them. Under "auto" the precision follows the
        image's depth.
    half_safe: whether fp16 and bf16 give the same images; only "auto" uses it.
    `strategy_in_force` is the strategy for the latest image, where it depends on the image (`FitsImage`).
    Raises DeviceError for a device or precision that is not there.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        strategy: Strategy | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        half_safe: bool = True,
    ) -> None:
        self._device = choose_device(device)
        choose_precision(precision, self._device, half_safe=half_safe)
        network = network.eval().to(self._device, torch.float32)
        self.network = network.to(memory_format=channels_last)  # type: ignore[call-overload]
        self.strategy: Strategy = strategy or Plain()
        self.strategy_in_force = self.strategy
        self._precision, self._half_safe = precision, half_safe
        traits = cast(Network, network)
        self.device, self.channels, self.passes = str(self._device), traits.channels, self.strategy.passes
        self.multiple = self.strategy.multiple(traits.multiple)
        self.context_radius = self.strategy.context_radius(traits.receptive_field)
        self.global_context = bool(getattr(network, "global_context", False))

    def precision(self, *, eight_bit: bool) -> str:
        dtype = choose_precision(self._precision, self._device, half_safe=self._half_safe, eight_bit=eight_bit)
        return next(name for name, known in PRECISIONS.items() if known == dtype)

    def fit(self, rows: Callable[[int, int], Floats], shape: tuple[int, ...], values: ValueRange) -> str:
        if not isinstance(self.strategy, FitsImage):
            return ""
        self.strategy_in_force = self.strategy.for_image(lambda *span: _batch(rows(*span)), shape, values)
        return self.strategy_in_force.remark if isinstance(self.strategy_in_force, FitsImage) else ""

    def restore(self, tile: Floats, coordinates: Coordinates, precision: str, passed: Callable[[], None]) -> Floats:
        try:
            with torch.inference_mode(), self._watched(passed):
                return self._restored(tile, coordinates, PRECISIONS[precision])
        except NotImplementedError as error:
            raise unsupported(self._device, error) from error

    def largest_tile(self) -> int:
        if self._device.type == "cpu":
            return memory.comfortable_tile(memory.free_bytes())
        return memory.comfortable_tile(_free_on_gpu(self._device), LARGEST_GPU_TILE)

    def release(self) -> None:
        memory.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()

    def _restored(self, tile: Floats, coordinates: Coordinates, precision: torch.dtype) -> Floats:
        batch = _batch(tile).to(self._device).expand(-1, self.channels, -1, -1).contiguous(memory_format=channels_last)
        there = PixelCoordinates(*map(torch.from_numpy, coordinates))
        # Autocast, not half-precision weights: equally fast, and what a network adds to its input is added in fp32.
        half = precision != torch.float32
        with torch.autocast(self._device.type, dtype=precision if half else None, enabled=half):
            restored = self.strategy_in_force(self.network, batch, there).float()
        floats: Floats = restored[0].permute(1, 2, 0).cpu().numpy()
        return floats

    @contextmanager
    def _watched(self, passed: Callable[[], None]) -> Iterator[None]:
        """Calls `passed` after each pass of the network."""

        def count(_module: nn.Module, _inputs: object, _output: Tensor) -> None:
            wait(self._device)
            passed()

        hook = self.network.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()


def _batch(tile: Floats) -> Tensor:
    """(h, w, C) -> (1, C, h, w)."""
    return torch.from_numpy(tile).permute(2, 0, 1)[None]


def _free_on_gpu(device: torch.device) -> int:
    """Bytes that can be taken on `device` without pushing anything else out."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + reusable
