"""A model that fills and enlarges, beside OpenCV's inpainting and bicubic enlargement.

python docs/benchmarks/corruption.py MODEL FOLDER [--gray] [--scratches] [--limit N] [--device cpu]

MODEL comes from `med train --pool corruption`; FOLDER holds clean images. What is missing is drawn once for each
image and share; small images are made with Pillow's bicubic filter and hold 8 bits, as a file would. PSNR in dB
over all pixels and channels, of results in 8 bits, no border cut off; mean over the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import medcli
from medcli.batch.denoise.inpaint import inpainted
from medcli.batch.denoise.upscale import upscaled
from medcli.batch.pairs import as_floats, thinned
from medcli.data.folders import images_in
from medcli.images import Page
from medcli.metrics import psnr
from medcli.seeding import keyed_generator
from medcli.zoo.model import find_model

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]
Ways = dict[str, Callable[..., Pixels]]
HOLES = ((0.01, 1), (0.2, 1), (0.5, 1), (0.7, 1), (0.9, 1), (0.1, 8))  # share, and side of the squares in pixels
FACTORS = (2, 3, 4)
RADIUS = 3  # pixels around a missing one that OpenCV looks at


def images(folder: Path, limit: int | None, *, gray: bool) -> Iterator[tuple[str, Pixels]]:
    """(name, (H, W) or (H, W, 3) uint8)."""
    for name in thinned(images_in(folder), limit):
        image = Image.open(folder / name)
        yield name.as_posix(), np.array(image.convert("L" if gray or image.mode == "L" else "RGB"))


def missing(name: str, share: float, side: int, shape: tuple[int, ...]) -> Mask:
    """(H, W), true where a pixel is missing."""
    squares = [-(-length // side) for length in shape[:2]]
    drawn = torch.rand(squares, generator=keyed_generator(name, str(share))) < share
    large = drawn.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return np.asarray(large[: shape[0], : shape[1]].numpy())


def scratched(number: int, shape: tuple[int, ...]) -> Mask:
    """(H, W): twelve lines of 1 to 3 pixels and a line of lettering."""
    rng, (height, width) = np.random.default_rng(number), shape[:2]
    drawn = np.zeros((height, width), np.uint8)
    for _ in range(12):
        ends = [[int(each) for each in rng.integers(0, (width, height))] for _ in range(2)]
        cv2.line(drawn, *ends, 1, int(rng.integers(1, 4)))
    cv2.putText(drawn, "Sample text", (5, height // 2), cv2.FONT_HERSHEY_SIMPLEX, width / 260, 1, 2)
    return drawn.astype(bool)


def by_opencv(pixels: Pixels, mask: Mask, way: int) -> Pixels:
    """By OpenCV."""
    return np.asarray(cv2.inpaint(pixels, mask.astype(np.uint8), RADIUS, way))


def untouched(pixels: Pixels, mask: Mask) -> Pixels:
    return pixels


def filling(denoiser: medcli.Denoiser) -> Ways:
    return {
        "black where missing": untouched,
        "OpenCV, Telea": partial(by_opencv, way=cv2.INPAINT_TELEA),
        "OpenCV, Navier-Stokes": partial(by_opencv, way=cv2.INPAINT_NS),
        "the model": lambda pixels, mask: np.asarray(inpainted(Page(pixels), mask, denoiser).pixels),
    }


def enlarging(denoiser: medcli.Denoiser, filters: dict[int, str]) -> Ways:
    return {
        "bicubic": lambda small, factor: upscaled(small, factor, "bicubic"),
        "the model": lambda small, factor: denoiser(upscaled(small, factor, filters[factor])),
    }


def smaller(clean: Pixels, factor: int) -> tuple[Pixels, Pixels]:
    """(small, what it was made of): the image cut to a multiple of the factor."""
    height, width = (side // factor for side in clean.shape[:2])
    whole = clean[: height * factor, : width * factor]
    return np.array(Image.fromarray(whole).resize((width, height), Image.Resampling.BICUBIC)), whole


def distance(restored: Pixels, clean: Pixels) -> float:
    return psnr(as_floats(restored), as_floats(clean))


def table(title: str, columns: list[str], scores: dict[str, list[list[float]]]) -> str:
    """scores: way -> figures of each column."""
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [
        f"| {way} | " + " | ".join(f"{fmean(figures):.2f}" for figures in row) + " |" for way, row in scores.items()
    ]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--gray", is_flag=True, help="Colour images as gray ones (ITU-R 601 luma).")
@click.option("--scratches", is_flag=True, help="Lines and lettering instead of shares of the pixels.")
@click.option("--limit", type=click.IntRange(min=1), help="Images, spread evenly.")
@click.option("--device", default="auto", show_default=True)
def main(model: str, folder: Path, gray: bool, scratches: bool, limit: int | None, device: str) -> None:
    can = find_model(model).capabilities
    can.require_inpainting()
    filters = {factor: can.upscale_filter(factor) for factor in FACTORS}
    denoiser = medcli.load(model, device=device, precision="fp32")
    fillers, enlargers = filling(denoiser), enlarging(denoiser, filters)
    columns = [f"{share:.0%}" + f" in squares of {side}" * (side > 1) for share, side in HOLES]
    columns = ["scratches"] if scratches else columns
    fill: dict[str, list[list[float]]] = {way: [[] for _ in columns] for way in fillers}
    enlarge: dict[str, list[list[float]]] = {way: [[] for _ in FACTORS] for way in enlargers}
    for number, (name, clean) in enumerate(tqdm(images(folder, limit, gray=gray), disable=None, unit=" images")):
        masks = [missing(name, share, side, clean.shape) for share, side in HOLES]
        for column, mask in enumerate([scratched(number, clean.shape)] if scratches else masks):
            holed = np.where(mask if clean.ndim == 2 else mask[..., None], np.uint8(0), clean)
            for way, restore in fillers.items():
                fill[way][column].append(distance(restore(holed, mask), clean))
        for column, factor in enumerate([] if scratches else FACTORS):
            small, whole = smaller(clean, factor)
            for way, restore in enlargers.items():
                enlarge[way][column].append(distance(restore(small, factor), whole))
    print(table("missing", columns, fill), end="\n\n")
    if not scratches:
        print(table("enlarged", [f"x{factor}" for factor in FACTORS], enlarge))


if __name__ == "__main__":
    main()
