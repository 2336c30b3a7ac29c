"""How much room there is, which tile fits it, and what being out of it looks like."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from pathlib import Path

import psutil
import torch

# What a network may hold at its peak; the shipped U-Net was seen to take about a quarter of it.
BYTES_PER_PIXEL = 2048
# On a CPU larger tiles are no faster: activations leave the cache, and buffers over 32 MB are mapped anew each time.
LARGEST_TILE = {"cpu": 768}
LARGEST_GPU_TILE = 2048
SMALLEST_TILE = 64

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


def comfortable_tile(device: torch.device) -> int:
    """Side in pixels of the largest square tile worth using: half of the free memory holds it."""
    fits = math.isqrt(free_bytes(device) // 2 // BYTES_PER_PIXEL)
    return min(fits, LARGEST_TILE.get(device.type, LARGEST_GPU_TILE))


def free_bytes(device: torch.device) -> int:
    """Bytes that can be taken on `device` without pushing anything else out."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reusable
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return min(int(psutil.virtual_memory().available), _container_room())


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out; CPU and MPS say it only in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Hand back what a failed attempt left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_heap() -> None:
    """Let this process keep what it frees: glibc else returns every large buffer, and each tile faults it in again.

    For programs, not libraries: it concerns the whole process, so the command line calls it once and `Denoiser` never.
    Worth 10 to 25 % on the CPU with the largest tiles. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 512 << 20)
        mallopt(mmap_threshold, 128 << 20)


def _container_room() -> int:
    """Bytes left under the control group's limit, which the system-wide figure does not know; huge without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or its limit is the word "max"
        return sys.maxsize
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
