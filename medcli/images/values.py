"""What numbers mean: the one place that maps pixel values of any type to the network's [0, 1] and back.

8-bit and boolean images span [0, 1] from end to end of their type. So do 16-bit images that fill at least half of
the type, and floats that lie within [-0.5, 1.5] and fill half of [0, 1]. Everything else (counts, heights, thousandths;
signed and 32-bit integers) is mapped by robust ends of its own values: the 0.1st and 99.9th percentile after lone
extreme pixels are cut to their neighbours, or the 1st and 99th as they are where those lie further out. So neither hot
pixels nor "no data" decide. A range is never empty: where these ends are one value, the extremes are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from medcli.errors import MedcliError
from medcli.images.decoded_image import Page

Array = NDArray[Any]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

TYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
FILLED = 0.5  # share of a type's range above which an image keeps it: below, stretching gains 0.1 to 3 dB
SLACK = 0.5  # how far outside [0, 1] noise may carry the robust ends of a float photograph
TAIL, WIDE_TAIL = 0.1, 1.0  # per cent of the pixels beyond each end, without lone extremes and with them
FARTHEST = 1.0  # how far outside [0, 1], in its own width, a value may lie and still be shown to a network
ROWS, SAMPLES = 64, 2_000_000  # pixels are looked at in bands of rows, and about so many are sorted


@dataclass(frozen=True)
class ValueRange:
    """The values that become 0 and 1. Values outside are legal: they become negative, or more than 1."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Raises MedcliError for ends that span nothing."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise MedcliError(f"A range from {self.low:g} to {self.high:g} is not valid.", HINT)

    def __str__(self) -> str:
        """`100:4195`, as `parse_range` reads it, without loss."""
        return ":".join(repr(end).removesuffix(".0") for end in (self.low, self.high))

    @property
    def words(self) -> str:
        """`100 to 4195`, to four digits of its width or more."""
        share = max(abs(self.low), abs(self.high)) / (self.high - self.low)
        digits = min(17, max(6, 4 + math.ceil(math.log10(share))))
        return " to ".join(f"{end:.{digits}g}" for end in (self.low, self.high))

    def to_unit(self, pixels: Array) -> Floats:
        """float32 in which the range is [0, 1]; same shape, nothing is clipped, NaN and infinity stay."""
        unit = pixels.astype(_working(pixels.dtype))
        with np.errstate(over="ignore", invalid="ignore"):
            if self.low:
                unit -= self.low
            if self.high - self.low != 1:
                unit /= self.high - self.low
            return unit.astype(np.float32, copy=False)

    def from_unit(self, unit: Array, dtype: DTypeLike) -> Array:
        """The values of `dtype` again, as `stored` has them."""
        values = unit.astype(_working(np.dtype(dtype)))
        return stored(values * (self.high - self.low) + self.low, dtype)

    def changed(self, pixels: Array, change: Floats, strength: float = 1.0) -> Array:
        """`pixels` + strength * change in their dtype; change: same shape, in units of the range.

        Digits that float32 could not hold survive, for what is added is the change alone.
        """
        work = _working(pixels.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            return stored(pixels.astype(work) + change.astype(work) * (strength * (self.high - self.low)), pixels.dtype)

    def far_outside(self, unit: Floats) -> Mask:
        """(H, W): where any channel of `unit`, (H, W[, C]), lies too far outside to be shown to a network."""
        far = ~((unit >= -FARTHEST) & (unit <= 1 + FARTHEST))
        return np.asarray(far.any(axis=2) if far.ndim == 3 else far)

    def holds(self, dtype: np.dtype[Any]) -> bool:
        """Whether no value of this type lies too far outside."""
        if dtype.kind == "f":
            return False
        own, width = dtype_range(dtype), self.high - self.low
        return own.low >= self.low - FARTHEST * width and own.high <= self.high + FARTHEST * width


RangeChoice = ValueRange | Literal["auto", "dtype"]
HINT = "Give 'auto', 'dtype', or two numbers such as 100:4195."
UNIT = ValueRange(0.0, 1.0)


def parse_range(text: str) -> RangeChoice:
    """`auto`, `dtype` or `LOW:HIGH`. Raises MedcliError for anything else."""
    if text == "auto":
        return "auto"
    if text == "dtype":
        return "dtype"
    low, _, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise MedcliError(f"'{text}' is no range of values.", HINT) from None
    return ValueRange(*ends)


def as_choice(given: str | tuple[float, float] | ValueRange) -> RangeChoice:
    """What Python users may write: `auto`, `dtype`, `LOW:HIGH` or a pair of numbers. Raises MedcliError."""
    if isinstance(given, str):
        return parse_range(given)
    return given if isinstance(given, ValueRange) else ValueRange(*map(float, given))


def dtype_range(dtype: DTypeLike) -> ValueRange:
    """The range of a type: [0, 1] of floats and booleans, from end to end of integers."""
    kind = np.dtype(dtype)
    if kind.kind in "fb":
        return UNIT
    return ValueRange(float(np.iinfo(kind).min), float(np.iinfo(kind).max))


def choose_range(
    choice: RangeChoice, rasters: Sequence[Array], valid: Sequence[Mask | None] | None = None
) -> ValueRange:
    """One range for all of `rasters`, each (H, W) or (H, W, C), of an image; by the first one's type.

    valid: (H, W) of each, where its pixels count; None for all that are finite.
    """
    dtype = rasters[0].dtype
    if isinstance(choice, ValueRange):
        return choice
    own = dtype_range(dtype)
    if choice == "dtype" or dtype.kind == "b" or dtype == np.uint8:
        return own
    ends = _robust_ends(rasters, valid or [None] * len(rasters))
    return own if ends is None else _fitted(ends, own, dtype)


def joint_range(ranges: Sequence[ValueRange], dtypes: Sequence[np.dtype[Any]]) -> list[ValueRange]:
    """Of images of one scene: one range that covers all of theirs, so that they stay comparable.

    Each keeps its own where all are those of their types, or where one has 8 bits: then types alone tell the scale.
    """
    by_type = all(each == dtype_range(dtype) for each, dtype in zip(ranges, dtypes, strict=True))
    if by_type or any(dtype.kind == "b" or dtype.itemsize == 1 for dtype in dtypes):
        return list(ranges)
    return [ValueRange(min(each.low for each in ranges), max(each.high for each in ranges))] * len(ranges)


def missing(pixels: Array, nodata: float | None = None) -> Mask | None:
    """(H, W): where a channel of (H, W[, C]) is not finite, or all are `nodata`; None where the type rules it out."""
    marker = _of_type(nodata, pixels.dtype)
    if pixels.dtype.kind != "f" and marker is None:
        return None
    layers = pixels.reshape(*pixels.shape[:2], -1)
    lost: Mask = np.zeros(pixels.shape[:2], bool)
    if pixels.dtype.kind == "f":
        lost |= ~np.isfinite(layers).all(axis=2)
    if marker is not None:
        lost |= (layers == marker).all(axis=2)
    return lost


def stored(values: Array, dtype: DTypeLike) -> Array:
    """`values` in `dtype`: integers are rounded and stop at the ends of their type; NaN becomes the lower end."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(kind)
    if kind.kind == "b":
        return np.asarray(values > 0.5)
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    whole: Array = np.nan_to_num(np.rint(values).clip(least, most), nan=least).astype(kind)
    return whole


def _working(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The float type that holds every value of `dtype`."""
    return np.float32 if dtype.itemsize <= 2 or dtype.name == "float32" else np.float64


def _of_type(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """The value as the type holds it; None where it cannot be one of the type's values, or is not a number."""
    if nodata is None or math.isnan(nodata) or dtype.kind == "b":
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(nodata)
    fits = nodata == math.floor(nodata) and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max
    return dtype.type(int(nodata)) if fits else None


def _fitted(ends: tuple[float, float], own: ValueRange, dtype: np.dtype[Any]) -> ValueRange:
    """The type's own range where the robust ends fill it, else the ends."""
    low, high = ends
    fills = high - low >= FILLED * (own.high - own.low)
    if dtype == np.uint16 and (fills or high == low):
        return own
    if dtype.kind == "f" and low >= -SLACK and high <= 1 + SLACK and (fills or high == low):
        return own
    if high > low:
        return ValueRange(low, high)
    return UNIT if 0 <= low <= 1 else ValueRange(min(low, 0.0), max(high, 0.0))


def _robust_ends(rasters: Sequence[Array], valid: Sequence[Mask | None]) -> tuple[float, float] | None:
    """None where nothing counts."""
    total = sum(each.size for each in rasters)
    step = max(1, -(-total // SAMPLES))
    pieces = [
        [each[::step] for each in band]
        for raster, known in zip(rasters, valid, strict=True)
        for band in _without_lone_extremes(raster, known)
    ]
    lows, highs, plain = (np.concatenate(side) for side in zip(*pieces, strict=True))
    if not plain.size:
        return None
    low = min(_rank(lows, TAIL), _rank(plain, WIDE_TAIL))
    high = max(_rank(highs, 100 - TAIL), _rank(plain, 100 - WIDE_TAIL))
    return (low, high) if low < high else (float(plain.min()), float(plain.max()))


def _rank(values: Array, percent: float) -> float:
    """A value that exists, towards the middle: of few, an outlier would weigh in otherwise."""
    return float(np.percentile(values, percent, method="higher" if percent < 50 else "lower"))


def _without_lone_extremes(raster: Array, known: Mask | None) -> Iterator[tuple[Array, Array, Array]]:
    """Band by band, the values that count, (N,): no lower than all eight neighbours, no higher, and as they are."""
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    for top in range(0, len(raster), ROWS):
        above = max(0, top - 1)
        band = np.asarray(raster[above : top + ROWS + 1], np.float64)
        counts = np.isfinite(band)
        if known is not None:
            counts &= known[above : top + ROWS + 1].reshape(*band.shape[:2], *[1] * (band.ndim - 2))
        inner = slice(top - above, top - above + ROWS)
        least = cv2.erode(np.where(counts, band, np.inf), ring, borderValue=np.inf).reshape(band.shape)
        most = cv2.dilate(np.where(counts, band, -np.inf), ring, borderValue=-np.inf).reshape(band.shape)
        # A value with no neighbour that counts stands for itself.
        low = np.where(np.isfinite(least), np.maximum(band, least), band)[inner][counts[inner]]
        high = np.where(np.isfinite(most), np.minimum(band, most), band)[inner][counts[inner]]
        yield low, high, band[inner][counts[inner]]


def range_of(choice: RangeChoice, pages: Sequence[Page]) -> ValueRange:
    """One range for all pages of an image; what means nothing, and what lies under alpha 0, has no say."""
    if isinstance(choice, ValueRange):
        return choice
    rasters = [page.pixels for page in pages]
    if choice == "dtype" or all(raster.dtype == np.uint8 for raster in rasters):
        return dtype_range(rasters[0].dtype)
    valid = valid_masks(rasters, [page.nodata for page in pages])
    for number, page in enumerate(pages):
        if page.alpha is not None:
            shown, known = page.alpha != 0, valid[number]
            valid[number] = shown if known is None else shown & known
    return choose_range(choice, rasters, valid)


def valid_masks(rasters: Iterable[Array], nodata: Iterable[float | None]) -> list[Mask | None]:
    """`missing`, turned round, of each raster."""
    lost = [missing(raster, value) for raster, value in zip(rasters, nodata, strict=True)]
    return [None if each is None else ~each for each in lost]
