"""Invisible colour: a guard against what lies under alpha 0.

Editors leave anything under full transparency, often black or a removed background. A network would smear it into the
visible pixels beside it, so it is replaced by colours of the neighbourhood before the network and put back afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.images.filling import BLOCK, block_colours, broadcast
from medcli.images.values import stored

Pixels = NDArray[Any]


def fill_hidden(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels with plausible colour under alpha 0.

    pixels: (H, W) or (H, W, C); alpha: (H, W). Returns `pixels` itself where nothing is hidden, else a copy in which
    each hidden pixel has the mean colour of the visible ones around it; all hidden: unchanged.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    bands = [slice(top, top + BLOCK) for top in range(0, len(pixels), BLOCK)]
    colours = block_colours((pixels[band], ~hidden[band]) for band in bands)
    filled: Pixels = pixels.copy()
    for number, band in enumerate(bands):  # so that no float copy of the whole image is made
        if hidden[band].any():
            row = np.repeat(colours[number], BLOCK, axis=0)[: pixels.shape[1]]
            filled[band] = np.where(broadcast(hidden[band], pixels), stored(row, pixels.dtype), pixels[band])
    return filled


def restore_hidden(restored: Pixels, original: Pixels, alpha: Pixels) -> Pixels:
    """The network's output where something is visible, the original bytes under alpha 0. Shapes as in fill_hidden."""
    hidden = alpha == 0
    return np.where(broadcast(hidden, original), original, restored) if hidden.any() else restored
