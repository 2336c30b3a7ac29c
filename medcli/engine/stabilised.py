"""Denoising where the noise has been made Gaussian: the generalised Anscombe transform around a network.

The transform is that of `medcli.vst`, for noise of photon counters; the network sees white noise of one strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from medcli.data.photon_noise import photon_noise
from medcli.engine.strategies import PixelCoordinates, Plain, Strategy
from medcli.errors import InputError, ModelError
from medcli.images.values import ValueRange
from medcli.vst import Anscombe, PhotonNoise, span

BAND, MOST_PIXELS = 128, 4_000_000  # rows that are measured together, and about how many pixels in all
LIMITS = {"gain": (0.0, 1e12), "offset": (-1e12, 1e12), "read": (0.0, 1e12), "sigma": (1.0, 100.0)}


@dataclass(frozen=True)
class Stabilised:
    """Noise becomes Gaussian with deviation `sigma` grey levels of 255 for the network, then the values go back.

    gain, offset, read: of the noise (`PhotonNoise`), in the file's values; what is NaN is measured on each image. sigma
    is reduced where black to white would not fit into the network's range. inner: how the network is applied.
    Only gray images are transformed; colour, and images whose noise cannot be measured, get `inner` alone. transform,
    remark: of one image, set by `for_image`.
    Raises ModelError for values out of range.
    """

    gain: float = float("nan")
    offset: float = float("nan")
    read: float = float("nan")
    sigma: float = 25.0
    inner: Strategy = field(default_factory=Plain)
    transform: Anscombe | None = None
    remark: str = ""

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not (np.isnan(value) or least <= value <= most):
                raise ModelError(f"A transform with {name}={value:g} makes no sense.", f"Give {least:g} to {most:g}.")
        if self.gain == 0:
            raise ModelError("A gain of 0 makes no sense.", "It is the value that one electron adds.")

    @property
    def passes(self) -> int:
        return self.inner.passes

    def multiple(self, of_network: int) -> int:
        return self.inner.multiple(of_network)

    def context_radius(self, of_network: int) -> int:
        return self.inner.context_radius(of_network)

    def for_image(self, rows: Callable[[int, int], Tensor], shape: tuple[int, ...], values: ValueRange) -> Strategy:
        """The strategy with the transform of this image's noise; the inner one where there is none.

        rows: (first, last + 1) -> (1, C, rows, W) of the image, in units of the range. shape: (H, W, C).
        """
        height, width, channels = shape
        if channels != 1:
            return self.inner
        known = PhotonNoise(self.gain, self.offset, self.read).rescaled(values.low, values.high - values.low)
        if np.isnan([known.gain, known.offset, known.read]).any():
            stride = max(1, height * width // MOST_PIXELS) * BAND
            bands = [rows(top, min(top + BAND, height))[0, 0] for top in range(0, height, stride)]
            try:
                measured = photon_noise(torch.cat(bands).numpy()).noise
            except InputError:
                return self.inner
            known = _completed(known, measured)
        own = known.rescaled(-values.low / (values.high - values.low), 1 / (values.high - values.low))
        return replace(self, transform=Anscombe(known), remark=f"noise: {own.words}")

    def __call__(self, network: nn.Module, batch: Tensor, coordinates: PixelCoordinates | None = None) -> Tensor:
        transform = self.transform
        if transform is None:
            return self.inner(network, batch, coordinates)
        scale = min(self.sigma / 255, 1 / max(span(transform, 1.0), 1e-6))
        restored = self.inner(network, transform.forward(batch.float()) * scale, coordinates)
        return transform.inverse(restored.float() / scale)


def _completed(known: PhotonNoise, measured: PhotonNoise) -> PhotonNoise:
    """What is known, with the rest as measured. An offset alone divides the variance of the darkest part anew."""
    gain = measured.gain if np.isnan(known.gain) else known.gain
    offset = measured.offset if np.isnan(known.offset) else known.offset
    read = max(measured.floor + gain * offset, 0.0) ** 0.5 if np.isnan(known.read) else known.read
    return PhotonNoise(gain, offset, read)
