"""CPU features, and limits of this process: fast number format, cores, threads, control groups.

Importing this module does not import torch: its libraries read the environment when they are loaded, so that has to be
set before.
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
# (torch for Linux) counts turns of a loop, 300,000 by default, which are milliseconds; OpenMP of LLVM and
# Intel (macOS, Windows, conda) counts milliseconds, 200 by default.
SPIN_COUNT = "1000"
BLOCK_TIME = "0"
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"amx_tile", "avx512_bf16"}  # in CPU_INFO


def multiplies_bf16() -> bool:
    """Whether bf16 is fast on this CPU, not merely possible: elsewhere it is emulated, many times slower than fp32.

    Units for matrices (AMX) made a U-Net four times as fast as fp32, dot products of AVX-512 two and a half times.
    ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY count as if the CPU had no more than they allow. Under Linux no torch is
    imported where the CPU has no such unit.
    """
    if _limited("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") in ONEDNN_WITHOUT_BF16:
        return False
    if _limited("ATEN_CPU_CAPABILITY") in ATEN_WITHOUT_BF16:
        return False
    if (flags := _flags()) and not BF16_FLAGS & flags:
        return False
    import torch

    # Private, hence absent from some versions of torch.
    probes = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("amx_tile", "avx512_bf16"))
    fast = any(probe() for probe in probes if probe is not None)
    return fast and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def threads() -> int:
    """How many threads compute in this process: as the environment says, else one for each core that may be used."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return int(first)
    import psutil

    return min(usable_cores(), psutil.cpu_count(logical=False) or usable_cores())


def _flags() -> set[str]:
    """What Linux knows of the CPU; empty elsewhere, and on CPUs that are not x86."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _limited(*names: str) -> str:
    """The first of these environment variables that is set, in lower case."""
    return next((value.lower() for name in names if (value := os.environ.get(name))), "")


def usable_cores() -> int:
    """Cores that this process may keep busy, 1 or more: by its affinity and by the CPU quota of its control groups.

    A quota of one and a half cores counts as two.
    """
    return max(1, math.ceil(min([_affinity(), *_quotas()])))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of version 2 or 1 that limit this process.

    controller: "cpu" or "memory". None where the system has no such groups. Inside a container the top folder may be
    the process's own group, while its name is the one outside; a folder that is named need not exist.
    """
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    for _, controllers, name in lines:
        if not controllers or controller in controllers.split(","):
            for top in {CONTROL_GROUPS / controllers, CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS}:
                inside = top / name.lstrip("/")
                yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(top))


def _quotas() -> Iterator[float]:
    """Limits in cores of the control groups that set one."""
    for group in control_groups("cpu"):
        try:
            if (group / "cpu.max").exists():
                limit, period = (group / "cpu.max").read_text().split()
            else:
                limit, period = ((group / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
            cores = int(limit) / int(period)
        except (OSError, ValueError):  # no such group, or the limit is the word "max"
            continue
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


def share_heap() -> None:
    """Under `ulimit -v` all threads share one heap: with glibc, each would reserve 64 MiB of addresses of its own.

    For programs, not libraries: it concerns the whole process, and must be called before threads are started.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        import ctypes

        arena_max = -8  # M_ARENA_MAX of malloc.h
        if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
            mallopt(arena_max, 1)
