"""What is measured on one version of an area: noise, what was removed, and the distance from a clean image."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.data.flat_blocks import LEAST_NOISE, blocks, channels, surfaces
from medcli.engine.residual import removed_stats
from medcli.errors import MedcliError
from medcli.images.values import ValueRange
from medcli.metrics import psnr, ssim

Pixels = NDArray[Any]
Floats = NDArray[np.float32]

SIDE = 16  # of a block, in pixels
CLIPPED = 0.05  # share of a block's pixels that may have the darkest or the brightest value of the image
FLAT_SHARE, MOST = 0.1, 8192  # of the blocks, of which no more are looked at


def noise_left(noisy: Floats, version: Floats) -> float | None:
    """Standard deviation in grey levels of `version` where `noisy` is flattest; both (H, W) or (H, W, C) in [0, 1].

    Over the tenth of the blocks in which `noisy` is nearest to a smooth surface. None where it has no noise that can
    be measured.
    """
    squares: list[float] = []
    for plane, other in zip(channels(noisy), channels(version), strict=True):
        found = blocks(plane, SIDE)
        step = max(1, len(found) // MOST)
        found = found[::step]
        deviations = (found - surfaces(found)).std((1, 2))
        clipped = ((found <= plane.min()) | (found >= plane.max())).mean((1, 2))
        usable = np.flatnonzero((deviations > LEAST_NOISE) & (clipped < CLIPPED))
        chosen = usable[np.argsort(deviations[usable], kind="stable")][: int(np.ceil(FLAT_SHARE * len(usable)))]
        same = blocks(other, SIDE)[::step][chosen]
        squares += (same - surfaces(same)).var((1, 2)).tolist()
    return 255 * float(np.mean(squares)) ** 0.5 if squares else None


def measured(noisy: Pixels, version: Pixels, values: ValueRange, clean: Floats | None) -> dict[str, str]:
    """The figures of one version, as text by their titles.

    noisy, version: (H, W) or (H, W, C) of any type, in which `values` are black and white. clean: the same in [0, 1].
    """
    before, after = (np.nan_to_num(values.to_unit(pixels)) for pixels in (noisy, version))
    left = noise_left(before, after)
    figures = {"noise": "not measurable" if left is None else f"{left:.1f}"}
    if version is not noisy:
        removed = removed_stats([(noisy, version)], values)
        figures |= {"removed": f"{removed.sigma:.1f}", "structure in it": f"{100 * removed.structure:.0f} %"}
    if clean is not None:
        figures |= _against(after.clip(0, 1), clean)
    return figures


def _against(version: Floats, clean: Floats) -> dict[str, str]:
    found = {"PSNR dB": f"{psnr(version, clean):.2f}"}
    with suppress(MedcliError):  # scikit-image is not installed, or the area is too small
        found["SSIM"] = f"{ssim(version, clean):.4f}"
    return found
