"""Which runtime `auto` means: the one that ends soonest."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from medcli import cpu
from medcli.errors import DeviceError, ModelError

RUNTIMES: Mapping[str, str] = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}  # name -> package
INSTALLED_BY = {"onnx": "onnxruntime", "openvino": "'medcli[openvino]'"}
LITTLE_WORK = 2_000_000  # pixels; PyTorch in bf16 does not gain the time of its import with less: docs/benchmarks.md
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA's and AMD's drivers, and of either under WSL
CPU_BUILD = re.compile(r"^cuda\b[^=]*= *None.*^hip\b[^=]*= *None", re.MULTILINE | re.DOTALL)


def choose_runtime(device: str, precision: str, *, plain: bool, pixels: int | None) -> str:
    """`onnx` or `torch`.

    device, precision: as given by the user. plain: whether either can run the network, which is applied once.
    pixels: of all images, None where it is not known and may be many.

    GPUs and half precision are for torch. So is a CPU that multiplies bf16, unless there is little to do; on any other,
    ONNX Runtime is as fast and starts sooner.
    """
    if not plain or importlib.util.find_spec(RUNTIMES["onnx"]) is None or device not in ("auto", "cpu"):
        return "torch"
    if precision not in ("auto", "fp32") or (device == "auto" and may_have_gpu()):
        return "torch"
    little = pixels is not None and pixels <= LITTLE_WORK and "torch" not in sys.modules
    return "onnx" if precision == "fp32" or little or not cpu.multiplies_bf16() else "torch"


def check_runtime(name: str, device: str, precision: str, *, plain: bool) -> None:
    """Raises for a runtime other than torch that is not installed or cannot do this.

    plain: whether the network is applied once. Raises DeviceError, ModelError.
    """
    if importlib.util.find_spec(RUNTIMES[name]) is None:
        raise DeviceError(f"The runtime {name} is not installed.", f"pip install {INSTALLED_BY[name]}")
    if device not in ("auto", "cpu"):
        raise DeviceError(f"The runtime {name} computes on the CPU, not on {device}.", "Use --runtime torch.")
    known = {"onnx": ("auto", "fp32"), "openvino": ("auto", "fp32", "bf16")}[name]
    if precision not in known:
        raise DeviceError(f"The runtime {name} does not compute in {precision}.", "Use --runtime torch.")
    if not plain:
        problem = f"The runtime {name} runs a network once per tile: no masks, no flips, no transform of the noise."
        raise ModelError(problem, "Use --runtime torch.")


def may_have_gpu() -> bool:
    """Whether PyTorch may find a GPU here; asked of files, without importing it. True where it is not known."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform.startswith("linux") and not any(Path(name).exists() for name in GPU_FILES):
        return False
    spec = importlib.util.find_spec("torch")  # finds the folder, and runs nothing
    if spec is None or spec.origin is None:
        return True
    try:
        return not CPU_BUILD.search(Path(spec.origin).with_name("version.py").read_text())
    except OSError:
        return True
