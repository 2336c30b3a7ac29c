"""Raw files made of pictures: a mosaic, black level, white balance and noise in a DNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from medcli.images import dng, encoding
from medcli.images.development import Development
from medcli.images.encoding import from_perceptual
from medcli.images.raw_file import BLUE, GREEN, RED, SECOND_GREEN

GAINS = np.array([2.0, 1.0, 1.6])
RGGB = np.array([[RED, GREEN], [SECOND_GREEN, BLUE]])
PATTERNS = [RGGB, RGGB[::-1], RGGB[:, ::-1], RGGB[::-1, ::-1]]
MATRIX = encoding.srgb_matrix() / GAINS[:, None]
MOSAIC = Development(stage="mosaic")


def scene(size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """(H, W, 3) smooth colours in [0, 1], in the curve of sRGB."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]] / 40
    waves = [0.5 + 0.3 * np.sin(rows * (1 + c / 2) + c) * np.cos(columns + c) for c in range(3)]
    return np.stack(waves, -1)


def raw_of(picture: np.ndarray, colours: np.ndarray = RGGB, shot: float = 0.0, **options: Any) -> bytes:
    """A DNG of 14 bits; shot: noise of variance shot * x + shot / 100."""
    light = from_perceptual(picture, "linear") / GAINS
    mosaic = np.empty(light.shape[:2])
    for (row, column), colour in np.ndenumerate(colours):
        channel = GREEN if colour == SECOND_GREEN else colour
        mosaic[row::2, column::2] = light[row::2, column::2, channel]
    noise = np.random.default_rng(0).normal(0, 1, mosaic.shape)
    mosaic = mosaic + noise * np.sqrt(shot * (mosaic + 0.01))
    stream = io.BytesIO()
    dng.write(stream, mosaic, colours, 1 / GAINS, MATRIX, "Simulated", black=512, white=16383, **options)
    return stream.getvalue()
