"""Raw files made of clean photographs: noise removed after development, or on the mosaic before.

    python docs/benchmarks/raw.py CLEAN [--count 12] [--side 512] [--models photo gaussian] [--save FOLDER]

Each photograph becomes linear light in a camera's colours (the white balance undone, an RGGB mosaic), gets shot and
read noise (Brooks et al., "Unprocessing Images for Learned Raw Denoising", 2019, section 3.1) and is stored as a DNG of
14 bits. LibRaw develops all of them alike; PSNR is to the developed noise-free DNG, in 8 bits less 16 pixels at each
border.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np

import medcli
from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.restore import Denoise, measured
from medcli.images import dng, read, write
from medcli.images.development import Development
from medcli.images.encoding import PRIMARIES, from_perceptual
from medcli.images.raw_file import BLUE, GREEN, RED, SECOND_GREEN

SHOTS = (0.0005, 0.002, 0.008)
GAINS = np.array([2.0, 1.0, 1.6])
COLOURS = np.array([[RED, GREEN], [SECOND_GREEN, BLUE]])
BLACK, WHITE = 512, 16383
JOB = Job(Path("a.dng"), Path("a.tif"))


def matrix() -> Any:
    """From XYZ to linear sRGB: the camera sees as sRGB does, but for its white balance."""
    from medcli.images.encoding import _to_xyz

    assert PRIMARIES
    return np.linalg.inv(_to_xyz(1)) / GAINS[:, None]


def raw_of(clean: Any, shot: float, rng: np.random.Generator) -> bytes:
    """A DNG of an sRGB picture (H, W, 3) in [0, 1]; shot 0: without noise."""
    light = from_perceptual(clean, "linear") / GAINS
    mosaic = np.empty(light.shape[:2])
    for (row, column), colour in np.ndenumerate(COLOURS):
        mosaic[row::2, column::2] = light[row::2, column::2, GREEN if colour == SECOND_GREEN else colour]
    if shot:
        read_variance = np.exp(2.18 * np.log(shot) + 1.2)
        mosaic = mosaic + rng.normal(0, 1, mosaic.shape) * np.sqrt(shot * mosaic + read_variance)
    stream = io.BytesIO()
    dng.write(stream, mosaic, COLOURS, 1 / GAINS, matrix(), "Simulated", black=BLACK, white=WHITE)
    return stream.getvalue()


def developed(data: bytes, denoiser: Any, stage: str) -> Any:
    """(H, W, 3) float in [0, 1]; without a denoiser only developed."""
    image = read(data, name="a.dng", development=Development(stage=stage))
    if denoiser is not None:
        measured(Denoise(), JOB, image, denoiser)
    stream = io.BytesIO()
    write(image, stream, format="tiff")
    return read(stream.getvalue()).pages[0].pixels / 65535


def psnr(one: Any, other: Any) -> float:
    inner = np.s_[16:-16, 16:-16]
    rounded = [np.rint(255 * image[inner]) / 255 for image in (one, other)]
    return -10 * float(np.log10(np.mean((rounded[0] - rounded[1]) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--models", nargs="+", default=["photo"])
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    files = sorted(options.clean.iterdir())
    files = files[:: max(1, len(files) // options.count)][: options.count]
    for model in options.models:
        denoiser = medcli.load(model)
        for shot in SHOTS:
            rows: dict[str, list[float]] = {"noisy": [], "developed": [], "mosaic": []}
            for number, path in enumerate(files):
                rng = np.random.default_rng(number)
                clean = read(path).pages[0].pixels[: options.side, : options.side] / 255
                truth = developed(raw_of(clean, 0, rng), None, "developed")
                noisy = raw_of(clean, shot, rng)
                found = {"noisy": developed(noisy, None, "developed")}
                found |= {stage: developed(noisy, denoiser, stage) for stage in ("developed", "mosaic")}
                for name, image in found.items():
                    rows[name].append(psnr(image, truth))
                if options.save and number == 0:
                    sheet = np.hstack([found["noisy"], found["developed"], found["mosaic"], truth])
                    options.save.mkdir(exist_ok=True)
                    from PIL import Image

                    Image.fromarray((255 * sheet).astype(np.uint8)).save(options.save / f"{model}-{shot}.png")
            better = sum(one > other for one, other in zip(rows["mosaic"], rows["developed"], strict=True))
            means = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in rows.items())
            print(f"{model}, shot noise {shot}: {means}; mosaic better in {better} of {len(files)}", flush=True)


if __name__ == "__main__":
    main()
