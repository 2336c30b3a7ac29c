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

import torch
from torch import Tensor
from torch.nn import functional

from medcli.engine.tiling import Span

BLOCK = 16  # pixels
WINDOW = 2.0  # standard deviation, in blocks
REACH = 5  # where the window ends, in blocks
OUTLIER = 6 / 0.6745  # medians of absolute differences
CLIPPED = 0.1  # share of the window up to which a shift is corrected; at twice as much it stays
ROWS_AT_ONCE = 256

Rows = Callable[[Span], Tensor]


def kept(bands: Iterable[tuple[int, Tensor]], noisy: Rows, height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """The bands of a restored gray image, with the local brightness of the noisy one; they lag some 110 rows.

    bands: (first row, (rows, W, 1) float32) from top to bottom, each row once. noisy: the same rows of the image as
    the network sees them, (rows, W) float32.
    """
    shift = _Shift(noisy, height, width)
    held: deque[Tensor] = deque()
    rest, read, given = torch.empty(0, width, 1), 0, 0
    for _, band in bands:
        rest = torch.cat((rest, band))
        while read < height and len(rest) >= min(BLOCK, height - read):
            held.append(rest[:BLOCK].clone())
            rest = rest[BLOCK:]
            shift.measure(read, held[-1][..., 0])
            read += len(held[-1])
            while held and (read == height or read // BLOCK > given + REACH + 1):
                rows = held.popleft()
                yield given * BLOCK, rows.add_(shift.at(given)[: len(rows), :, None])
                given += 1


class _Shift:
    """How far a network moved the brightness, block by block; measured from top to bottom."""

    def __init__(self, noisy: Rows, height: int, width: int) -> None:
        self._noisy, self._width = noisy, width
        starts = range(0, height, ROWS_AT_ONCE)
        ends = [torch.aminmax(noisy(Span(top, min(top + ROWS_AT_ONCE, height)))) for top in starts]
        self._darkest, self._brightest = min(low for low, _ in ends), max(high for _, high in ends)
        self._taps = torch.exp(-0.5 * (torch.arange(-REACH, REACH + 1) / WINDOW) ** 2)
        # Differences and how many count, then all pixels, the darkest and the brightest; nothing above and below.
        self._sums = torch.zeros(5, -(-height // BLOCK) + 2 * REACH, -(-width // BLOCK))

    def measure(self, top: int, restored: Tensor) -> None:
        """restored: (rows, W), a row of blocks that begins at row `top` of the image."""
        noisy = self._noisy(Span(top, top + len(restored)))
        difference = _blocks(noisy - restored)
        size = difference.abs()
        counts = size <= OUTLIER * size.nanmedian(1, keepdim=True).values
        here = difference.isfinite()
        parts = (
            difference.where(counts, 0), counts, here,
            _blocks(noisy) <= self._darkest, _blocks(noisy) >= self._brightest,
        )  # fmt: skip
        sums = torch.stack([part.sum(1, dtype=torch.float32) for part in parts])
        padded = functional.pad(sums, (REACH, REACH))
        self._sums[:, REACH + top // BLOCK] = functional.conv1d(padded[:, None], self._taps[None, None])[:, 0]

    def at(self, row: int) -> Tensor:
        """(BLOCK, W): what to add to the pixels of a row of blocks; the next one's window must be measured."""
        last = self._sums.shape[1] - 2 * REACH - 1
        three = [self._smooth(min(max(each, 0), last)) for each in (row - 1, row, row + 1)]
        fine = functional.interpolate(torch.stack(three)[None, None], scale_factor=BLOCK, mode="bilinear")
        return fine[0, 0, BLOCK : 2 * BLOCK, : self._width]

    def _smooth(self, row: int) -> Tensor:
        """(blocks,) what to add in the middle of each block."""
        window = self._sums[:, row : row + 2 * REACH + 1]
        difference, counted, everything, darkest, brightest = torch.einsum("k,ckw->cw", self._taps, window)
        mean = difference / counted.clamp(min=1e-6)
        clipped = torch.where(mean > 0, darkest, brightest) / everything
        added: Tensor = mean * (2 - clipped / CLIPPED).clamp(0, 1)
        return added


def _blocks(rows: Tensor) -> Tensor:
    """(h, W) with h up to BLOCK -> (blocks, h * BLOCK); NaN where the last one reaches beyond the image."""
    padded = functional.pad(rows, (0, -rows.shape[1] % BLOCK), value=torch.nan)
    return padded.unfold(1, BLOCK, BLOCK).transpose(0, 1).flatten(1)
