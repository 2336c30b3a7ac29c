"""What a network costs: parameters, MACs per pixel, megapixels per second and seconds per training step, on this CPU.

python docs/benchmarks/architectures.py [--side 512] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medcli.errors import ModelError
from medcli.registry import ARCHITECTURES, resolve

CANDIDATES: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"widths": [48, 96, 128, 160], "blocks": [1, 2, 2], "middle": 3}),
    ("unet", {"widths": [32, 64, 128, 256], "blocks": [2, 2, 2], "middle": 2}),
    ("unet", {"widths": [48, 96, 160], "blocks": [1, 2], "middle": 4}),
    ("unet", {"widths": [48, 96, 192], "blocks": [2, 2], "middle": 4}),
    ("unet", {"widths": [64, 128, 160], "blocks": [1, 1], "middle": 4}),
    ("unet", {"widths": [64, 128, 256], "blocks": [2, 2], "middle": 3}),
    ("nafnet", {"width": 16, "encoders": [1, 1, 1, 4], "middle": 1, "decoders": [1, 1, 1, 1]}),
    ("dncnn", {"depth": 20, "batch_norm": False}),
]


def seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def macs_per_pixel(network: nn.Module) -> float:
    """Multiply-adds of a 256x256 image, per pixel."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))
    return counter.get_total_flops() / 2 / 256**2


def speed(network: nn.Module, side: int, dtype: torch.dtype, repeats: int) -> float:
    """Megapixels per second on one square image."""
    image = torch.rand(1, 3, side, side).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return side**2 / 1e6 / seconds(lambda: network(image), repeats)


def training_step(network: nn.Module, repeats: int) -> float:
    """Seconds forward and backward on 16 patches of 64x64, in bf16."""
    patches = torch.rand(16, 3, 64, 64).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            restored = network(patches)
        (restored - patches).square().mean().backward()

    return seconds(step, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| network | parameters | kMAC per pixel | fp32 MP/s | bf16 MP/s | training step s |")
    print("|---|---|---|---|---|---|")
    for name, config in CANDIDATES:
        network = resolve(ARCHITECTURES, name, kind="architecture", error=ModelError)(**config).eval()
        network = network.to(memory_format=torch.channels_last)
        fp32, bf16 = (speed(network, options.side, d, options.repeats) for d in (torch.float32, torch.bfloat16))
        words = " ".join(f"{key} {value}" for key, value in config.items())
        count = sum(parameter.numel() for parameter in network.parameters())
        print(
            f"| {name} {words} | {count:,} | {macs_per_pixel(network) / 1e3:.0f} | {fp32:.2f} | {bf16:.2f} "
            f"| {training_step(network, options.repeats):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
