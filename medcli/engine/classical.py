"""Classical denoisers to compare with: BM3D, OpenCV's non-local means, scikit-image's wavelet shrinkage.

Each maps (H, W) or (H, W, 3) RGB floats to the same shape and takes the noise's standard deviation, in the image's
own units, where 1 is white.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.errors import MedcliError
from medcli.metrics import needing
from medcli.registry import nearest

Floats = NDArray[np.float32]
Baseline = Callable[[Floats, float], Floats]


def classical(name: str, sigma: float | None) -> Callable[[Floats], Floats]:
    """The denoiser `name` of CLASSICAL for noise of `sigma` grey levels of 255; None: estimated for each image.

    Raises MedcliError for an unknown name and where a package is missing, naming the extra that brings it.
    """
    if name not in CLASSICAL:
        raise MedcliError(f"There is no classical denoiser called '{name}'.", nearest(name, CLASSICAL))
    baseline = CLASSICAL[name]()
    if sigma is not None:
        return lambda noisy: baseline(noisy, sigma / 255)
    estimate = _estimator()
    return lambda noisy: baseline(noisy, estimate(noisy))


def _estimator() -> Callable[[Floats], float]:
    """Robust wavelet estimate of the standard deviation (Donoho and Johnstone), mean over channels; never 0."""
    with needing("Estimating the noise", "scikit-image with PyWavelets", "eval"):
        import pywt  # noqa: F401 - what scikit-image needs, and misses only when called
        from skimage.restoration import estimate_sigma

    def estimate(noisy: Floats) -> float:
        return max(float(estimate_sigma(noisy, average_sigmas=True, channel_axis=_channel_axis(noisy))), 1e-3)

    return estimate


def _bm3d() -> Baseline:
    with needing("BM3D", "bm3d", "bench"):
        import bm3d

    def restore(noisy: Floats, sigma: float) -> Floats:
        function = bm3d.bm3d if noisy.ndim == 2 else bm3d.bm3d_rgb
        return np.asarray(function(noisy.astype(np.float64), sigma), np.float32)

    return restore


def _wavelet() -> Baseline:
    with needing("Wavelet shrinkage", "scikit-image with PyWavelets", "eval"):
        import pywt  # noqa: F401 - what scikit-image needs, and misses only when called
        from skimage.restoration import denoise_wavelet

    def restore(noisy: Floats, sigma: float) -> Floats:
        function = partial(denoise_wavelet, sigma=sigma, rescale_sigma=True, method="BayesShrink", mode="soft")
        restored: Any = function(noisy, convert2ycbcr=noisy.ndim == 3, channel_axis=_channel_axis(noisy))
        return np.asarray(restored, np.float32)

    return restore


def _non_local_means() -> Baseline:
    return _nlm


def _nlm(noisy: Floats, sigma: float) -> Floats:
    """OpenCV's takes 8 bits, so the image is clipped and rounded first. Filter strength sigma, patch 7, window 21."""
    levels = (noisy.clip(0, 1) * 255).round().astype(np.uint8)
    if noisy.ndim == 2:
        restored = cv2.fastNlMeansDenoising(levels, None, sigma * 255, 7, 21)
    else:  # which means BGR where it says colour
        swapped = np.ascontiguousarray(levels[..., ::-1])
        restored = cv2.fastNlMeansDenoisingColored(swapped, None, sigma * 255, sigma * 255, 7, 21)[..., ::-1]
    return np.asarray(np.asarray(restored, np.float32) / 255, np.float32)


def _channel_axis(pixels: Floats) -> int | None:
    return 2 if pixels.ndim == 3 else None


CLASSICAL: Mapping[str, Callable[[], Baseline]] = {"bm3d": _bm3d, "nlm": _non_local_means, "wavelet": _wavelet}
