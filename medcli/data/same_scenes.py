"""Noisy and clean images of the same scenes, by name and content: where pairs are known, training should use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.data.cache import PixelCache
from medcli.data.crops import as_unit

SIDE = 16  # blocks of an image whose means are compared
ALIKE = 0.95  # least correlation


def same_scenes(noisy: PixelCache, clean: PixelCache) -> list[int]:
    """Places of the clean images that show what a noisy image of the same file name and size shows."""
    places = {Path(name).stem: place for place, name in enumerate(noisy.names)}
    found = []
    for place, name in enumerate(clean.names):
        other = places.get(Path(name).stem)
        if other is not None and _alike(noisy[other], clean[place]):
            found.append(place)
    return found


def _alike(noisy: NDArray[Any], clean: NDArray[Any]) -> bool:
    if noisy.shape[:2] != clean.shape[:2]:
        return False
    means = [cv2.resize(as_unit(each).mean(2), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in (noisy, clean)]
    flat = [each.ravel() - each.mean() for each in means]
    strength = np.linalg.norm(flat[0]) * np.linalg.norm(flat[1])
    return bool(flat[0] @ flat[1] > ALIKE * max(strength, 1e-9))
