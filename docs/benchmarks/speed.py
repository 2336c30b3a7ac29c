"""Whole commands against each other, on one image, in one run: `med denoise`, OpenCV's non-local means, CBM3D.

    python docs/benchmarks/speed.py PHOTO [--models photo gaussian] [--megapixels 24] [--bm3d-side 512]

PHOTO is continued by reflection to the wanted size and saved as PNG. Every method is started as a command of its own,
reads a file and writes a file. The bare network runs on as many tiles of the size that the command used, in one
process, after a warm-up. Needs `medcli[bench]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NLM = """
import sys, cv2
image = cv2.imread(sys.argv[1])
cv2.imwrite(sys.argv[2], cv2.fastNlMeansDenoisingColored(image, None, 5, 5, 7, 21))
"""
BM3D = """
import sys, cv2, bm3d
image = cv2.imread(sys.argv[1])
restored = bm3d.bm3d_rgb(image[..., ::-1] / 255.0, 5 / 255)
cv2.imwrite(sys.argv[2], (restored[..., ::-1].clip(0, 1) * 255).round().astype("uint8"))
"""


def enlarged(path: Path, megapixels: float) -> np.ndarray:
    """The image continued by reflection to a 3:2 image of the wanted size."""
    image = cv2.imread(str(path))
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    shape = (height, round(height * 1.5))
    for axis, side in enumerate(shape):
        index = np.arange(side) % (2 * image.shape[axis])
        image = np.take(image, np.minimum(index, 2 * image.shape[axis] - 1 - index), axis)
    return image


def timed(command: Sequence[object], repeats: int) -> tuple[float, str]:
    """Median wall-clock seconds of a command, and what it printed the last time."""
    seconds, output = [], ""
    for _ in range(repeats):
        start = time.perf_counter()
        output = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), output


def denoise(image: Path, out: Path, *options: object) -> list[object]:
    command: list[object] = [sys.executable, "-m", "medcli", "denoise", image, "-o", out, "--force", "--json"]
    return [*command, "--device", "cpu", "--runtime", "torch", "--quiet", *options]


def bare_seconds(model: str, image: np.ndarray, precision: str) -> tuple[float, int, tuple[int, int]]:
    """Seconds of the network alone on the engine's own tiles, how many they are, and the side of the largest."""
    import torch

    import medcli
    from medcli.engine.memory import keep_freed_memory
    from medcli.engine.runtimes.pytorch import TorchRuntime

    keep_freed_memory()  # as the command does; without it the network alone is slower than the command
    denoiser = medcli.load(model, device="cpu", precision=precision, runtime="torch")
    assert isinstance(denoiser.runtime, TorchRuntime)
    network, shapes = denoiser.runtime.network, []
    hook = network.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    denoiser(image)
    hook.remove()
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=kinds[precision] != torch.float32):
        batches = {shape: torch.rand(shape).to(memory_format=torch.channels_last) for shape in set(shapes)}
        for batch in batches.values():
            network(batch)
        start = time.perf_counter()
        for shape in shapes:
            network(batches[shape])
        return time.perf_counter() - start, len(shapes), tuple(max(shape[-2:] for shape in shapes))


def line(title: str, megapixels: float, seconds: float) -> None:
    print(f"| {title} | {megapixels:.2f} | {seconds:.2f} | {megapixels / seconds:.3f} |", flush=True)


def model_rows(model: str, precision: str, image: np.ndarray, files: dict[str, Path], repeats: int) -> None:
    area = image.shape[0] * image.shape[1] / 1e6
    command = denoise(files["large"], files["out"], "--model", model, "--precision", precision)
    seconds, printed = timed(command, repeats)
    report: dict[str, Any] = json.loads(printed.splitlines()[-1])
    used = report["precision"]
    line(f"`med denoise --model {model} --precision {precision}` ({used})", area, seconds)
    line("of which denoising, without start-up and files", area, report["seconds"])
    alone, count, side = bare_seconds(model, image, used)
    line(f"the bare network on the same {count} tiles, up to {side[0]}x{side[1]}", area, alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--models", nargs="*", default=["photo"])
    parser.add_argument("--precisions", nargs="*", default=["fp32", "auto"])
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--bm3d-side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| command | image MP | seconds | MP/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.png" for name in ("large", "small", "out")}
        image, side = enlarged(options.photo, options.megapixels), options.bm3d_side
        cv2.imwrite(str(files["large"]), image)
        cv2.imwrite(str(files["small"]), image[:side, :side])
        area, small_area = image.shape[0] * image.shape[1] / 1e6, side * side / 1e6
        for model in options.models:
            for precision in options.precisions:
                model_rows(model, precision, image, files, options.repeats)
        python = [sys.executable, "-c"]
        seconds, _ = timed([*python, NLM, files["large"], files["out"]], 1)
        line("OpenCV `fastNlMeansDenoisingColored`", area, seconds)
        seconds, _ = timed([*python, BM3D, files["small"], files["out"]], 1)
        line("CBM3D (`bm3d`)", small_area, seconds)
        seconds, _ = timed(denoise(files["small"], files["out"]), options.repeats)
        line("`med denoise`", small_area, seconds)
    seconds, _ = timed([sys.executable, "-m", "medcli", "--help"], 7)
    print(f"\n`med --help`: {seconds:.3f} s")


if __name__ == "__main__":
    main()
