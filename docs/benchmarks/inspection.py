"""`med inspect` and `--model auto`: estimated against true noise, and the choice against always `photo`.

    python docs/benchmarks/inspection.py DATA [--each 6]

DATA holds test/cbsd68 and real/SET with noisy/ and clean/. --each: images of each set, spread evenly. The level of a
real pair is the deviation of noisy - clean. A choice is compared only where it is not `photo` at full strength, for
there both are the same; PSNR in 8 bits (synthetic noise: clipped and rounded).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import medcli
from medcli.data.inspection import inspect
from medcli.images import read
from medcli.images.values import dtype_range
from medcli.noise.notation import parse
from medcli.zoo.choice import choose

REAL = ("polyu", "cc15", "sidd_small", "renoir", "fmd48")
NOISES = ("gaussian:3", "gaussian:5", "gaussian:10", "gaussian:15", "gaussian:25", "gaussian:50", "poisson:255",
          "poisson:60", "camera")  # fmt: skip
BYTES = dtype_range("uint8")


def thinned(paths: list[Path], count: int) -> list[Path]:
    return [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]


def images(data: Path, each: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(set, noisy, clean) in uint8."""
    clean = [read(path).pages[0].pixels for path in thinned(sorted((data / "test/cbsd68").iterdir()), each)]
    for number, pixels in enumerate(clean):
        yield "cbsd68, clean", pixels, pixels
        unit = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        for name in NOISES:
            noisy = parse(name)(unit, torch.Generator().manual_seed(number)).permute(1, 2, 0).numpy()
            yield f"cbsd68, {name}", (255 * noisy).clip(0, 255).round().astype(np.uint8), pixels
    for name in REAL:
        for path in thinned(sorted((data / "real" / name / "noisy").iterdir()), each):
            pair = (path, next((data / "real" / name / "clean").glob(f"{path.stem}.*")))
            noisy, target = (read(each).pages[0].pixels for each in pair)
            yield name, noisy, target
            yield f"{name}, its clean images", target, target


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    error = np.mean((image.astype(float) - clean) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-5)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=6)
    given = parser.parse_args()
    rows: dict[str, list[Any]] = {}
    loaded: dict[str, Any] = {}
    for name, noisy, clean in images(given.data, given.each):
        seen = inspect(noisy, BYTES)
        choice = choose(seen)
        true = float((noisy.astype(float) - clean).std())
        gain = 0.0
        if (choice.model, choice.strength) != ("photo", 1):
            results = []
            for model, strength in (("photo", 1.0), (choice.model, choice.strength)):
                loaded[model] = loaded.get(model) or medcli.load(model, device="cpu")
                results.append(psnr(loaded[model](noisy, strength=strength), clean))
            gain = results[1] - results[0]
        rows.setdefault(name, []).append((true, seen.sigma, choice, gain))
    print("| set | images | true level | estimated | largest error | no noise | not photo | gain over photo | worst |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        true, estimated = (np.array([row[index] for row in found]) for index in (0, 1))
        none = sum(row[2].strength == 0 for row in found)
        other = sum(row[2].model != "photo" for row in found)
        worst = max(abs(estimated / true - 1)) if true.min() > 0 else float("nan")
        gains = [row[3] for row in found]
        print(f"| {name} | {len(found)} | {true.mean():.1f} | {estimated.mean():.1f} | {worst:.0%} | {none} | {other} "
              f"| {np.mean(gains):+.2f} | {min(gains):+.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
