"""Metrics: the distance of a restored image from the clean one, and of two sets of images.

Every metric takes (H, W) or (H, W, C) floats in [0, 1], restored and clean, and returns one number over all channels.
`valid`, (H, W) bool, is a mask of the valid pixels: PSNR is over those, SSIM over the windows centred on them; the
other metrics use the whole image, in which invalid pixels must be equal.
PSNR and MS-SSIM need no optional dependency; SSIM uses scikit-image; LPIPS and FID use torchmetrics and weights that
must already be on this machine: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.errors import InputError, MedcliError
from medcli.files.checksum import sha256_of
from medcli.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Metric(Protocol):
    """valid: None where every pixel counts; where one does not, both images must have the same value."""

    def __call__(self, restored: Pixels, clean: Pixels, valid: Mask | None = None, /) -> float: ...


WINDOW = 11  # side of the Gaussian window of SSIM; its standard deviation is 1.5 pixels
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, fine to coarse; table 1 of its paper
ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def psnr(restored: Pixels, clean: Pixels, valid: Mask | None = None, /) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for equal images.

    Raises InputError for shapes that differ or are not an image's, and for values that are not floats in [0, 1].
    """
    restored, clean = _checked(restored, clean)
    squares = (restored - clean) ** 2
    error = float(np.mean(squares if valid is None else squares[valid]))
    return float(-10 * np.log10(error)) if error else float("inf")


def ssim(restored: Pixels, clean: Pixels, valid: Mask | None = None, /) -> float:
    """Structural similarity (Wang et al., 2004): 11x11 Gaussian window, sigma 1.5, population covariance.

    Raises what `psnr` does, InputError for sides under 11 pixels, MedcliError without scikit-image.
    """
    restored, clean = _checked(restored, clean, side=WINDOW)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return _mean_ssim(restored, clean, valid, WINDOW, **options)


def ssim7(restored: Pixels, clean: Pixels, valid: Mask | None = None, /) -> float:
    """Structural similarity with scikit-image's defaults: 7x7 uniform window, sample covariance.

    Raises what `psnr` does, InputError for sides under 7 pixels, MedcliError without scikit-image.
    """
    restored, clean = _checked(restored, clean, side=7)
    return _mean_ssim(restored, clean, valid, 7)


def ms_ssim(restored: Pixels, clean: Pixels, _valid: Mask | None = None, /) -> float:
    """Structural similarity over five scales (Wang et al., 2003, equation 7), channels averaged at each scale.

    Negative contrast-structure terms are set to 0. Raises what `psnr` does, InputError for sides under 176
    pixels, which are smaller than the window at the coarsest scale.
    """
    restored, clean = _checked(restored, clean, side=WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1))
    product = 1.0
    for weight in SCALE_WEIGHTS[:-1]:
        product *= max(0.0, _similarity(restored, clean)[1]) ** weight
        restored, clean = _halved(restored), _halved(clean)
    return float(product * max(0.0, _similarity(restored, clean)[0]) ** SCALE_WEIGHTS[-1])


class Lpips:
    """Learned perceptual distance (Zhang et al., 2018) on AlexNet; 0 for equal images, lower is better.

    Raises MedcliError without torchmetrics or without the weights of AlexNet.
    """

    def __init__(self) -> None:
        weights_at_hand("LPIPS", ALEXNET)
        with needing("LPIPS", "torchmetrics", "perceptual"):
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        self._network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def __call__(self, restored: Pixels, clean: Pixels, _valid: Mask | None = None, /) -> float:
        restored, clean = _checked(restored, clean, side=64)
        return float(self._network(_as_rgb(restored), _as_rgb(clean)))


class Fid:
    """Fréchet distance between the Inception features of two sets of images; lower is better.

    Not reliable for fewer than some thousand images. Raises MedcliError without torchmetrics and torch-fidelity
    or without Inception's weights.
    """

    def __init__(self) -> None:
        weights = weights_at_hand("FID", INCEPTION)
        with needing("FID", "torchmetrics with torch-fidelity", "perceptual"):
            from torchmetrics.image.fid import FrechetInceptionDistance

            self._distance = FrechetInceptionDistance(normalize=True, feature_extractor_weights_path=str(weights))
        self._count = 0

    def add(self, restored: Pixels, clean: Pixels) -> None:
        """One image of each set."""
        restored, clean = _checked(restored, clean)
        self._distance.update(_as_rgb(restored), real=False)
        self._distance.update(_as_rgb(clean), real=True)
        self._count += 1

    def value(self) -> float:
        """The distance; NaN for fewer than two images."""
        if self._count < 2:
            return float("nan")
        return max(0.0, float(self._distance.compute()))  # rounding errors may make it negative


@dataclass(frozen=True)
class Scale:
    """A metric with its title and decimals in tables. make: loads it; raises MedcliError for a missing dependency."""

    title: str
    decimals: int
    make: Callable[[], Metric]


