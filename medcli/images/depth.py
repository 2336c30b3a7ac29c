"""Samples of 9 to 15 bits: 16 bits inside, so that everything else knows two integer depths only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.images.raster import bands

Array = NDArray[Any]


def widened(values: Array, bits: int) -> Array:
    """Integers of `bits` bits from end to end of uint16, or of uint8 where they have up to 8."""
    kind = np.uint8 if bits <= 8 else np.uint16
    if bits in (8, 16):
        return values.astype(kind, copy=False)
    return _scaled(values, 2**bits - 1, int(np.iinfo(kind).max), kind)


def narrowed(values: Array, bits: int) -> Array:
    """uint16 or uint8 as integers of `bits` bits in the same type, rounded; undoes `widened`."""
    full = int(np.iinfo(values.dtype).max)
    return values if full == 2**bits - 1 else _scaled(values, full, 2**bits - 1, values.dtype.type)


def _scaled(values: Array, full: int, to: int, kind: Any) -> Array:
    result = np.empty(values.shape, kind)
    for rows in bands(values):
        result[rows] = (values[rows].astype(np.uint32) * np.uint32(to) + np.uint32(full // 2)) // np.uint32(full)
    return result
