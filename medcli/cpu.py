"""What this CPU is good at and how much of it this process may use: number format, threads, how threads wait.

Nothing here imports torch at its own import: what torch's libraries read from the environment when they are loaded has
to be there before.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Instruction sets of ONEDNN_MAX_CPU_ISA (formerly DNNL_MAX_CPU_ISA) and ATEN_CPU_CAPABILITY that lack products of bf16.
# Newer sets of AVX-512, AMX and AVX10 have them; AVX2_VNNI_2 converts bf16 without multiplying it.
ONEDNN_WITHOUT_BF16 = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}
ATEN_WITHOUT_BF16 = {"default", "avx2"}

# How long a waiting thread spins before it sleeps: a spinning one takes the core from a process that has work. libgomp
# (torch for Linux) counts turns of a loop, 300,000 unless told otherwise, which are milliseconds; OpenMP of LLVM and
# Intel (macOS, Windows, conda) counts milliseconds, 200 unless told otherwise.
SPIN_COUNT = "1000"
BLOCK_TIME = "0"
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def multiplies_bf16() -> bool:
    """Whether bf16 is fast on this CPU, not merely possible: elsewhere it is emulated, many times slower than fp32.

    Units for matrices (AMX) made a U-Net four times as fast as fp32, dot products of AVX-512 two and a half times.
    ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY count as if the CPU had no more than they allow.
    """
    import torch

    if _limited("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") in ONEDNN_WITHOUT_BF16:
        return False
    if _limited("ATEN_CPU_CAPABILITY") in ATEN_WITHOUT_BF16:
        return False
    # Private, hence absent from some versions of torch.
    probes = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("amx_tile", "avx512_bf16"))
    fast = any(probe() for probe in probes if probe is not None)
    return fast and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _limited(*names: str) -> str:
    """The first of these environment variables that is set, in lower case."""
    return next((value.lower() for name in names if (value := os.environ.get(name))), "")


def usable_cores() -> int:
    """Cores that this process may keep busy, 1 or more: by its affinity and by the CPU quota of its control groups.

    A quota of one and a half cores counts as two.
    """
    cores = _affinity()
    return max(1, math.ceil(min([cores, *_quotas()])))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Limits of the control groups that this process is in, in cores; none on systems that have no such groups."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = CONTROL_GROUPS / controllers
        own = top / path.lstrip("/")
        for group in (own, *own.parents):  # in a container the path may be the host's; then only its top is there
            if not group.is_relative_to(top):
                break
            yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """The limit that a group sets itself, of version 2 or 1, if it sets one."""
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit, period = ((group / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        cores = int(limit) / int(period)
    except (OSError, ValueError):  # no such group, or the limit is the word "max"
        return
    if cores > 0:
        yield cores


def set_openmp_defaults() -> None:
    """How many OpenMP threads torch will use and how they wait; to be called before it is imported.

    For programs, not libraries: child processes inherit it. What the user has set stays as it is. Without a quota the
    number is left to torch, which follows the affinity and counts physical cores.
    """
    if not WAITING & os.environ.keys():
        os.environ |= {"KMP_BLOCKTIME": BLOCK_TIME}
        if sys.platform == "linux":
            os.environ |= {"GOMP_SPINCOUNT": SPIN_COUNT}
    if "OMP_NUM_THREADS" not in os.environ and (cores := usable_cores()) < _affinity():
        os.environ |= {"OMP_NUM_THREADS": str(cores)}


def use_threads(count: int) -> None:
    """Exactly so many threads compute in this process and in those that it starts, whatever was set before.

    MKL would lower the number to that of physical cores, and torch follows MKL.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    os.environ |= dict.fromkeys(names, str(count)) | {"MKL_DYNAMIC": "FALSE"}
    for module, function in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        if module in sys.modules:  # it has read the environment already
            getattr(sys.modules[module], function)(count)
