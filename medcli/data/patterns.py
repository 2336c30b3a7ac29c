"""Clean patterns made by code: what photographs lack and denoisers mistake for noise, or noise for it.

Checkerboards, stripes, dither, text, line art, flat fields, gradients and star fields, in black and white or two
colours.
"""

from __future__ import annotations

import string
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from medcli.noise.base import log_uniform, uniform

Plane = NDArray[np.float32]  # (side, side), 0 for one colour, 1 for the other

BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) / 16
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_PLAIN,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)
GRAY_SHARE = 0.7  # of the patterns are black, white or gray


def pattern(channels: int, side: int, generator: Generator) -> Tensor:
    """A random pattern, (channels, side, side) float32 in [0, 1]."""
    kind = PATTERNS[_below(len(PATTERNS), generator)]
    plane = torch.from_numpy(kind(side, generator))
    first, second = (_colour(channels, generator) for _ in range(2))
    return first + (second - first) * plane


def checkerboard(side: int, generator: Generator) -> Plane:
    """Squares of 1 to 8 pixels."""
    size = 1 + _below(8, generator)
    row, column = np.mgrid[:side, :side] // size
    board: Plane = ((row + column) % 2).astype(np.float32)
    return board


def stripes(side: int, generator: Generator) -> Plane:
    """Lines of any direction, 2 to 16 pixels from one to the next, sharp or a sine."""
    angle, period = uniform(0, np.pi, generator), log_uniform(2, 16, generator)
    row, column = np.mgrid[:side, :side]
    wave = np.sin(2 * np.pi * (np.cos(angle) * row + np.sin(angle) * column) / period)
    sharp = uniform(0, 1, generator) < 0.5
    lines: Plane = ((wave > 0) if sharp else 0.5 + 0.5 * wave).astype(np.float32)
    return lines


def gradient(side: int, generator: Generator) -> Plane:
    """A ramp of any direction."""
    angle = uniform(0, 2 * np.pi, generator)
    row, column = np.mgrid[:side, :side]
    ramp = np.cos(angle) * row + np.sin(angle) * column
    scaled: Plane = ((ramp - ramp.min()) / np.ptp(ramp)).astype(np.float32)
    return scaled


def flat(side: int, generator: Generator) -> Plane:
    """One colour."""
    return np.zeros((side, side), np.float32)


def dither(side: int, generator: Generator) -> Plane:
    """A ramp in black and white pixels: Bayer's ordered dither, or random thresholds."""
    ramp = gradient(side, generator)
    if uniform(0, 1, generator) < 0.5:
        thresholds = np.tile(BAYER, (side // 4 + 1, side // 4 + 1))[:side, :side]
    else:
        thresholds = torch.rand(side, side, generator=generator).numpy()
    dots: Plane = (ramp > thresholds).astype(np.float32)
    return dots


def text(side: int, generator: Generator) -> Plane:
    """Lines of random letters of one font and size."""
    canvas = np.zeros((side, side), np.uint8)
    font, scale = FONTS[_below(len(FONTS), generator)], log_uniform(0.3, 2.0, generator)
    letters = string.ascii_letters + string.digits
    height = max(8, int(30 * scale))
    for bottom in range(height - _below(height, generator), side + height, height):
        words = "".join(letters[_below(len(letters), generator)] for _ in range(side // 4))
        thickness = 1 + _below(2, generator)
        cv2.putText(canvas, words, (-_below(20, generator), bottom), font, scale, 255, thickness, cv2.LINE_AA)
    return _unit(canvas)


def line_art(side: int, generator: Generator) -> Plane:
    """Lines, ellipses and filled polygons."""
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(3 + _below(12, generator)):
        first, second = ((_below(side, generator), _below(side, generator)) for _ in range(2))
        thickness, grey = 1 + _below(3, generator), 64 + _below(192, generator)
        if uniform(0, 1, generator) < 0.5:
            cv2.line(canvas, first, second, grey, thickness, cv2.LINE_AA)
        else:
            axes = (1 + _below(side // 2, generator), 1 + _below(side // 2, generator))
            filled = -1 if uniform(0, 1, generator) < 0.3 else thickness
            cv2.ellipse(canvas, first, axes, _below(180, generator), 0, 360, grey, filled, cv2.LINE_AA)
    return _unit(canvas)


def star_field(side: int, generator: Generator) -> Plane:
    """Points of light of different brightness and size on an even ground."""
    canvas = np.zeros((side, side), np.float32)
    for _ in range(5 + _below(60, generator)):
        canvas[_below(side, generator), _below(side, generator)] = log_uniform(0.05, 1.0, generator)
    size = uniform(0, 1.5, generator)
    if size > 0.4:
        canvas = cv2.GaussianBlur(canvas, (0, 0), size) * np.float32(2 * np.pi * size**2)
    return canvas.clip(0, 1)


PATTERNS: tuple[Callable[[int, Generator], Plane], ...] = (
    checkerboard, stripes, gradient, flat, flat, dither, text, line_art, star_field,
)  # fmt: skip


def _colour(channels: int, generator: Generator) -> Tensor:
    """(channels, 1, 1): often pure black or white, often gray, sometimes any colour."""
    if uniform(0, 1, generator) < GRAY_SHARE:
        pure = uniform(0, 1, generator) < 0.5
        grey = float(_below(2, generator)) if pure else uniform(0, 1, generator)
        return torch.full((channels, 1, 1), grey)
    return torch.rand(channels, 1, 1, generator=generator)


def _unit(canvas: NDArray[np.uint8]) -> Plane:
    plane: Plane = canvas.astype(np.float32) / np.float32(255)
    return plane


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
