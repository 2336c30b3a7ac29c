"""Device and precision. A requested one is used or refused with a hint, never replaced."""

from __future__ import annotations

import torch

from medcli import cpu
from medcli.errors import DeviceError, MedcliError
from medcli.registry import nearest

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(spec: str = "auto") -> torch.device:
    """The device behind "auto", "cpu", "cuda", "cuda:<n>" or "mps"; "auto" takes CUDA, then MPS, then the CPU.

    Raises DeviceError with the remedy where the device is not there.
    """
    if spec == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    kind, _, index = spec.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
        raise DeviceError(
            f"There is no device called '{spec}'.", nearest(spec, ["auto", "cpu", "cuda", "cuda:0", "mps"])
        )
    if kind == "cuda":
        _require_cuda(int(index or 0))
    if kind == "mps":
        _require_mps()
    return torch.device(spec)


def choose_precision(
    spec: str, device: torch.device, *, half_safe: bool = True, eight_bit: bool = False
) -> torch.dtype:
    """The number format behind "auto", "fp32", "fp16" or "bf16", for convolutions; sums with the input stay in fp32.

    "auto" is fp16 on a GPU where the model allows it. On a CPU it is bf16 where the model allows it, the CPU multiplies
    bf16 matrices natively and the image has 8 bits, whose step of 1/255 hides the error (about 1/2500); else fp32.
    Raises DeviceError for an unknown name, or for bf16 on a GPU without it.
    """
    if spec == "auto":
        if not half_safe:
            return torch.float32
        if device.type in ("cuda", "mps"):
            return torch.float16
        return torch.bfloat16 if eight_bit and multiplies_bf16(device) else torch.float32
    if spec not in PRECISIONS:
        raise DeviceError(f"There is no precision called '{spec}'.", nearest(spec, ["auto", *PRECISIONS]))
    if spec == "bf16" and device.type == "cuda" and not multiplies_bf16(device):
        raise DeviceError(f"The GPU {torch.cuda.get_device_name(device)} cannot compute in bf16.", "Try fp16 or auto.")
    return PRECISIONS[spec]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast on the device; where it is merely possible it is emulated, slower than fp32.

    Not all of Apple's GPUs have bf16, so it is False for them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu.multiplies_bf16()


def wait(device: torch.device) -> None:
    """Waits until the device has finished; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def unsupported(device: torch.device, error: NotImplementedError) -> MedcliError:
    """The error for an operation that `device` lacks; nothing is moved to the CPU silently."""
    reason = str(error).partition("\n")[0]
    return DeviceError(f"The device {device} lacks an operation of this model: {reason}", "Try --device cpu.")


def _require_cuda(index: int) -> None:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        raise DeviceError(
            f"CUDA was requested, but this PyTorch ({torch.__version__}) is a CPU-only build.",
            "Install a CUDA build: https://pytorch.org/get-started/locally has the command. Or use --device cpu.",
        )
    if not torch.cuda.is_available():
        raise DeviceError(
            f"CUDA was requested, and this PyTorch ({torch.__version__}) could use it, but no GPU was found.",
            "See whether `nvidia-smi` lists one: the driver may be missing or too old, or CUDA_VISIBLE_DEVICES empty.\n"
            "Or use --device cpu.",
        )
    count = torch.cuda.device_count()
    if index >= count:
        known = ", ".join(f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count))
        raise DeviceError(f"There is no GPU number {index}.", f"Here are: {known}.")


def _require_mps() -> None:
    if torch.backends.mps.is_available():
        return
    seen = (
        "macOS is older than 14 or the GPU is not Apple's"
        if torch.backends.mps.is_built()
        else "this is no macOS build"
    )
    raise DeviceError(
        f"MPS was requested, but {seen}.", "MPS needs an Apple GPU and an arm64 Python; or use --device cpu."
    )
