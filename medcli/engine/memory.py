"""Free memory, the largest tile that fits it, and detection of running out of it."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from medcli import cpu

# What a network may hold at its peak; the shipped U-Net was seen to take about a quarter of it.
BYTES_PER_PIXEL = 2048
# On a CPU larger tiles are no faster: activations leave the cache, and buffers over 32 MB are mapped anew each time.
LARGEST_TILE = 768
SMALLEST_TILE = 64
SMALLEST_GLOBAL_TILE = 256  # for networks with statistics over the whole image: the patches that they are trained on

# Limits, use and droppable cache, as version 2 and version 1 of control groups name them.
VERSIONS = (
    (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)


def comfortable_tile(room: int, largest: int = LARGEST_TILE) -> int:
    """Side in pixels of the largest square tile worth using: half of `room`, bytes of free memory, holds it."""
    return min(math.isqrt(room // 2 // BYTES_PER_PIXEL), largest)


def free_bytes() -> int:
    """Bytes of main memory that can be taken without pushing anything else out."""
    return min(int(psutil.virtual_memory().available), container_room(), process_room())


def release() -> None:
    """Hand back what a failed attempt left behind."""
    gc.collect()
    if trim := _glibc("malloc_trim"):  # where addresses are limited, all of them count
        trim(0)


def keep_freed_memory() -> None:
    """Let this process keep what it frees: glibc else returns every large buffer, and each tile faults it in again.

    For programs, not libraries: it concerns the whole process, so the command line calls it once and `Denoiser` never.
    Worth 10 to 25 % on the CPU with the largest tiles. Does nothing where the C library is not glibc.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None or process_room() < sys.maxsize:  # under `ulimit -v`, what is kept is missing elsewhere
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(trim_threshold, 512 << 20)
    mallopt(mmap_threshold, 128 << 20)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where the C library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def process_room() -> int:
    """Bytes left under `ulimit -v` and `ulimit -d`, as batch systems set them; huge without such a limit.

    Only Linux counts as these limits say.
    """
    if not sys.platform.startswith("linux"):
        return sys.maxsize
    import resource

    used = psutil.Process().memory_info()
    limits = ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.data))
    rooms = (resource.getrlimit(kind)[0] - taken for kind, taken in limits if resource.getrlimit(kind)[0] >= 0)
    return max(0, min(rooms, default=sys.maxsize))


def container_room() -> int:
    """Bytes left under the limits of the control groups of this process, which the system-wide figure does not know.

    Huge without a limit. Of what a group uses, cached files can be dropped.
    """
    room = sys.maxsize
    for folder in (*cpu.control_groups("memory"), cpu.CONTROL_GROUPS, cpu.CONTROL_GROUPS / "memory"):
        for limits, usage, cached in VERSIONS:
            limit = min((value for name in limits if (value := _number(folder / name)) is not None), default=None)
            used = _number(folder / usage)
            if limit is not None and used is not None:
                room = min(room, max(0, limit - used + _statistic(folder / "memory.stat", cached)))
                break
    return room


def _number(path: Path) -> int | None:
    """What a file of a control group says; None where it is not there, or says "max"."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _statistic(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        return int(dict(line.split() for line in path.read_text().splitlines()).get(name, 0))
    return 0
