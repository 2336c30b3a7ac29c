"""Which rows of an image are trained on and which are held out; they do not overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from medcli.data.cache import CachedImage, PixelCache
from medcli.data.crops import Crop
from medcli.seeding import keyed_generator

PERIOD = 5  # one band in so many is held out
MOST_PIXELS = 96 * 64**2  # held out at most


def usable(images: PixelCache, height: int, width: int) -> PixelCache:
    """Those of at least this size; perhaps none."""
    return images.only([i for i, s in enumerate(images.slots) if s.shape[0] >= height and s.shape[1] >= width])


def dealt(images: PixelCache, side: int) -> tuple[PixelCache, PixelCache]:
    """(for training, held out): bands of rows of each image; those held out are `side` rows high."""
    bands = [(place, *band) for place, slot in enumerate(images.slots) for band in _bands(slot, side)]

    def those(held: bool) -> PixelCache:
        chosen = [(place, top, stop) for place, top, stop, is_held in bands if is_held is held]
        slots = [_rows(images.slots[place], top, stop) for place, top, stop in chosen]
        return replace(images, names=[images.names[place] for place, *_ in chosen], slots=slots)

    return those(False), those(True)


def _bands(slot: CachedImage, side: int) -> list[tuple[int, int, bool]]:
    """Top, stop and whether it is held out: `side` rows in the middle of each stretch of about PERIOD times as many."""
    height = slot.shape[0]
    count = max(1, height // (PERIOD * side))
    middles = [height * (2 * number + 1) // (2 * count) for number in range(count)]
    held = [(middle - side // 2, middle - side // 2 + side) for middle in middles]
    edges = [0, *(edge for band in held for edge in band), height]
    return [(top, stop, bool(i % 2)) for i, (top, stop) in enumerate(pairwise(edges))]


def _rows(slot: CachedImage, top: int, stop: int) -> CachedImage:
    _, width, channels = slot.shape
    row = width * channels * np.dtype(slot.dtype).itemsize
    return CachedImage(slot.offset + top * row, (stop - top, width, channels), slot.dtype)


def squares(bands: PixelCache, channels: int, side: int, seed: int) -> Tensor:
    """(N, channels, side, side) float32, side by side from bands of `side` rows: no more than MOST_PIXELS, but one."""
    places = [(band, left) for band, s in enumerate(bands.slots) for left in range(0, s.shape[1] - side + 1, side)]
    most = max(1, MOST_PIXELS // side**2)
    order = torch.randperm(len(places), generator=keyed_generator(seed, "tiles"))[:most].tolist()
    cuts = [Crop(0, places[i][1], side, side, 0).cut(bands[places[i][0]], channels) for i in sorted(order)]
    return torch.stack(cuts)
