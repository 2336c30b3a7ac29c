"""Several commands at once: what one, two and four `med denoise` side by side get done together.

    python docs/benchmarks/concurrency.py [--megapixels 1] [--rounds 2] [--spin] [--set GOMP_SPINCOUNT=3000]

Each command is a process of its own that reads a PNG and writes one. Everything runs with the defaults that `med` sets,
with --spin also with OpenMP's own (threads that spin), and with each --set; all of it twice, with this CPU as it is and
limited to AVX2, as most desktops and laptops are. Rounds are interleaved, so that other work
on the machine disturbs all columns alike; figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CPUS = {"this CPU": {}, "AVX2": AVX2}
SPINNING = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
AT_ONCE = (1, 2, 4)
MED = [sys.executable, "-m", "medcli"]


def generated(megapixels: float) -> np.ndarray:
    """A noisy 3:2 image of waves and edges, (H, W, 3) uint8."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    rows, columns = np.mgrid[0:height, 0 : round(height * 1.5)] / 100
    waves = [np.sin(rows * (c + 1)) + np.cos(columns * (c + 2)) + (np.sin(rows * columns) > 0) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 15, (*rows.shape, 3))
    return (np.stack(waves, -1) * 40 + 110 + noise).clip(0, 255).astype(np.uint8)


def seconds(commands: list[list[object]], variables: dict[str, str], stdout: int | None = None) -> float:
    """From the start of the first to the end of the last; all run at once. Raises where one fails."""
    start = time.perf_counter()
    environment = os.environ | variables
    running = [subprocess.Popen([str(word) for word in words], env=environment, stdout=stdout) for words in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"{commands[0]} ended with {codes}")
    return time.perf_counter() - start


def denoise(image: Path, *options: object) -> list[object]:
    out = image.with_suffix(".out.png")
    return [*MED, "denoise", image, "-o", out, "--force", "--quiet", "--device", "cpu", *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--spin", action="store_true", help="Measure OpenMP's own defaults too.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="Another setting to measure.")
    parser.add_argument("--cpus", nargs="+", choices=CPUS, default=list(CPUS))
    options = parser.parse_args()
    settings: dict[str, dict[str, str]] = {"defaults of `med`": {}} | (
        {"threads that spin": SPINNING} if options.spin else {}
    )
    settings |= {f"`{given}`": dict([given.split("=", 1)]) for given in options.set}
    keys = [(cpu, setting, count) for cpu in options.cpus for setting in settings for count in AT_ONCE]
    speeds: dict[tuple[str, str, int], list[float]] = {key: [] for key in keys}
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder) / f"{number}.png" for number in range(max(AT_ONCE))]
        array = generated(options.megapixels)
        for path in images:
            cv2.imwrite(str(path), array)
        size = array.shape[0] * array.shape[1] / 1e6
        for _ in range(options.rounds):
            for cpu, setting, count in keys:
                passed = seconds([denoise(path) for path in images[:count]], CPUS[cpu] | settings[setting])
                speeds[cpu, setting, count].append(count * size / passed)
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, {size:.1f} MP, whole commands; MP/s of all together, in brackets as a share of one alone\n")
    print("| CPU | setting | one | two at once | four at once |\n|---|---|---|---|---|")
    for cpu in options.cpus:
        for setting in settings:
            one, *more = (medians[cpu, setting, count] for count in AT_ONCE)
            shares = " | ".join(f"{speed:.3f} ({speed / one:.2f})" for speed in more)
            print(f"| {cpu} | {setting} | {one:.3f} | {shares} |")


if __name__ == "__main__":
    main()
