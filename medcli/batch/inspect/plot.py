"""The noise of an image as a picture: against brightness, its autocorrelation, its spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medcli.batch.inspect.report import Report
from medcli.data.flat_blocks import blocks, surfaces
from medcli.files.atomic import atomic_write
from medcli.images import read

SIDE, SHARE = 32, 0.1  # of blocks, and how many of them: the flattest


def plot(report: Report, path: Path) -> None:
    """Writes a PNG. Raises InputError where the image cannot be read again, OutputError."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    tones, lags, spectrum = figure.subplots(1, 3)
    _draw_tones(report, tones)
    residuals = _flattest(report)
    _draw_lags(residuals, lags)
    _draw_spectrum(residuals, spectrum)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _draw_tones(report: Report, axes: Any) -> None:
    axes.set(title="noise against brightness", xlabel="brightness", ylabel="standard deviation, grey levels")
    luma, chroma = report.seen.luma, report.seen.chroma
    if luma is not None:
        axes.plot(list(luma.by_tone), list(luma.by_tone.values()), "o-", label="in brightness")
    if chroma is not None:
        axes.axhline(chroma.sigma, color="C1", linestyle="--", label="in colour, mean")
    if luma or chroma:
        axes.legend()
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)


def _flattest(report: Report) -> NDArray[np.float64]:
    """(N, SIDE, SIDE) what is left of the flattest blocks when a smooth surface is taken off, in grey levels."""
    pixels = read(report.path).pages[0].pixels
    unit = np.nan_to_num(report.seen.values.to_unit(pixels).reshape(*pixels.shape[:2], -1).mean(2))
    found = blocks(unit, SIDE)
    residuals: NDArray[np.float64] = 255 * (found - surfaces(found))
    order = np.argsort(residuals.std((1, 2)), kind="stable")
    return residuals[order[: max(1, round(SHARE * len(order)))]]


def _draw_lags(residuals: NDArray[np.float64], axes: Any) -> None:
    axes.set(title="correlation of neighbours", xlabel="distance in pixels", ylim=(-0.4, 1.05))
    power = max(float(np.square(residuals).mean()), 1e-12)
    for name, turned in (("along rows", residuals), ("down columns", residuals.swapaxes(1, 2))):
        values = [float((turned[..., lag:] * turned[..., : SIDE - lag]).mean()) / power for lag in range(9)]
        axes.plot(range(9), values, "o-", label=name)
    axes.axhline(0, color="0.6", linewidth=1)
    axes.legend()


def _draw_spectrum(residuals: NDArray[np.float64], axes: Any) -> None:
    axes.set(title="spectrum of the noise (middle: slow)", xticks=[], yticks=[])
    power = np.square(abs(np.fft.fft2(residuals))).mean(0) + 1e-9
    axes.imshow(10 * np.log10(np.fft.fftshift(power)), cmap="gray")
