"""Micrographs: the fluorescence test sets, and simulated specimens of few photons.

    python docs/benchmarks/micrographs.py fmd DATA [--row photo --row photo+vst --row bm3d] [--every N]
    python docs/benchmarks/micrographs.py micro DATA
    python docs/benchmarks/micrographs.py counts

Rows: `noisy`, `nlm` (OpenCV's non-local means, sigma measured), `bm3d` (the bm3d package between the transform of
`medcli.vst` and its inverse, noise measured as for `--vst`), a model, or a model with `+vst`.

fmd      DATA/real/fmd48: PSNR in dB over whole images, over the four 256x256 corner crops of the published protocol,
         for each modality, the least gain over the noisy image, and seconds per image. 8 bits.
micro    DATA/real/micro: the same, without crops.
counts   specimens made by code (`medcli.data.structures`), 12 of 256x256, peak 0.5 to 100 photons, gain 10, offset 100,
         read noise 5, stored as uint16: PSNR (peak: the specimen's), the error of the sum over the brightest quarter
         and over the darkest half, and the RMS error of sums over squares of 64x64, in per cent of the light there,
         of all light, and of the light of a mean square.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import medcli
from medcli.data.photon_noise import photon_noise
from medcli.data.structures import structures
from medcli.vst import Anscombe

Array = NDArray[Any]
Restore = Callable[[Array], Array]
PHOTONS = (0.5, 1, 2, 5, 20, 100)
GAIN, OFFSET, READ = 10.0, 100.0, 5.0


def restorer(row: str, range: str) -> Restore:
    if row == "noisy":
        return lambda noisy: noisy
    if row == "bm3d":
        return bm3d_stabilised
    if row == "nlm":
        return nlm
    name, _, vst = row.partition("+")
    return medcli.load(name, range=range, vst=bool(vst))


def bm3d_stabilised(noisy: Array) -> Array:
    from bm3d import bm3d

    transform = Anscombe(photon_noise(noisy).noise)
    stabilised = transform.forward(torch.from_numpy(noisy.astype(np.float64)))
    low, width = stabilised.min(), max(float(np.ptp(stabilised.numpy())), 1e-6)
    restored = bm3d(((stabilised - low) / width).numpy(), 1 / width)
    return stored(transform.inverse(torch.from_numpy(restored) * width + low).numpy(), noisy)


def nlm(noisy: Array) -> Array:
    values = noisy.astype(np.float64)
    low, width = np.percentile(values, 0.1), max(1e-6, float(np.ptp(np.percentile(values, [0.1, 99.9]))))
    noise = photon_noise(noisy).noise
    sigma = float(noise.variance(torch.tensor(values.mean()))) ** 0.5 * 255 / width
    eight = np.clip((values - low) * 255 / width, 0, 255).astype(np.uint8)
    return stored(cv2.fastNlMeansDenoising(eight, None, h=0.8 * sigma) / 255 * width + low, noisy)


def stored(values: Array, like: Array) -> Array:
    ends = np.iinfo(like.dtype)
    return np.clip(np.rint(values), ends.min, ends.max).astype(like.dtype)


def psnr(restored: Array, clean: Array, peak: float = 255) -> float:
    return float(10 * np.log10(peak**2 / np.mean((restored.astype(float) - clean) ** 2)))


def of_set(folder: Path, rows: Sequence[str], every: int, crops: bool) -> None:
    names = sorted(path.name for path in (folder / "noisy").iterdir())[::every]
    print(f"| {len(names)} images | whole | crops | modalities | least gain | s/image |\n|---|---|---|---|---|---|")
    for row in rows:
        restore, whole, cropped, gains = restorer(row, "dtype"), {}, [], []
        seconds = 0.0
        for name in names:
            noisy, clean = (cv2.imread(str(folder / kind / name), cv2.IMREAD_GRAYSCALE) for kind in ("noisy", "clean"))
            started = time.perf_counter()
            restored = restore(noisy)
            seconds += time.perf_counter() - started
            whole.setdefault(name.split("_")[0], []).append(psnr(restored, clean))
            gains.append(psnr(restored, clean) - psnr(noisy, clean))
            corners = [(slice(y, y + 256), slice(x, x + 256)) for y in (0, 256) for x in (0, 256)]
            cropped += [psnr(restored[at], clean[at]) for at in corners] if crops else []
        everything = [value for values in whole.values() for value in values]
        parts = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in whole.items()) if crops else ""
        print(
            f"| {row} | {np.mean(everything):.2f} | {np.mean(cropped) if crops else 0:.2f} | {parts} "
            f"| {min(gains):+.2f} | {seconds / len(names):.2f} |",
            flush=True,
        )


def squares(image: Array) -> Array:
    """(H, W) -> sums over squares of 64x64."""
    sums: Array = image.reshape(image.shape[0] // 64, 64, -1, 64).sum((1, 3))
    return sums


def of_counts(rows: Sequence[str], limit: int) -> None:
    specimens = [structures(1, 256, torch.Generator().manual_seed(seed))[0].numpy() for seed in range(100, 100 + limit)]
    print("| photons | row | PSNR | bright, % | dark, % | squares, % |\n|---|---|---|---|---|---|")
    for photons in PHOTONS:
        for row in rows:
            restore, scores, bright, dark = restorer(row, "auto"), [], [], []
            errors: list[float] = []
            for seed, light in enumerate(specimens):
                rng = np.random.default_rng(seed)
                exposed = GAIN * rng.poisson(photons * light) + OFFSET + rng.normal(0, READ, light.shape)
                restored = restore(np.clip(np.rint(exposed), 0, 65535).astype(np.uint16)).astype(float) - OFFSET
                clean = GAIN * photons * light.astype(float)
                scores.append(psnr(restored, clean, GAIN * photons))
                upper, lower = np.quantile(clean, [0.75, 0.5])
                bright.append(100 * (restored[clean >= upper].sum() / clean[clean >= upper].sum() - 1))
                dark.append(100 * (restored - clean)[clean <= lower].sum() / clean.sum())
                here = squares(restored - clean) / squares(clean).mean()
                errors.append(100 * float(np.sqrt(np.mean(here**2))))
            figures = f"{np.mean(scores):.2f} | {np.mean(bright):+.2f} | {np.mean(dark):+.2f} | {np.mean(errors):.2f}"
            print(f"| {photons:g} | {row} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fmd", "micro", "counts"])
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA")
    parser.add_argument("--row", action="append", dest="rows", help="may be given again  [noisy, photo, photo+vst]")
    parser.add_argument("--every", type=int, default=1, help="every Nth image")
    parser.add_argument("--limit", type=int, default=12, help="specimens of `counts`")
    given = parser.parse_args()
    rows = given.rows or ["noisy", "photo", "photo+vst"]
    if given.what == "counts":
        of_counts(rows, given.limit)
    else:
        name = {"fmd": "fmd48", "micro": "micro"}[given.what]
        of_set(given.data / "real" / name, rows, given.every, given.what == "fmd")


if __name__ == "__main__":
    main()
