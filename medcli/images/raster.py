"""Arrays in the channel orders of the codecs, handled in bands so that no second image is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.errors import ran_out
from medcli.images.decoded_image import Page

BAND_BYTES = 1 << 20

Array = NDArray[Any]


def bands(array: Array) -> Iterator[slice]:
    """Slices of rows of about a megabyte each, from top to bottom."""
    step = max(1, BAND_BYTES * len(array) // max(1, array.nbytes))
    return (slice(top, min(top + step, len(array))) for top in range(0, len(array), step))


def unpacked(data: bytes) -> Array | None:
    """What OpenCV makes of a file, in its channel order and with orientation left alone; None where it cannot.

    Raises MemoryError.
    """
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if ran_out(error):
            raise MemoryError from error
        return None


def from_bgr(array: Array) -> Page:
    """A page out of what OpenCV decodes: (H, W), (H, W, 1), BGR or BGRA. Three channels are turned in place."""
    if array.ndim == 3 and array.shape[2] == 1:
        return Page(array[:, :, 0])
    if array.ndim == 2:
        return Page(array)
    if array.shape[2] == 4:
        return Page(cv2.cvtColor(array, cv2.COLOR_BGRA2RGB), cv2.extractChannel(array, 3))
    swap_in_place(array)
    return Page(array)


def swap_in_place(array: Array) -> None:
    """Exchange the first and third of three channels."""
    for rows in bands(array):
        array[rows] = cv2.cvtColor(np.ascontiguousarray(array[rows]), cv2.COLOR_BGR2RGB)


@contextmanager
def as_bgr(page: Page) -> Iterator[Array]:
    """The page in OpenCV's order, contiguous. RGB is turned in place and turned back at the end, to spare a copy."""
    pixels = np.ascontiguousarray(page.pixels)
    if page.alpha is not None:
        yield interleaved(Page(colour(pixels)[:, :, ::-1], page.alpha), slice(None))
    elif pixels.ndim == 2:
        yield pixels
    elif not pixels.flags.writeable:
        yield cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    else:
        swap_in_place(pixels)
        try:
            yield pixels
        finally:
            if pixels is page.pixels:
                swap_in_place(pixels)


def colour(pixels: Array) -> Array:
    """Gray as three equal channels; RGB as it is."""
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def interleaved(page: Page, rows: slice) -> Array:
    """Rows of a page as one contiguous array (rows, W) or (rows, W, channels), alpha last."""
    pixels: Array = page.pixels[rows]
    if page.alpha is None:
        return np.ascontiguousarray(pixels)
    return np.dstack([pixels, page.alpha[rows]])


def turned(page: Page, turn: int) -> Page:
    """`page`, stored with the EXIF orientation `turn`, as it wants to be shown."""
    if turn == 1:
        return page
    return Page(_turned(page.pixels, turn), None if page.alpha is None else _turned(page.alpha, turn))


def _turned(values: Array, turn: int) -> Array:
    values = np.swapaxes(values, 0, 1) if turn > 4 else values
    rows = -1 if turn in (3, 4, 7, 8) else 1
    columns = -1 if turn in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::rows, ::columns])
