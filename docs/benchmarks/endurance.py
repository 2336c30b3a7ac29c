"""Memory on a huge image, and a folder run that is killed again and again.

    python docs/benchmarks/endurance.py memory [--megapixels 100]
    python docs/benchmarks/endurance.py kill [--kills 20] [--images 24]

memory: peak resident memory of `med denoise` as the kernel saw it. kill: SIGKILL at random moments, started again each
time; the outputs are compared byte by byte with those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

MED = [sys.executable, "-m", "medcli", "denoise", "--device", "cpu", "--quiet"]


def noisy_image(height: int, width: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8: smooth waves with noise of 12 grey levels."""
    generator = np.random.default_rng(seed)
    image = np.empty((height, width, 3), np.uint8)
    columns = np.sin(np.arange(width) / 37)[:, None] * 60 + 128
    for row in range(height):  # by rows: 100 megapixels of float would be too much
        noise = generator.normal(0, 12, (width, 3))
        image[row] = (columns + 40 * np.sin(row / 51) + noise).clip(0, 255)
    return image


def memory(megapixels: float) -> None:
    side = round((megapixels * 1e6) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "huge.png", Path(folder) / "out.png"
        cv2.imwrite(str(source), noisy_image(side, side, 0))
        start = time.perf_counter()
        child = subprocess.Popen([*MED, str(source), "-o", str(target)])
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        print(f"{side}x{side}: exit {status}, peak {usage.ru_maxrss / 1e6:.3f} GB, {seconds:.1f} s")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name, the run's own notes aside."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".medcli.jsonl"}


def kill(kills: int, images: int) -> None:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as room:
        source, whole, killed = (Path(room) / name for name in ("noisy", "whole", "killed"))
        source.mkdir()
        for number in range(images):
            cv2.imwrite(str(source / f"{number:03}.png"), noisy_image(700, 900, number))
        start = time.perf_counter()
        subprocess.run([*MED, str(source), "-o", str(whole)], check=True)
        length = time.perf_counter() - start
        halves = 0
        for _ in range(kills):
            child = subprocess.Popen([*MED, str(source), "-o", str(killed)])
            time.sleep(chance.uniform(0.1, 0.9) * length)
            child.send_signal(signal.SIGKILL)
            child.wait()
            done = contents(killed) if killed.is_dir() else {}
            halves += sum(data != contents(whole).get(name) for name, data in done.items() if not name.startswith("."))
            for path in list(killed.glob("*.png"))[: images // 2] if len(done) == images else []:
                path.unlink()  # all done before the kill: give the next run something to do
        subprocess.run([*MED, str(source), "-o", str(killed)], check=True)
        same = contents(whole) == contents(killed)
        print(f"{kills} kills over {images} images: {halves} half files, results identical: {same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "kill"])
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    if options.what == "memory":
        memory(options.megapixels)
    else:
        kill(options.kills, options.images)


if __name__ == "__main__":
    main()
