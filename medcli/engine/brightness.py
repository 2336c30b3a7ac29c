"""Gray images keep their local brightness.

Networks that learned from colour photographs have seldom seen noise that is equal in all channels, and many shift
the mean there, of up to 13 grey levels (docs/benchmarks.md, "Gray images"). Noise has zero mean, so the
mean difference between the noisy and the restored image over a Gaussian window is that shift, and is added back. It
is not where

    a pixel differs by more than six standard deviations (robust, of its block): impulses, hot pixels;
    noise was clipped: black cuts off its lower half and raises the mean, and a network that lowers it again is right,
    as is one that raises it where white cut off the upper half. Such a shift stays as far as more than 10 to 20 % of
    the window have the darkest or the brightest value of the image.

Sums are taken over blocks on a grid of the image's own, so that the result does not depend on tiles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from medcli.engine.tiling import Floats, Span

BLOCK = 16  # pixels
WINDOW = 2.0  # standard deviation, in blocks
REACH = 5  # where the window ends, in blocks
OUTLIER = 6 / 0.6745  # medians of absolute differences
CLIPPED = 0.1  # share of the window up to which a shift is corrected; at twice as much it stays
ROWS_AT_ONCE = 256

Rows = Callable[[Span], Floats]


def kept(bands: Iterable[tuple[int, Floats]], noisy: Rows, height: int, width: int) -> Iterator[tuple[int, Floats]]:
    """The bands of a restored gray image, with the local brightness of the noisy one; they lag some 110 rows.

    bands: (first row, (rows, W, 1) float32) from top to bottom, each row once. noisy: the same rows of the image as
    the network sees them, (rows, W) float32.
    """
    shift = _Shift(noisy, height, width)
    held: deque[Floats] = deque()
    rest, read, given = np.empty((0, width, 1), np.float32), 0, 0
    for _, band in bands:
        rest = np.concatenate((rest, band))
        while read < height and len(rest) >= min(BLOCK, height - read):
            held.append(rest[:BLOCK].copy())
            rest = rest[BLOCK:]
            shift.measure(read, held[-1][..., 0])
            read += len(held[-1])
            while held and (read == height or read // BLOCK > given + REACH + 1):
                rows = held.popleft()
                rows += shift.at(given)[: len(rows), :, None]
                yield given * BLOCK, rows
                given += 1


class _Shift:
    """How far a network moved the brightness, block by block; measured from top to bottom."""

    def __init__(self, noisy: Rows, height: int, width: int) -> None:
        self._noisy, self._width = noisy, width
        starts = range(0, height, ROWS_AT_ONCE)
        shown = (noisy(Span(top, min(top + ROWS_AT_ONCE, height))) for top in starts)
        ends = [(rows.min(), rows.max()) for rows in shown]
        self._darkest, self._brightest = min(low for low, _ in ends), max(high for _, high in ends)
        self._taps = np.exp(-0.5 * (np.arange(-REACH, REACH + 1, dtype=np.float32) / WINDOW) ** 2).astype(np.float32)
        # Differences and how many count, then all pixels, the darkest and the brightest; nothing above and below.
        self._sums = np.zeros((5, -(-height // BLOCK) + 2 * REACH, -(-width // BLOCK)), np.float32)

    def measure(self, top: int, restored: Floats) -> None:
        """restored: (rows, W), a row of blocks that begins at row `top` of the image."""
        noisy = self._noisy(Span(top, top + len(restored)))
        difference = _blocks(noisy - restored)
        size = np.abs(difference)
        counts = size <= OUTLIER * _lower_median(size)
        shown = _blocks(noisy)
        parts = (
            np.where(counts, difference, 0), counts, np.isfinite(difference),
            shown <= self._darkest, shown >= self._brightest,
        )  # fmt: skip
        for number, part in enumerate(parts):
            padded = np.pad(part.sum(1, dtype=np.float32), REACH)
            self._sums[number, REACH + top // BLOCK] = np.convolve(padded, self._taps, "valid")

    def at(self, row: int) -> Floats:
        """(BLOCK, W): what to add to the pixels of a row of blocks; the next one's window must be measured."""
        last = self._sums.shape[1] - 2 * REACH - 1
        three = np.stack([self._smooth(min(max(each, 0), last)) for each in (row - 1, row, row + 1)])
        fine = cv2.resize(three, (BLOCK * three.shape[1], 3 * BLOCK), interpolation=cv2.INTER_LINEAR)
        return np.asarray(fine[BLOCK : 2 * BLOCK, : self._width], np.float32)

    def _smooth(self, row: int) -> Floats:
        """(blocks,) what to add in the middle of each block."""
        window = self._sums[:, row : row + 2 * REACH + 1]
        difference, counted, everything, darkest, brightest = np.einsum("k,ckw->cw", self._taps, window)
        mean = difference / counted.clip(min=1e-6)
        clipped = np.where(mean > 0, darkest, brightest) / everything
        added: Floats = mean * (2 - clipped / np.float32(CLIPPED)).clip(0, 1)
        return added


def _blocks(rows: Floats) -> Floats:
    """(h, W) with h up to BLOCK -> (blocks, h * BLOCK); NaN where the last one reaches beyond the image."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)), constant_values=np.nan)
    blocks: Floats = padded.reshape(len(rows), -1, BLOCK).swapaxes(0, 1).reshape(-1, len(rows) * BLOCK)
    return blocks


def _lower_median(blocks: Floats) -> Floats:
    """(blocks, N) -> (blocks, 1): of an even count the lower one of the two in the middle; NaN does not count."""
    ordered = np.sort(blocks, axis=1)  # NaN comes last
    middle = (np.isfinite(blocks).sum(1, keepdims=True) - 1) // 2
    return np.take_along_axis(ordered, middle, axis=1)
