"""What is known of the noise of a sensor, against a network's result on the planes of its mosaic.

Noise there is white, and its variance is a line over the signal (shot and read noise), measured on the image. So two
errors of a network that does not know it can be taken back. It sees the planes in the curve of sRGB, where the mean of
noisy values lies below the curve of their mean: the result is lifted by the exact difference (the idea of Makitalo and
Foi, "Optimal inversion of the generalized Anscombe transformation", 2013, for this curve). And where it removed more
than the noise has, structure went too: there the change is scaled by noise over what was removed, the factor of
least squared error for noise that is independent of the structure (the empirical Wiener filter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray

from medcli.images.encoding import from_perceptual, to_perceptual
from medcli.images.values import Floats

WINDOW = 17  # pixels a side over which noise and what was removed are compared
BAND = 256
STEPS, NODES = 700, 24  # of the tables over the signal, and of Gauss-Hermite quadrature
LOWEST, HIGHEST = -0.3, 2.0  # of the tables, in the curve of sRGB
SIDE, BINS, LEAST_BLOCKS, LEAST_BINS = 8, 12, 20, 6  # blocks in pixels, brightnesses, and how many there must be
CALM, CALM_OF_NOISE = 0.05, 0.630  # quantile of the blocks' variances, and what it is for white noise of variance 1
CLIPPED, OUTLIER = 0.98, 1.3
MOST_PIXELS = 4_000_000  # of a plane, on which noise is measured

Pixels = NDArray[Any]


@dataclass(frozen=True)
class MosaicNoise:
    """Variance shot * x + floor for x from black, 0, to white, 1. gains: of red, green and blue, before the curve."""

    shot: float
    floor: float
    gains: tuple[float, float, float]

    def tables(self, channel: int) -> tuple[Floats, Floats, Floats]:
        """Signal, mean of the noisy signal, and its variance, all in the curve of sRGB, by rising signal."""
        gain = self.gains[channel]
        signal = np.linspace(LOWEST, HIGHEST, STEPS)
        light = from_perceptual(signal, "linear")
        deviation = np.sqrt(np.maximum(0, self.shot * np.maximum(light, 0) * gain + self.floor * gain**2))
        nodes, weights = hermegauss(NODES)
        weights = weights / weights.sum()
        noisy = to_perceptual(light[:, None] + deviation[:, None] * nodes, "linear").astype(np.float64)
        mean = noisy @ weights
        variance = (noisy - mean[:, None]) ** 2 @ weights
        return signal.astype(np.float32), mean.astype(np.float32), variance.astype(np.float32)


def measured_noise(pages: list[Pixels], gains: tuple[float, float, float]) -> MosaicNoise | None:
    """From two pages of planes, (h, w, 3) each, as `medcli.images.raw_file` gives them; None where no noise is found.

    One line for all four planes, for they share an amplifier. Structure adds to what is measured and takes nothing
    away: of the blocks of each brightness the calmest twentieth counts, and brightnesses without calm blocks are left
    out.
    """
    tones, variances = [], []
    for page, channel in ((0, 0), (0, 1), (1, 1), (0, 2)):
        plane = pages[page][..., channel]
        rows = slice(0, max(2 * SIDE, MOST_PIXELS // plane.shape[1]))
        tone, variance = _calm_blocks(from_perceptual(plane[rows], "linear") / gains[channel])
        tones += tone
        variances += variance
    if len(tones) < LEAST_BINS:
        return None
    shot, floor = _line(np.maximum(tones, 0), np.array(variances))
    return MosaicNoise(shot, floor, gains) if shot > 0 or floor > 0 else None


def _calm_blocks(plane: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Brightness and variance of the noise in up to BINS groups of blocks, by the differences across diagonals."""
    crossed = (plane[:-1, :-1] - plane[:-1, 1:] - plane[1:, :-1] + plane[1:, 1:]) / 2
    rows, columns = (side // SIDE * SIDE for side in crossed.shape)
    shape = rows // SIDE, SIDE, columns // SIDE, SIDE
    values, energies = (part[:rows, :columns].reshape(shape) for part in (plane, crossed**2))
    unclipped = values.max((1, 3)) < CLIPPED
    tone, variance = values.mean((1, 3))[unclipped], energies.mean((1, 3))[unclipped]
    count = min(BINS, len(tone) // LEAST_BLOCKS)
    groups = np.array_split(np.argsort(tone, kind="stable"), count) if count else []
    calm = [float(np.quantile(variance[group], CALM)) / CALM_OF_NOISE for group in groups]
    kept = [number for number, value in enumerate(calm) if value > 0]
    return [float(tone[groups[number]].mean()) for number in kept], [calm[number] for number in kept]


def _line(tones: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and floor, neither below 0, of least relative error; what lies high above is left out, again and again."""
    kept = np.ones(len(tones), bool)
    slope = floor = 0.0
    for _ in range(8):
        columns = np.stack([tones, np.ones_like(tones)], 1)[kept] / variances[kept, None]
        slope, floor = np.linalg.lstsq(columns, np.ones(len(columns)), rcond=None)[0].tolist()
        if slope < 0 or floor < 0:  # the better of the two alone
            alone = columns.sum(0) / (columns**2).sum(0)
            errors = ((columns * alone - 1) ** 2).sum(0)
            slope, floor = (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
        near = variances < OUTLIER * (slope * tones + floor)
        if near.sum() < LEAST_BINS or (near == kept).all():
            break
        kept = near
    return float(slope), float(floor)


def within_noise(noisy: Pixels, restored: Pixels, noise: MosaicNoise) -> Pixels:
    """`restored`, lifted by the bias of the curve and held back where more was removed than noise; (h, w, 3) all."""
    tables = [noise.tables(channel) for channel in range(3)]
    result = np.empty_like(restored)
    reach = WINDOW // 2
    for top in range(0, len(noisy), BAND):
        above = max(0, top - reach)
        wide, inner = slice(above, top + BAND + reach), slice(top - above, top - above + BAND)
        for channel, (signal, mean, variance) in enumerate(tables):
            before, after = (np.ascontiguousarray(each[wide, :, channel], np.float32) for each in (noisy, restored))
            removed = after - before
            expected = np.interp(after, mean, variance).astype(np.float32)
            share = np.minimum(1, _smooth(expected) / np.maximum(_smooth(removed * removed), 1e-12))
            bias = np.interp(after, mean, signal).astype(np.float32) - after
            bias[(after < mean[0]) | (after > mean[-1])] = 0
            result[top : top + BAND, :, channel] = (before + share * (removed + bias))[inner]
    return result


def _smooth(plane: Floats) -> Floats:
    return np.asarray(cv2.blur(plane, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT))
