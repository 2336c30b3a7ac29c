"""Sliders on images with real noise: PSNR, GMSD, and the noise left in brightness and in colour.

    python docs/benchmarks/sliders.py REAL [--set polyu cc15 renoir] [--count 16] [--side 320] [--models photo]

REAL holds SET/noisy and SET/clean with equal names; of each image the upper left SIDE x SIDE pixels count. GMSD: Xue,
Zhang, Mou and Bovik, "Gradient Magnitude Similarity Deviation", 2014, of the luma; 0 is best. Noise left: root mean
square error of luma and of what is not luma, in grey levels of 255. Detail: standard deviation of the fine luma
(less a blur of 2 pixels) in that of the clean image.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import medcli
from medcli.engine.slider_values import Sliders, looks
from medcli.engine.sliders import LUMA, adjusted, noise_curve
from medcli.images import read
from medcli.images.values import UNIT

ROWS = {
    "default": Sliders(),
    "strength auto": Sliders(auto=True),
    **{f"strength {value}": Sliders(strength=value) for value in (0.7, 0.85)},
    **{f"texture {value}": Sliders(texture=value) for value in (0.5, 1.0)},
    **{f"luma {value}": Sliders(luma=value) for value in (0.0, 0.5, 0.7)},
    "chroma 0": Sliders(chroma=0.0),
    "protect both": Sliders(protect_highlights=0.5, protect_shadows=0.5),
    **{f"look {name}": chosen for name, chosen in looks().items()},
}


def luma(pixels: Any) -> Any:
    return pixels @ np.array(LUMA, np.float32)


def gmsd(one: Any, other: Any) -> float:
    kernel = np.array([[1, 0, -1]] * 3, np.float32) / 3
    maps = []
    for plane in (one, other):
        small = cv2.blur(plane, (2, 2))[::2, ::2] * 255
        maps.append(np.hypot(cv2.filter2D(small, -1, kernel), cv2.filter2D(small, -1, kernel.T)))
    return float(((2 * maps[0] * maps[1] + 170) / (maps[0] ** 2 + maps[1] ** 2 + 170)).std())


def detail(plane: Any) -> float:
    return float((plane - cv2.GaussianBlur(plane, (0, 0), 2)).std())


def figures(found: Any, clean: Any) -> list[float]:
    error = found - clean
    bright = luma(error)
    levels = [255 * float(np.sqrt(np.mean(part**2))) for part in (bright, error - bright[..., None])]
    psnr = -10 * float(np.log10(np.mean((found.clip(0, 1) - clean) ** 2)))
    return [psnr, gmsd(luma(found), luma(clean)), *levels, detail(luma(found)) / detail(luma(clean))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("--set", nargs="+", default=["polyu", "cc15", "renoir"])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--models", nargs="+", default=["photo"])
    options = parser.parse_args()
    for model in options.models:
        denoiser = medcli.load(model)
        for name in options.set:
            files = sorted((options.real / name / "noisy").iterdir())
            files = files[:: max(1, len(files) // options.count)][: options.count]
            table: dict[str, list[list[float]]] = {"noisy": []} | {row: [] for row in ROWS}
            strengths = []
            for path in files:
                match = next((options.real / name / "clean").glob(f"{path.stem}.*"))
                noisy, clean = (
                    np.ascontiguousarray(read(each).pages[0].pixels[: options.side, : options.side] / np.float32(255))
                    for each in (path, match)
                )
                restored = denoiser(noisy)
                curve = noise_curve(noisy, restored, UNIT)
                strengths.append(curve.strength)
                table["noisy"].append(figures(noisy, clean))
                for row, chosen in ROWS.items():
                    table[row].append(figures(adjusted(noisy, restored, UNIT, chosen, curve), clean))
            print(f"\n{model}, {name}, {len(files)} images; automatic strength {np.round(strengths, 2).tolist()}")
            print(f"{'':15s}    PSNR    GMSD  luma  chroma  detail")
            for row, values in table.items():
                psnr, deviation, bright, colour, fine = np.mean(values, 0)
                print(f"{row:15s} {psnr:7.2f}  {deviation:.4f} {bright:5.2f}   {colour:5.2f}    {fine:.2f}", flush=True)


if __name__ == "__main__":
    main()
