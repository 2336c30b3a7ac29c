"""What an ordinary computer takes: training, denoising and start-up, on this CPU as it is and limited to AVX2.

    python docs/benchmarks/ordinary.py PICTURES [--steps 40] [--megapixels 2] [--rounds 2]

PICTURES is a folder of clean images to train on. Every figure is the median over rounds of whole commands, which are
interleaved; for training it is the pace of the second half of the run by its log, without start-up and validation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
from concurrency import CPUS, MED, denoise, generated, seconds


def training_pace(images: Path, folder: Path, steps: int, variables: dict[str, str]) -> float:
    """Steps per second."""
    run = Path(tempfile.mkdtemp(dir=folder))
    command: list[object] = [*MED, "train", "--noise", "gaussian:5-50", "--data", images, "-o", run, "--quiet"]
    numbers = ["--steps", steps, "--batch", 4, "--patch", 32, "--report-every", steps // 2, "--cache", folder / "cache"]
    seconds([[*command, *numbers, "--device", "cpu"]], variables)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float([line["steps_per_second"] for line in lines if "steps_per_second" in line][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--megapixels", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small = folder / "large.png", folder / "small.png"
        array = generated(options.megapixels)
        size = array.shape[0] * array.shape[1] / 1e6
        cv2.imwrite(str(large), array)
        cv2.imwrite(str(small), array[:512, :512])
        measures: dict[str, Callable[[dict[str, str]], float]] = {
            "`med train --batch 4 --patch 32`, steps per second": lambda variables: training_pace(
                options.images, folder, options.steps, variables
            ),
            f"`med denoise`, {size:.1f} MP, whole command, MP/s": lambda variables: (
                size / seconds([denoise(large)], variables)
            ),
            "`med denoise`, 512x512, seconds": lambda variables: seconds([denoise(small)], variables),
            "`med --help`, seconds": lambda variables: seconds([[*MED, "--help"]], variables, subprocess.DEVNULL),
        }
        found: dict[tuple[str, str], list[float]] = {(title, cpu): [] for title in measures for cpu in CPUS}
        for _ in range(options.rounds):
            for title, cpu in found:
                found[title, cpu].append(measures[title](CPUS[cpu]))
    print("| | " + " | ".join(CPUS) + " |\n|---|" + "---|" * len(CPUS))
    for title in measures:
        print(f"| {title} | " + " | ".join(f"{statistics.median(found[title, cpu]):.2f}" for cpu in CPUS) + " |")


if __name__ == "__main__":
    main()
