"""Arrays to network floats and back: the only place that knows what a dtype means.

uint8 and uint16 span [0, 1] from 0 to their maximum, whatever the picture holds. Floats are in [0, 1] already; values
outside pass unclipped both ways. A float that is not finite comes back as it was: NaN often marks "no data".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.engine.tiling import Span
from medcli.errors import InputError, ModelError

Pixels = npt.NDArray[Any]

_WHITE = {"uint8": 255.0, "uint16": 65535.0}
_FLOATS = ("float16", "float32", "float64")
_ROWS_AT_ONCE = 32  # a piece of a band that stays in the cache while it is scaled, blended and rounded


def as_canvas(pixels: Pixels, channels: int) -> Pixels:
    """(H, W, C) view of `pixels`, (H, W) or (H, W, C), for a network with `channels`; C is that number, or 1 (gray).

    Raises InputError for an array that is no picture, ModelError for one that does not fit the network.
    """
    if pixels.dtype.name not in (*_WHITE, *_FLOATS):
        raise InputError(
            f"Pixels of type {pixels.dtype.name} have no agreed range.",
            "Give uint8, uint16, or float where 0 is black and 1 is white.",
        )
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise InputError(
            f"An array of shape {pixels.shape} is no picture.",
            "Give (height, width) or (height, width, channels), none of them 0; of a stack, one page at a time.",
        )
    canvas = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    found = canvas.shape[2]
    if found not in (1, channels):
        raise ModelError(f"The picture has {found} channels, but the model was made for {channels}.", _remedy(found))
    return canvas


def is_eight_bit(pixels: Pixels) -> bool:
    return bool(pixels.dtype == np.uint8)


def read_tile(canvas: Pixels, rows: Span, columns: Span) -> Tensor:
    """(1, C, rows, columns) float32 in channels-last order; beyond the border the picture is mirrored.

    In a float picture, NaN and minus infinity read as 0 and plus infinity as 1, so that they do not spread.
    """
    floats = torch.from_numpy(_window(canvas, rows, columns)).to(torch.float32)
    white = _WHITE.get(canvas.dtype.name)
    floats = floats.div_(white) if white else floats.nan_to_num_(nan=0.0, posinf=1.0, neginf=0.0)
    return floats.permute(2, 0, 1)[None]


def write_rows(answer: Tensor, source: Pixels, target: Pixels, strength: float) -> None:
    """Blend `answer`, (rows, W, C) float32, with `source` and store it in `target`, both (rows, W, C) of one dtype.

    Integers are rounded and clipped to their range. `answer` is used up: it is scratch room afterwards.
    """
    white = _WHITE.get(source.dtype.name)
    for top in range(0, len(answer), _ROWS_AT_ONCE):
        piece = slice(top, top + _ROWS_AT_ONCE)
        if white:
            target[piece] = _whole_numbers(answer[piece], source[piece], white, strength)
        else:
            target[piece] = _floats(answer[piece], source[piece], strength)


def reflected(span: Span, length: int) -> npt.NDArray[np.intp]:
    """Indices of `span` in a side of `length` pixels that is mirrored at its ends without repeating them."""
    period = max(1, 2 * (length - 1))
    places = np.arange(span.start, span.stop) % period
    return np.where(places < length, places, period - places)


def _window(canvas: Pixels, rows: Span, columns: Span) -> Pixels:
    """A copy, in the machine's byte order: torch takes no foreign, read-only or reversed memory."""
    height, width = canvas.shape[:2]
    if rows.stop <= height and columns.stop <= width:
        window = canvas[rows.start : rows.stop, columns.start : columns.stop]
    else:
        window = canvas[np.ix_(reflected(rows, height), reflected(columns, width))]
    return np.array(window, dtype=canvas.dtype.newbyteorder("="), order="C")


def _native(source: Pixels) -> Tensor:
    return torch.from_numpy(np.array(source, dtype=source.dtype.newbyteorder("="), order="C"))


def _whole_numbers(answer: Tensor, source: Pixels, white: float, strength: float) -> Pixels:
    answer.mul_(white)
    if strength < 1:
        answer = torch.lerp(_native(source).to(torch.float32), answer, strength)
    return answer.round_().clamp_(0, white).numpy()


def _floats(answer: Tensor, source: Pixels, strength: float) -> Pixels:
    before = _native(source)
    before = before.to(torch.promote_types(before.dtype, torch.float32))
    after = torch.lerp(before, answer.to(before.dtype), strength)
    return torch.where(before.isfinite(), after, before).numpy()


def _remedy(found: int) -> str:
    if found in (2, 4):
        return "An alpha channel is not a colour: leave it out (pixels[..., :-1]) and put it back afterwards."
    return "Choose a model with as many channels, or denoise the channels one by one as gray pictures."
