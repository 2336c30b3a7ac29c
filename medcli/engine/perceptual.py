"""Linear light, PQ and HLG as a network knows pictures: brought to the curve of sRGB, and the result brought back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.images.decoded_image import Page
from medcli.images.encoding import Transfer, from_perceptual, to_perceptual
from medcli.images.raster import bands
from medcli.images.values import ValueRange, missing

Pixels = NDArray[Any]


def shown(page: Page, transfer: Transfer, values: ValueRange) -> Page:
    """The page as float32 in the curve of sRGB; pixels without data become NaN.

    values: which become signal 0 and 1.
    """
    result = np.empty(page.pixels.shape, np.float32)
    for rows in bands(page.pixels):
        result[rows] = to_perceptual(values.to_unit(page.pixels[rows]), transfer)
        lost = missing(page.pixels[rows], page.nodata)
        if lost is not None:
            result[rows][lost] = np.nan
    return replace(page, pixels=result, nodata=None)


def brought_back(original: Page, before: Page, after: Page, transfer: Transfer, values: ValueRange) -> Page:
    """`after`, made of `before`, in the encoding and type of `original`. What did not change stays, bit for bit."""
    dtype = original.pixels.dtype
    result = np.empty(after.pixels.shape, dtype)
    same_size = original.pixels.shape == after.pixels.shape
    for rows in bands(after.pixels):
        found = values.from_unit(from_perceptual(after.pixels[rows], transfer), dtype)
        if same_size:
            changed = (after.pixels[rows] != before.pixels[rows]) & np.isfinite(after.pixels[rows])
            found = np.where(changed, found, original.pixels[rows])
        result[rows] = found
    alpha = original.alpha if same_size or after.alpha is None else after.alpha
    return replace(original, pixels=result, alpha=alpha)
