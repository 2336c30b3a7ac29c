"""What an image is like before it is denoised: its range, its noise, what a camera or a program did to it.

The noise is that of `medcli.data.photon_noise`: variance = gain (value - offset) + read^2, with its correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.data.photon_noise import MeasuredNoise, photon_noise
from medcli.errors import InputError
from medcli.images.decoded_image import is_gray
from medcli.images.values import ValueRange

Floats = NDArray[np.float64]

TONES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the range, at which the level is stated where the image has such values
MOST_PIXELS = 4_000_000  # looked at: of larger images the middle
HOT = 8.0  # deviations from the median of its neighbours, of a pixel that stands alone
SMOOTHED = 0.35  # correlation of neighbours from which on fine noise has been taken out or blurred
NO_NOISE = 0.01  # grey levels; of JPEGs with true noise of 2 to 5, some show 0.02
WEAKEST, ALIKE = 2.0, 0.94  # of white noise: least deviation; least ratio of the deviations of both chroma planes
MOST_TEXTURE = 1.25  # ratio of the deviation in brightness to that of white noise, which texture makes larger
LEAST_HOT = 4 / 255  # deviation that hot pixels are compared with at least
STANDARD_LUMA = 3688  # sum of JPEG's example table for luma, quality 50


@dataclass(frozen=True)
class NoiseLevel:
    """Of one plane, in grey levels of 255. sigma: root of the mean variance over the image.

    gain: variance per value, both of the plane's range in grey levels. read: deviation in the dark.
    by_tone: brightness in [0, 1] to deviation. correlation: of neighbours at 1, 2, 3 pixels.
    """

    sigma: float
    gain: float
    read: float
    by_tone: dict[float, float]
    correlation: tuple[float, ...]

    @property
    def white(self) -> bool:
        """Whether neighbouring pixels hardly share their noise."""
        return self.correlation[0] < 0.1

    @property
    def rises(self) -> bool:
        """Whether the deviation depends clearly on brightness, as that of photons does."""
        levels = list(self.by_tone.values())
        return len(levels) > 1 and levels[-1] > 1.3 * levels[0]


@dataclass(frozen=True)
class Inspection:
    """low, high: smallest and largest value; values: what is black and white. luma: None where nothing can be measured.

    chroma: of differences of channels, the stronger one; None for gray images. chroma_ratio: of the weaker one to it.
    rows, columns: deviation of banding along them. hot: hot and dead pixels per million. blockiness: how much stronger
    steps are at borders of 8x8 blocks; 1 for none. equal_channels: a gray image stored in colour.
    """

    width: int
    height: int
    channels: int
    dtype: str
    low: float
    high: float
    values: ValueRange
    luma: NoiseLevel | None
    chroma: NoiseLevel | None
    chroma_ratio: float
    rows: float
    columns: float
    hot: float
    blockiness: float
    equal_channels: bool

    @property
    def gray(self) -> bool:
        """Whether it has one channel, or equal ones."""
        return self.channels == 1 or self.equal_channels

    @property
    def sigma(self) -> float:
        """Of the noise of a channel, in grey levels, the mean over channels; 0 where none can be measured.

        White noise is measured in colour, where the image has little structure. Else it is that of the brightness and
        that of a channel's distance from it, two thirds of the variance of `chroma`.
        """
        luma, chroma = (level.sigma if level else 0.0 for level in (self.luma, self.chroma))
        return chroma if self.white_gaussian else float((luma**2 + 2 / 3 * chroma**2) ** 0.5)

    @property
    def noisy(self) -> bool:
        """Whether there is noise to speak of."""
        return self.sigma >= NO_NOISE

    @property
    def white_gaussian(self) -> bool:
        """Whether the noise of a colour image is like the literature's: independent between pixels and channels, and of
        one deviation. Where fine texture hides that, the answer is no.
        """
        luma, chroma = self.luma, self.chroma
        if luma is None or chroma is None or chroma.sigma < WEAKEST:
            return False
        white = luma.white and chroma.white and not (luma.rises or chroma.rises)
        return white and self.chroma_ratio > ALIKE and 0.9 < 3**0.5 * luma.sigma / chroma.sigma < MOST_TEXTURE

    @property
    def photon_counter(self) -> bool:
        """Whether it has one channel, and noise that is white and rises with brightness."""
        return self.channels == 1 and self.luma is not None and self.luma.white and self.luma.rises

    @property
    def smoothed(self) -> bool:
        """Whether noise is left, but not at the finest scale: denoised, enlarged or demosaicked with smoothing."""
        return self.noisy and self.luma is not None and self.luma.correlation[0] > SMOOTHED


def inspect(pixels: NDArray[Any], values: ValueRange) -> Inspection:
    """Measures an image (H, W) or (H, W, C) of any type. values: which of its values are black and white."""
    layers = pixels.reshape(*pixels.shape[:2], -1)
    finite = layers[np.isfinite(layers)] if layers.dtype.kind == "f" else layers
    equal = layers.shape[2] > 1 and is_gray(layers)
    unit = np.nan_to_num(values.to_unit(_middle(layers)).astype(np.float64))
    luma_plane = unit.mean(2)
    luma = noise_level(luma_plane)
    chroma, ratio = (None, 1.0) if equal or layers.shape[2] < 3 else _chroma(unit)
    sigma = luma.sigma / 255 if luma else 0.0
    height, width, channels = layers.shape
    return Inspection(
        width=width,
        height=height,
        channels=channels,
        dtype=str(layers.dtype),
        low=float(finite.min()) if finite.size else 0.0,
        high=float(finite.max()) if finite.size else 0.0,
        values=values,
        luma=luma,
        chroma=chroma,
        chroma_ratio=ratio,
        rows=_banding(luma_plane, sigma),
        columns=_banding(luma_plane.T, sigma),
        hot=_hot(luma_plane, sigma),
        blockiness=_blockiness(luma_plane),
        equal_channels=equal,
    )


def noise_level(plane: Floats) -> NoiseLevel | None:
    """Of (H, W) in [0, 1]; None where the plane is too small or shows no noise."""
    try:
        found = photon_noise(plane)
    except InputError:
        return None
    return _in_grey_levels(found, plane)


def _in_grey_levels(found: MeasuredNoise, plane: Floats) -> NoiseLevel:
    noise, tones = found.noise, np.percentile(plane, (1, 99))
    here = [tone for tone in TONES if tones[0] <= tone <= tones[1]] or [float(plane.mean())]

    def level(value: Any) -> Any:
        variance = noise.gain * (np.asarray(value) - noise.offset) + noise.read**2
        return 255 * np.sqrt(np.maximum(variance, 0))

    squares = np.square(level(np.percentile(plane, np.arange(1, 100, 2))))
    return NoiseLevel(
        sigma=float(np.sqrt(squares.mean())),
        gain=float(255 * noise.gain),
        read=float(255 * noise.read),
        by_tone={round(tone, 2): float(level(tone)) for tone in here},
        correlation=found.lags,
    )


def _chroma(unit: Floats) -> tuple[NoiseLevel | None, float]:
    """Of red minus green and blue minus green, each divided by the root of 2, on the scale of one channel.

    The stronger of both, and the ratio of the weaker one to it.
    """
    levels = [noise_level((unit[..., channel] - unit[..., 1]) / 2**0.5) for channel in (0, 2)]
    found = sorted((level for level in levels if level is not None), key=lambda level: level.sigma)
    if not found:
        return None, 1.0
    return found[-1], found[0].sigma / found[-1].sigma if len(found) == 2 and found[-1].sigma else 0.0


def _middle(layers: NDArray[Any]) -> NDArray[Any]:
    """The middle of an image that has more than MOST_PIXELS; its first row and column are multiples of 8."""
    height, width = layers.shape[:2]
    share = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    tall, wide = int(height * share), int(width * share)
    top, left = (height - tall) // 16 * 8, (width - wide) // 16 * 8
    return layers[top : top + tall, left : left + wide]


def _banding(plane: Floats, sigma: float) -> float:
    """Deviation, in grey levels, of what whole rows share: by medians, which edges hardly move."""
    if len(plane) < 16:
        return 0.0
    steps = plane - cv2.blur(plane, (1, 5))
    rows = np.median(steps, axis=1)
    expected = sigma**2 * np.pi / 2 / plane.shape[1]  # variance of the median of that many pixels
    spread = 1.4826 * float(np.median(abs(rows - np.median(rows))))
    return 255 * float(max(0.0, spread**2 - expected) ** 0.5)


def _hot(plane: Floats, sigma: float) -> float:
    """Pixels per million that stand alone, HOT deviations beyond all their neighbours."""
    if not sigma or min(plane.shape) < 3:
        return 0.0
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    least = HOT * max(sigma, LEAST_HOT)
    above = plane - cv2.dilate(plane, ring) > least
    below = cv2.erode(plane, ring) - plane > least
    return 1e6 * float((above | below).mean())


def _blockiness(plane: Floats) -> float:
    """Steps at every eighth column and row, over those in between."""
    found = []
    for turned in (plane, plane.T):
        steps = abs(np.diff(turned, axis=1)).mean(0)
        if len(steps) < 24:
            return 1.0
        border = steps[7::8].mean()
        inner = np.mean([steps[k::8].mean() for k in range(7)])
        found.append(border / inner if inner > 0 else 1.0)
    return float(np.mean(found))


def jpeg_quality(tables: Sequence[Sequence[int]]) -> int | None:
    """1 to 100 on libjpeg's scale, from the sum of the table for luma; None where there is none."""
    if not tables:
        return None
    scale = 100 * sum(tables[0]) / STANDARD_LUMA
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return round(min(100.0, max(1.0, quality)))
