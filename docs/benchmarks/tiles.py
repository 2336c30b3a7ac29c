"""What tiles and half precision cost and change: speed by tile size, seams by overlap, bf16 against fp32.

    python docs/benchmarks/tiles.py PHOTO [--model photo] [--side 2048]

PHOTO is cut to a square. Differences are in grey levels of 255, largest and root mean square.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import medcli
from medcli import images
from medcli.engine.memory import keep_freed_memory


def difference(first: np.ndarray, second: np.ndarray) -> str:
    distance = np.abs(first.astype(np.float64) - second) * 255
    return f"{distance.max():.4f} | {np.sqrt(np.mean(distance**2)):.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="photo")
    parser.add_argument("--side", type=int, default=2048)
    options = parser.parse_args()
    keep_freed_memory()
    pixels = images.read(options.photo).pages[0].pixels[: options.side, : options.side]
    small = pixels[:512, :512].astype(np.float32) / 255
    print("| tile | fp32 MP/s | bf16 MP/s |\n|---|---|---|")
    for tile in (256, 512, 768, 1024, 2048):
        speeds = []
        for precision in ("fp32", "bf16"):
            denoiser = medcli.load(options.model, device="cpu", precision=precision, tile=tile)
            denoiser(pixels[:tile, :tile])
            start = time.perf_counter()
            denoiser(pixels)
            speeds.append(pixels.shape[0] * pixels.shape[1] / 1e6 / (time.perf_counter() - start))
        print(f"| {tile} | {speeds[0]:.2f} | {speeds[1]:.2f} |", flush=True)
    whole = medcli.load(options.model, device="cpu", precision="fp32", tile=0)(small)
    print("\n| 512x512 | largest | rms |\n|---|---|---|")
    for overlap in (0, 16, 32, 64):
        tiled = medcli.load(options.model, device="cpu", precision="fp32", tile=256, overlap=overlap)(small)
        print(f"| tiles of 256, overlap {overlap} | {difference(tiled, whole)} |")
    half = medcli.load(options.model, device="cpu", precision="bf16", tile=0)(small)
    print(f"| bf16 | {difference(half, whole)} |")


if __name__ == "__main__":
    main()
