"""Images side by side in one PNG, pixel for pixel, under titles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medcli.files.atomic import atomic_write

Pixels = NDArray[Any]
Levels = NDArray[np.uint8]

GAP, TITLE, TEXT = 4, 24, 14  # pixels: between images, height of a line of text, size of its letters
PAPER, INK = 246, 20  # gray levels of 255


def contact_sheet(
    rows: Sequence[Sequence[Pixels]],
    titles: Sequence[str],
    out: Path,
    *,
    side: int = 256,
    labels: Sequence[Sequence[str]] = (),
) -> None:
    """Writes rows of images as one PNG: a column for each title, no image rescaled.

    rows: images (H, W, 3) or (H, W, 1), floats in [0, 1], where what lies outside is clipped, or uint8; one for each
    title. side: pixels; of a larger image the middle is shown. labels: a line below each image, row by row.
    Raises OutputError where `out` cannot be written.
    """
    cells = [[_levels(_middle(image, side)) for image in row] for row in rows]
    heights = [max(cell.shape[0] for cell in row) + (TITLE if labels else 0) for row in cells]
    texts = zip(titles, *labels, strict=True)
    columns = zip(zip(*cells, strict=True), texts, strict=True)
    widths = [max(*(cell.shape[1] for cell in images), *(_width(text) + GAP for text in lines))
              for images, lines in columns]  # fmt: skip
    lefts, tops = _starts(widths, GAP), _starts(heights, TITLE)
    sheet = np.full((tops[-1], lefts[-1], 3), PAPER, np.uint8)
    for row, top in zip(cells, tops, strict=False):
        for cell, left in zip(row, lefts, strict=False):
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    image = Image.fromarray(sheet)
    _write_line(image, titles, lefts, 0)
    for line, top, row in zip(labels, tops, cells, strict=False):
        _write_line(image, line, lefts, top + max(cell.shape[0] for cell in row))
    with atomic_write(out) as file:
        image.save(file, "PNG")


def _middle(image: Pixels, side: int) -> Pixels:
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _levels(image: Pixels) -> Levels:
    levels = image if image.dtype == np.uint8 else (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(levels, (*levels.shape[:2], 3))


def _starts(lengths: Sequence[int], first: int) -> list[int]:
    """Where each of `lengths` begins with a gap after it, the first at `first`; at last the length of the whole."""
    return [first + sum(lengths[:i]) + GAP * i for i in range(len(lengths) + 1)]


def _write_line(image: Image.Image, texts: Sequence[str], lefts: Sequence[int], top: int) -> None:
    pen = ImageDraw.Draw(image)
    for text, left in zip(texts, lefts, strict=False):
        pen.text((left, top + TITLE / 2), text, (INK,) * 3, _font(), anchor="lm")


def _width(title: str) -> int:
    return round(_font().getlength(title))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)
