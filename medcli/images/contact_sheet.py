"""Images side by side in one PNG, pixel for pixel, under titles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medcli.files.atomic import atomic_write

Pixels = NDArray[np.float32]
Levels = NDArray[np.uint8]

GAP, TITLE, TEXT = 4, 24, 14  # pixels: between images, height of the line of titles, size of its letters
PAPER, INK = 246, 20  # gray levels of 255


def contact_sheet(rows: Sequence[Sequence[Pixels]], titles: Sequence[str], out: Path, *, side: int = 256) -> None:
    """Writes rows of images as one PNG: a column for each title, no image rescaled.

    rows: images (H, W, 3) or (H, W, 1) in [0, 1], what lies outside is clipped; one for each title. side: pixels; of
    a larger image the middle is shown. Raises OutputError where `out` cannot be written.
    """
    cells = [[_levels(_middle(image, side)) for image in row] for row in rows]
    heights = [max(cell.shape[0] for cell in row) for row in cells]
    columns = zip(titles, *cells, strict=True)
    widths = [max(_width(title) + GAP, *(cell.shape[1] for cell in column)) for title, *column in columns]
    lefts, tops = _starts(widths, GAP), _starts(heights, TITLE)
    sheet = np.full((tops[-1], lefts[-1], 3), PAPER, np.uint8)
    for row, top in zip(cells, tops, strict=False):
        for cell, left in zip(row, lefts, strict=False):
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    with atomic_write(out) as file:
        _titled(sheet, titles, lefts).save(file, "PNG")


def _middle(image: Pixels, side: int) -> Pixels:
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _levels(image: Pixels) -> Levels:
    levels = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(levels, (*levels.shape[:2], 3))


def _starts(lengths: Sequence[int], first: int) -> list[int]:
    """Where each of `lengths` begins with a gap after it, the first at `first`; at last the length of the whole."""
    return [first + sum(lengths[:i]) + GAP * i for i in range(len(lengths) + 1)]


def _titled(sheet: Levels, titles: Sequence[str], lefts: Sequence[int]) -> Image.Image:
    image = Image.fromarray(sheet)
    pen = ImageDraw.Draw(image)
    for title, left in zip(titles, lefts, strict=False):
        pen.text((left, TITLE / 2), title, (INK,) * 3, _font(), anchor="lm")
    return image


def _width(title: str) -> int:
    return round(_font().getlength(title))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)
