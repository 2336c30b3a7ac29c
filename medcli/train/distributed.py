"""Several processes that train one model, under `torchrun`: plain torch.distributed, gradients averaged by hand.

    torchrun --nproc-per-node 4 -m medcli train --data images/ -o run/

Each process draws its own share of the samples, so `--batch` counts per process. Only the first one writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This process (rank, from 0) among `size` that train together; one alone unless joined."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Which samples of a step this process draws, `batch` of them."""
        return range(self.rank * batch, (self.rank + 1) * batch)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over all processes. One exchange for all, however many there are."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        means = torch.split(flat.div_(self.size), [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def broadcast(self, value: float, device: torch.device) -> float:
        """The first process's value, for what clocks would let them differ in."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared)

    def maximum(self, value: int, device: torch.device) -> int:
        """The largest of all processes' values, for a signal that only one of them got."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def barrier(self) -> None:
        """Until all have come this far."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


def join_process_group(device: torch.device) -> tuple[ProcessGroup, torch.device]:
    """The team that `torchrun` set up, or one of one; and the device of this process in it.

    On CUDA each process of a machine takes its own GPU, by LOCAL_RANK.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessGroup(dist.get_rank(), size), device
