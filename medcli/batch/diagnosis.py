"""What this installation can do here, and what is broken: the findings of `med doctor`."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from huggingface_hub import constants
from platformdirs import user_cache_path

from medcli import __version__, cpu
from medcli.engine import memory
from medcli.engine.denoiser import Denoiser
from medcli.engine.device import choose_device, multiplies_bf16
from medcli.errors import MedcliError
from medcli.files.atomic import PREFIX, SUFFIX
from medcli.zoo import catalog

Status = Literal["ok", "note", "broken"]

PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow", "tifffile", "huggingface-hub", "safetensors")
EXTRA = re.compile(r"""^([\w.-]+).*;.*extra == ['"]([\w-]+)['"]""")
NOT_FOR_USERS = {"dev", "docs"}
SECONDS, SIDE = 2.0, 512  # of the measurement; of its image, in pixels
STALE_SECONDS = 3600  # age of a temporary file that no running process is writing any more


@dataclass(frozen=True)
class Finding:
    """status: `ok`, `note` for what is missing but not needed, `broken`. hint: what to do about it."""

    topic: str
    text: str
    status: Status = "ok"
    hint: str = ""

    def as_row(self) -> dict[str, str]:
        return asdict(self)


def diagnose(load: Callable[[], Denoiser], *, hub: bool = False) -> Iterator[Finding]:
    """Every finding, one after the other. load: the denoiser whose speed is measured. hub: whether to connect to it."""
    yield from _versions()
    yield from _devices()
    yield _speed(load)
    for check in (_limits, _extras, _models, _folders, _stale):
        yield from check()
    if hub:
        yield _hub()


def _versions() -> Iterator[Finding]:
    yield Finding("medcli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in PACKAGES:
        version = _version(name)
        if version is None:  # a build of another name may stand in for it; what is missing fails elsewhere
            yield Finding(name, "no package of this name is installed", "note")
        else:
            yield Finding(name, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    cores = f"{cpu.usable_cores()} of {os.cpu_count()} cores usable, {torch.get_num_threads()} threads"
    yield Finding("cpu", f"{_processor()}; {cores}")
    for index in range(torch.cuda.device_count()):
        yield Finding(f"cuda:{index}", torch.cuda.get_device_name(index))
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        built = torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None
        why = "no GPU was found" if built else "this PyTorch is a CPU-only build"
        yield Finding("gpu", f"none: {why}", "note")
    chosen = choose_device()
    fast = ["fp32", *(["fp16"] if chosen.type != "cpu" else []), *(["bf16"] if multiplies_bf16(chosen) else [])]
    yield Finding("number formats", f"{', '.join(fast)} are fast on {chosen}")


def _processor() -> str:
    """The name of the CPU, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text("utf-8", "replace"), re.M)):
        return found[1]
    return platform.processor() or platform.machine()


def _speed(load: Callable[[], Denoiser]) -> Finding:
    try:
        denoiser = load()
        image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        denoiser(image)
        runs, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            denoiser(image)  # the result is on the CPU, so the device has finished
            runs += 1
        speed = runs * SIDE**2 / 1e6 / (time.perf_counter() - started)
    except MedcliError as error:
        return Finding("speed", error.problem, "broken", error.hint)
    runtime, precision = denoiser.runtime.name, denoiser.runtime.precision(eight_bit=True)
    return Finding("speed", f"{speed:.2f} MP/s on {denoiser.device} in {precision} with {runtime}, 8-bit colour")


def _limits() -> Iterator[Finding]:
    total = psutil.virtual_memory().total
    yield Finding("memory", f"{_gigabytes(memory.free_bytes())} free of {_gigabytes(total)}")
    for name, room in (("container limit", memory.container_room()), ("ulimit", memory.process_room())):
        if room < total:
            yield Finding(name, f"{_gigabytes(room)} left", "note" if room < 2**31 else "ok")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _extras() -> Iterator[Finding]:
    """Optional packages by the extra that brings them."""
    try:
        requirements = metadata.requires("medcli") or []
    except metadata.PackageNotFoundError:
        yield Finding("extras", "not known: medcli itself is not installed as a package", "note")
        return
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        if (found := EXTRA.match(requirement)) and found[2] not in NOT_FOR_USERS and found[1] != "medcli":
            wanted.setdefault(found[2], []).append(found[1])
    for extra, names in sorted(wanted.items()):
        missing = [name for name in names if _version(name) is None]
        if missing:
            hint = f"pip install 'medcli[{extra}]'"
            yield Finding(f"extra {extra}", f"missing: {', '.join(missing)}", "note", hint)
        else:
            yield Finding(f"extra {extra}", ", ".join(f"{name} {_version(name)}" for name in names))


def _models() -> Iterator[Finding]:
    broken = 0
    present = [entry for entry in catalog.entries().values() if catalog.is_here(entry)]
    for entry in present:
        try:
            catalog.verify(entry)
        except MedcliError as error:
            broken += 1
            yield Finding(f"model {entry.id}", error.problem, "broken", error.hint)
    yield Finding("models", f"{len(present) - broken} of {len(catalog.entries())} are on this machine and intact")


def _folders() -> Iterator[Finding]:
    places = {
        "model folder": catalog.store(),
        "image cache": user_cache_path("medcli"),
        "hub cache": Path(constants.HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
        "current folder": Path.cwd(),
    }
    for name, path in places.items():
        there = next(each for each in (path, *path.parents) if each.exists())
        if os.access(there, os.W_OK):
            yield Finding(name, str(path))
        else:
            needed = name == "temporary files"
            hint = "Set TMPDIR to a folder that can be written." if needed else ""
            yield Finding(name, f"{path} cannot be written", "broken" if needed else "note", hint)


def _stale() -> Iterator[Finding]:
    """Temporary files of killed runs; the next run in that folder removes them."""
    before = time.time() - STALE_SECONDS
    for folder in (Path.cwd(), catalog.store()):
        found = [path for path in folder.glob(f"{PREFIX}*{SUFFIX}") if path.stat().st_mtime < before]
        if found:
            size = sum(path.stat().st_size for path in found) / 1e6
            text = f"{len(found)} temporary files of killed runs in {folder}, {size:.1f} MB"
            yield Finding("stale files", text, "note", "The next run that writes there removes them.")


def _hub() -> Finding:
    import urllib.error
    import urllib.request

    address: Any = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "not connected: HF_HUB_OFFLINE is set", "note")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10):
            return Finding("hub", f"{address} answers")
    except urllib.error.HTTPError as error:
        return Finding("hub", f"{address} answers with status {error.code}")
    except (OSError, ValueError) as error:
        hint = "Check the network and HTTPS_PROXY, or use a bundle: med models pull --from-bundle FOLDER"
        return Finding("hub", f"{address} cannot be reached: {error}", "broken", hint)


def environment() -> dict[str, str]:
    """Variables of the environment that change how medcli computes, for a report of a problem."""
    names = ("MED_", "OMP_", "HF_", "CUDA_VISIBLE_DEVICES", "ONEDNN_", "ATEN_", "PYTORCH_")
    hidden = ("TOKEN", "KEY", "SECRET")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(names) and not any(word in name for word in hidden)
    } | {"executable": sys.executable}
