"""Gray images, and noise that is equal in all channels, through colour models: what to beat after a new training.

    python docs/benchmarks/gray.py DATA [--model photo --model run/] [--set set12-25 --set flat] [--limit N]

DATA holds `test/set12`, `test/cbsd68` and `real/<set>` with `noisy/` and `clean/`. Without --set, all of these:

    set12-15, -25, -50    Set12 and white Gaussian noise of that sigma, float, not clipped; PSNR in dB, as for all below
    renoir, cc15, ...     the real set, both images turned to gray (luma, 8 bits)
    grain-mono-B, grain-colour-B, grain-gray-B    three crops of CBSD68 of 256x256, noise of deviation 14 that was
                          blurred by B pixels, 8 bits: equal in R, G and B; drawn for each; in the gray image
    flat                  largest shift of the mean in grey levels, flat fields of 32 to 224, sigma 5 to 40, not clipped
    checker               a black-and-white pattern of single pixels, R = G = B: deviation of its grey levels (127.5)
    tint                  the same image: largest difference between channels of the result

The noisy input is the first row. PSNR is scored in float for Set12, in 8 bits for the others; the mean over images.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import medcli
from medcli.batch.pairs import thinned
from medcli.data.folders import images_in, matched
from medcli.images import read
from medcli.metrics import psnr

Array = NDArray[Any]
Pairs = Iterator[tuple[Array, Array]]  # noisy, clean: (H, W) or (H, W, 3); uint8, or float in units of white
Restore = Callable[[Array], Array]

REAL = ("renoir", "micro", "fmd48", "cc15", "polyu", "sidd_small")
SIGMAS, BLURS = (15, 25, 50), (0, 0.5, 0.7, 0.9, 1.3)
LEVELS, STRENGTHS = (32, 64, 128, 192, 224), (5, 10, 15, 25, 40)


def drawn(words: str) -> np.random.Generator:
    """Noise that depends on nothing but the words."""
    return np.random.default_rng(zlib.crc32(words.encode()))


def gray(path: Path) -> Array:
    pixels = read(path).pages[0].pixels
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def rounded(levels: Array) -> Array:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def set12(data: Path, sigma: int, limit: int | None) -> Pairs:
    folder = data / "test" / "set12"
    for name in thinned(images_in(folder), limit):
        clean = gray(folder / name)
        noise = drawn(f"{sigma} {Path(name).stem}").normal(0, sigma, clean.shape)
        yield ((clean + noise) / 255).astype(np.float32), (clean / 255).astype(np.float32)


def real(data: Path, name: str, limit: int | None) -> Pairs:
    noisy, clean = data / "real" / name / "noisy", data / "real" / name / "clean"
    for first, second in thinned(matched(noisy, clean), limit):
        yield gray(noisy / first), gray(clean / second)


def grain(data: Path, kind: str, blur: float) -> Pairs:
    folder = data / "test" / "cbsd68"
    for name in images_in(folder)[5::18][:3]:
        clean = read(folder / name).pages[0].pixels[:256, :256].astype(float)
        clean = clean.mean(2) if kind == "gray" else clean
        noise = drawn(f"{kind} {blur} {name}").normal(size=(256, 256, 3 if kind == "colour" else 1))
        noise = cv2.GaussianBlur(noise, (0, 0), blur).reshape(noise.shape) if blur else noise
        noise *= 14 / noise.std()
        yield rounded(clean + (noise[..., 0] if kind == "gray" else noise)), rounded(clean)


def psnrs(pairs: Pairs, restore: Restore) -> Array:
    def unit(pixels: Array) -> Array:
        return (pixels / 255 if pixels.dtype == np.uint8 else pixels).clip(0, 1).astype(np.float32)

    return np.array([psnr(unit(restore(noisy)), unit(clean)) for noisy, clean in pairs])


def mean_psnr(pairs: Pairs, restore: Restore) -> float:
    return float(psnrs(pairs, restore).mean())


def gains(data: Path, name: str, limit: int | None, restore: Restore) -> Array:
    """Of each image of a real set, in dB over the noisy image."""
    return psnrs(real(data, name, limit), restore) - psnrs(real(data, name, limit), lambda noisy: noisy)


def shift(restore: Restore) -> float:
    """Largest movement of a flat field's mean, in grey levels."""
    fields = [
        ((level + drawn(f"{level} {sigma}").normal(0, sigma, (256, 256))) / 255).astype(np.float32)
        for level in LEVELS
        for sigma in STRENGTHS
    ]
    moves = [restore(field).mean(dtype=float) - field.mean(dtype=float) for field in fields]
    return 255 * max(moves, key=abs)


def pattern(restore: Restore) -> Array:
    page = np.full((320, 480, 3), 255, np.uint8)
    rows, columns = np.mgrid[:100, :100]
    page[110:210, 60:160] = np.where((rows + columns)[..., None] % 2, 255, 0)
    return restore(page).astype(float)


def contrast(restore: Restore) -> float:
    return float(pattern(restore)[120:200, 70:150, 1].std())


def tint(restore: Restore) -> float:
    return float(np.ptp(pattern(restore), axis=2).max())


def measures(data: Path, limit: int | None) -> dict[str, Callable[[Restore], float]]:
    """All sets by name."""
    found: dict[str, Callable[[Restore], float]] = {}
    for sigma in SIGMAS:
        found[f"set12-{sigma}"] = lambda restore, s=sigma: mean_psnr(set12(data, s, limit), restore)
    for name in REAL:
        found[name] = lambda restore, n=name: mean_psnr(real(data, n, limit), restore)
        found[f"{name}-least-gain"] = lambda restore, n=name: float(gains(data, n, limit, restore).min())
        found[f"{name}-losing"] = lambda restore, n=name: float((gains(data, n, limit, restore) < -0.1).sum())
    for kind in ("mono", "colour", "gray"):
        for blur in BLURS:
            found[f"grain-{kind}-{blur:g}"] = lambda restore, k=kind, b=blur: mean_psnr(grain(data, k, b), restore)
    return found | {"flat": shift, "checker": contrast, "tint": tint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", action="append", help="name, file or a run's folder; may be given again  [photo]")
    parser.add_argument("--set", action="append", dest="sets", help="may be given again  [all]")
    parser.add_argument("--limit", type=int, help="at most so many images of a set, spread evenly")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plain", action="store_true", help="also without the brightness put back")
    arguments = parser.parse_args()
    known = measures(arguments.data, arguments.limit)
    if unknown := set(arguments.sets or ()) - known.keys():
        parser.error(f"no such set: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    rows: dict[str, Restore] = {"noisy input": lambda noisy: noisy}
    for name in arguments.model or ["photo"]:
        rows[f"`{name}`"] = medcli.load(name, device=arguments.device, range="dtype")
        if arguments.plain:
            plain = medcli.load(name, device=arguments.device, range="dtype")
            plain.keep_brightness = False
            rows[f"`{name}`, its mean left as it is"] = plain
    print(f"| set | {' | '.join(rows)} |\n|{'---|' * (len(rows) + 1)}")
    for name in arguments.sets or known:
        figures = []
        for row, restore in rows.items():
            print(f"{name}: {row}", file=sys.stderr)
            figures.append(f"{known[name](restore):.2f}")
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