def _ready(metric: Metric) -> Callable[[], Metric]:
    def make() -> Metric:
        _structural_similarity()  # fail now rather than after the first image
        return metric

    return make


PER_IMAGE: Mapping[str, Scale] = {
    "psnr": Scale("PSNR dB", 2, lambda: psnr),
    "ssim": Scale("SSIM 11x11 Gaussian", 4, _ready(ssim)),
    "ssim7": Scale("SSIM 7x7 uniform", 4, _ready(ssim7)),
    "ms-ssim": Scale("MS-SSIM", 4, lambda: ms_ssim),
    "lpips": Scale("LPIPS (lower is better)", 4, Lpips),
}
FID = "fid"


def check_names(names: tuple[str, ...]) -> None:
    """Raises MedcliError for an unknown metric, with the closest known name."""
    known = [*PER_IMAGE, FID]
    for name in names:
        if name not in known:
            raise MedcliError(f"There is no metric called '{name}'.", nearest(name, known))


def weights_at_hand(what: str, file: str) -> Path:
    """A weight file in torch's cache, checked against the start of the SHA-256 in its name.

    Raises MedcliError where it is missing, with the folder to put it in, or where its checksum differs.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise MedcliError(
            f"{what} needs the weights {file}, which are not on this machine.",
            f"medcli downloads nothing here. Put the file into {path.parent}, or leave {what} out of --metrics.",
        )
    if not sha256_of(path).startswith(path.stem.rpartition("-")[2]):
        raise MedcliError(f"{path} is damaged or a different file: its checksum differs.", "Replace it.")
    return path


@contextmanager
def needing(what: str, package: str, extra: str) -> Iterator[None]:
    """Turns a failed import into an error that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise MedcliError(
            f"{what} needs {package}, which is not installed.", f"pip install 'medcli[{extra}]'"
        ) from error


def _checked(restored: Pixels, clean: Pixels, side: int = 1) -> tuple[Doubles, Doubles]:
    if restored.shape != clean.shape:
        raise InputError(
            f"Images of shape {restored.shape} and {clean.shape} cannot be compared.", "Both must have the same shape."
        )
    if clean.ndim not in (2, 3) or min(clean.shape[:2]) < side:
        raise InputError(
            f"Arrays of shape {clean.shape} cannot be measured.",
            f"(height, width) or (height, width, channels) with sides of at least {side} pixels can.",
        )
    for pixels in (restored, clean):
        if pixels.dtype.kind != "f" or not (pixels.min() >= 0 and pixels.max() <= 1):  # written so that NaN fails
            raise InputError("Values to be compared must be floats in [0, 1].", "Scale integers; clip other values.")
    return restored.astype(np.float64), clean.astype(np.float64)


def _structural_similarity() -> Callable[..., Any]:
    with needing("SSIM", "scikit-image", "eval"):
        from skimage.metrics import structural_similarity
    function: Callable[..., Any] = structural_similarity
    return function


def _mean_ssim(restored: Doubles, clean: Doubles, valid: Mask | None, side: int, **options: Any) -> float:
    """Over the windows, `side` pixels wide, that lie in the image, around pixels that count; 1 where there are none."""
    axis = 2 if clean.ndim == 3 else None
    mean, values = _structural_similarity()(restored, clean, data_range=1.0, channel_axis=axis, full=True, **options)
    if valid is None:
        return float(mean)
    inside = (slice(side // 2, -(side // 2)),) * 2
    counted = values[inside][valid[inside]]
    return float(counted.mean()) if counted.size else 1.0


def _similarity(restored: Doubles, clean: Doubles) -> tuple[float, float]:
    """(mean SSIM, mean of its contrast and structure terms) with the Gaussian window, at positions where it fits."""
    mean_r, mean_c = _windowed(restored), _windowed(clean)
    variances = _windowed(restored**2) - mean_r**2 + _windowed(clean**2) - mean_c**2
    covariance = _windowed(restored * clean) - mean_r * mean_c
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    luminance = (2 * mean_r * mean_c + 0.01**2) / (mean_r**2 + mean_c**2 + 0.01**2)
    return float(np.mean(luminance * structure)), float(np.mean(structure))


def _windowed(values: Doubles) -> Doubles:
    radius = WINDOW // 2
    blurred = np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), 1.5), np.float64)
    return blurred[radius:-radius, radius:-radius]


def _halved(pixels: Doubles) -> Doubles:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = (length // 2 for length in pixels.shape[:2])
    cells = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, *pixels.shape[2:])
    return np.asarray(cells.mean((1, 3)))


def _as_rgb(pixels: Doubles) -> Tensor:
    """(1, 3, H, W) float32; gray as three equal channels."""
    import torch

    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.broadcast_to(planes, (*planes.shape[:2], 3)).transpose(2, 0, 1)[None].astype(np.float32))
