"""PSNR and SSIM of models and of classical denoisers on synthetic and real noise, as Markdown tables.

    python docs/benchmarks/quality.py DATA --gaussian photo gaussian --real photo bm3d nlm [--limit N]

DATA holds `test/<set>/` (clean pictures) and `real/<set>/noisy|clean/` (pairs of one name). Needs `medcli[bench]`.

Synthetic: noise is added in float, neither clipped nor rounded; its seed is a hash of the file's name and sigma.
Real: the 8-bit noisy file goes in as it is, and what is scored is 8 bits again, as a user would get it.
PSNR is over all channels of the picture, restored values clipped to [0, 1]; the mean is over pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from skimage.restoration import estimate_sigma

import medcli
from medcli import images
from medcli.data.crops import keyed_generator

Pixels = NDArray[np.float32]
Denoise = Callable[[Pixels, float | None], Pixels]


@dataclass(frozen=True)
class Score:
    """One picture before and after. loss: how much PSNR it lost, negative for a gain."""

    name: str
    before: float
    after: float
    ssim: float
    seconds: float


def psnr(restored: Pixels, clean: Pixels) -> float:
    """Over all elements, for values in [0, 1]."""
    return float(-10 * np.log10(np.mean((restored.astype(np.float64) - clean) ** 2)))


def ssim(restored: Pixels, clean: Pixels) -> float:
    """The 11x11 Gaussian window of Wang et al., mean over channels."""
    return float(
        structural_similarity(
            restored,
            clean,
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def method(name: str, precision: str) -> Denoise:
    """`identity`, `bm3d`, `nlm`, or a model by name, file or folder. sigma in [0, 1] is None where it is not known."""
    if name == "identity":
        return lambda noisy, _: noisy
    if name == "bm3d":
        return _bm3d
    if name == "nlm":
        return _nlm
    denoiser = medcli.load(name, device="cpu", precision=precision)
    return lambda noisy, _: denoiser(noisy)


def _bm3d(noisy: Pixels, sigma: float | None) -> Pixels:
    import bm3d

    level = estimate_sigma(noisy, channel_axis=2, average_sigmas=True) if sigma is None else sigma
    return bm3d.bm3d_rgb(noisy.astype(np.float64), max(level, 1e-3)).astype(np.float32)


def _nlm(noisy: Pixels, sigma: float | None) -> Pixels:
    level = estimate_sigma(noisy, channel_axis=2, average_sigmas=True) if sigma is None else sigma
    eight_bit = (noisy.clip(0, 1) * 255).round().astype(np.uint8)
    return cv2.fastNlMeansDenoisingColored(eight_bit, None, level * 255, level * 255, 7, 21).astype(np.float32) / 255


def read(path: Path) -> Pixels:
    pixels = images.read(path).pages[0].pixels
    pixels = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
    return pixels.astype(np.float32) / 255


def gaussian_pairs(folder: Path, sigma: float, limit: int) -> Iterator[tuple[str, Pixels, Pixels]]:
    """(name, noisy, clean) with noise of `sigma` grey levels."""
    for path in thinned(sorted(folder.iterdir()), limit):
        clean = read(path)
        noise = torch.randn(clean.shape, generator=keyed_generator(path.name, sigma)).numpy()
        yield path.name, clean + noise * np.float32(sigma / 255), clean


def real_pairs(folder: Path, limit: int) -> Iterator[tuple[str, Pixels, Pixels]]:
    for path in thinned(sorted((folder / "noisy").iterdir()), limit):
        yield path.name, read(path), read(folder / "clean" / path.name)


def thinned(paths: list[Path], limit: int) -> list[Path]:
    """At most `limit` paths, spread evenly; all of them for 0."""
    return paths if not limit or len(paths) <= limit else [paths[i * len(paths) // limit] for i in range(limit)]


def evaluate(denoise: Denoise, pairs: Iterator[tuple[str, Pixels, Pixels]], sigma: float | None) -> list[Score]:
    scores = []
    for name, noisy, clean in pairs:
        start = time.perf_counter()
        restored = denoise(noisy, sigma).clip(0, 1)
        seconds = time.perf_counter() - start
        if sigma is None:  # real noise: judged on what the file would hold
            restored = (restored * 255).round() / 255
        scores.append(Score(name, psnr(noisy, clean), psnr(restored, clean), ssim(restored, clean), seconds))
    return scores


def row(name: str, scores: list[Score]) -> str:
    before, after = (np.array([getattr(score, key) for score in scores]) for key in ("before", "after"))
    change, seconds = after - before, sum(score.seconds for score in scores)
    structure = np.mean([score.ssim for score in scores])
    return (
        f"| {name} | {len(scores)} | {before.mean():.2f} | {after.mean():.2f} | {structure:.4f} "
        f"| {change.min():+.2f} | {(change < -0.1).sum()} | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--gaussian", nargs="*", default=[], metavar="METHOD")
    parser.add_argument("--real", nargs="*", default=[], metavar="METHOD")
    parser.add_argument("--clean", nargs="*", default=["cbsd68"], metavar="SET")
    parser.add_argument("--sigma", nargs="*", type=float, default=[15, 25, 50])
    parser.add_argument("--pairs", nargs="*", default=["polyu", "cc15", "sidd_small", "renoir", "micro"], metavar="SET")
    parser.add_argument("--limit", type=int, default=0, help="pictures per set, spread evenly; 0 is all")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", type=Path, help="also write every picture's scores")
    options = parser.parse_args()
    kept = {}
    print("| set | method | n | noisy dB | restored dB | SSIM | worst change dB | lose > 0.1 dB | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for names, jobs in ((options.gaussian, _gaussian_jobs(options)), (options.real, _real_jobs(options))):
        for title, sigma, pairs in jobs:
            for name in names:
                scores = evaluate(method(name, options.precision), pairs(), sigma)
                kept[f"{title}: {name}"] = [vars(score) for score in scores]
                print(f"| {title} {row(name, scores)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))


Job = tuple[str, float | None, Callable[[], Iterator[tuple[str, Pixels, Pixels]]]]


def _gaussian_jobs(options: argparse.Namespace) -> list[Job]:
    def job(name: str, sigma: float) -> Job:
        folder = options.data / "test" / name
        return f"{name} sigma {sigma:g}", sigma / 255, lambda: gaussian_pairs(folder, sigma, options.limit)

    return [job(name, sigma) for name in options.clean for sigma in options.sigma]


def _real_jobs(options: argparse.Namespace) -> list[Job]:
    return [(name, None, lambda n=name: real_pairs(options.data / "real" / n, options.limit)) for name in options.pairs]


if __name__ == "__main__":
    main()
