"""Where and how training computes: device, number format, worker processes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcli.cpu import usable_cores
from medcli.data.crops import Stacked
from medcli.engine.device import choose_device, multiplies_bf16
from medcli.errors import RecipeError
from medcli.methods.base import Batch
from medcli.registry import nearest

MOST_WORKERS = 12


@dataclass(frozen=True)
class Hardware:
    """device, dtype of the forward pass, worker processes that draw samples."""

    device: torch.device
    dtype: torch.dtype
    workers: int = 1

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def batch(self, samples: Stacked) -> Batch:
        """The samples on the device, in the order of memory that convolutions are fastest in."""
        noisy, clean, keys = samples
        return Batch([self._moved(view) for view in noisy], None if clean is None else self._moved(clean), keys)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True, memory_format=torch.channels_last)


def choose_hardware(device: str = "auto", precision: str = "auto", workers: int | None = None) -> Hardware:
    """The device, the dtype that is fast on it, and as many drawing processes as leave one core to the network.

    Raises DeviceError for a device that is not there, RecipeError for a precision that cannot train.
    """
    chosen = choose_device(device)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    dtypes["auto"] = dtypes["bf16" if multiplies_bf16(chosen) else "fp32"]
    if precision not in dtypes:
        raise RecipeError(f"Training in '{precision}' is not possible.", nearest(precision, dtypes))
    drawing = min(MOST_WORKERS, max(1, usable_cores() - 1)) if workers is None else workers
    return Hardware(chosen, dtypes[precision], drawing)
