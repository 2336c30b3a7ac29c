"""Camera noise: shot and read noise in linear light, and the processing that makes it correlated.

A sensor's noise is white and depends on the signal. By the time it is a JPEG it has been white-balanced, mixed across
channels by the colour matrix, correlated by demosaicking, smoothed by the camera's own denoiser (chroma
more than luma), transformed by the tone curve, rounded and compressed. Only the noise goes through the linear steps, so
the target is the clean image itself and networks do not learn to sharpen.

Sources: shot and read levels and their relation from Brooks et al., Unprocessing Images for Learned Raw Denoising
(CVPR 2019), section 3.1; the order of the stages from the camera model of the NVT thesis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medcli.noise.base import Noise, check_range, uniform

# A typical camera-to-sRGB matrix; rows sum to one, so that gray stays gray.
COLOUR_MATRIX = torch.tensor([[1.70, -0.55, -0.15], [-0.25, 1.60, -0.35], [0.00, -0.60, 1.60]])
LUMA = torch.tensor([0.299, 0.587, 0.114])
BILINEAR = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])


def to_linear(encoded: Tensor) -> Tensor:
    """sRGB-encoded values to linear light; negative values follow the straight segment."""
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_encoded(linear: Tensor) -> Tensor:
    """Linear light to sRGB-encoded values; the inverse of `to_linear`."""
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curved)


def blur(noise: Tensor, radius: float) -> Tensor:
    """(C, H, W) smoothed by a Gaussian of standard deviation `radius` pixels."""
    blurred = cv2.GaussianBlur(noise.permute(1, 2, 0).numpy(), (0, 0), radius, borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(blurred.reshape(*noise.shape[1:], -1)).permute(2, 0, 1)


def demosaic(noise: Tensor, generator: Generator) -> Tensor:
    """(3, H, W) white noise, sampled on a Bayer pattern at a random phase and interpolated bilinearly."""
    _, height, width = noise.shape
    row, column = (int(torch.randint(2, (), generator=generator)) for _ in range(2))
    green = (torch.arange(height)[:, None] + torch.arange(width)[None] + row + column) % 2
    red_rows = ((torch.arange(height) + row) % 2 == 0)[:, None]
    masks = torch.stack([(1 - green) * red_rows, green, (1 - green) * ~red_rows]).float()
    sampled = F.pad((noise * masks)[:, None], (1, 1, 1, 1), mode="reflect")
    weights = F.pad(masks[:, None], (1, 1, 1, 1), mode="reflect")
    return (F.conv2d(sampled, BILINEAR[None, None]) / F.conv2d(weights, BILINEAR[None, None]))[:, 0]


def jpeg(image: Tensor, quality: int, *, halve_chroma: bool) -> Tensor:
    """(3, H, W) in [0, 1] through a JPEG file of the given quality (1 to 100)."""
    levels = (image.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if halve_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, coded = cv2.imencode(".jpg", np.ascontiguousarray(levels), options)  # OpenCV expects BGR
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class Camera(Noise):
    """Draws one camera, one exposure and one file format per image. `Sensor` describes the difference.

    shot: range of the shot-noise gain (variance per unit of raw signal in [0, 1]), drawn log-uniformly.
    jpeg_share: share of images that pass through JPEG; the others are rounded to 8 bits half of the time.
    quality: range of the JPEG quality, 1 to 100. again_share: share of the JPEGs compressed twice, as by messengers
    or editors. blur: range of the radius in pixels of the camera's smoothing of luma and chroma.
    Raises RecipeError for values outside these ranges.
    """

    shot: tuple[float, float] = (3e-5, 2e-2)
    jpeg_share: float = 0.5
    quality: tuple[int, int] = (70, 98)
    again_share: float = 0.0
    blur: tuple[float, float] = (0.4, 1.2)

    def __post_init__(self) -> None:
        check_range("camera: shot", *self.shot, (1e-9, 1.0))
        check_range("camera: jpeg_share", self.jpeg_share, self.jpeg_share, (0.0, 1.0))
        check_range("camera: quality", *self.quality, (1, 100))
        check_range("camera: again_share", self.again_share, self.again_share, (0.0, 1.0))
        check_range("camera: blur", *self.blur, (0.1, 8.0))

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(3, H, W) float in [0, 1] -> same shape; H and W at least 8."""
        linear = to_linear(clean)
        noise = self._develop(self._expose(linear, generator), generator)
        return self._store(to_encoded(linear + noise), generator)

    def _expose(self, linear: Tensor, generator: Generator) -> Tensor:
        """Noise of the exposure in linear sRGB, white or correlated by demosaicking."""
        mix = torch.lerp(torch.eye(3), COLOUR_MATRIX, uniform(0, 1, generator))
        gains = torch.tensor([uniform(1.2, 2.4, generator), 1.0, uniform(1.2, 2.2, generator)])
        raw = torch.einsum("ij,jhw->ihw", torch.linalg.inv(mix), linear).clamp(min=0) / gains[:, None, None]
        shot = math.exp(uniform(math.log(self.shot[0]), math.log(self.shot[1]), generator))
        scatter = 0.26 * torch.randn((), generator=generator).item()
        read = math.exp(2.18 * math.log(shot) + 1.2 + scatter)  # variance
        noise = (shot * raw + read).sqrt() * torch.randn(raw.shape, generator=generator)
        if uniform(0, 1, generator) < 0.7:
            noise = demosaic(noise, generator)
        return torch.einsum("ij,jhw->ihw", mix, noise * gains[:, None, None])

    def _develop(self, noise: Tensor, generator: Generator) -> Tensor:
        """The camera's own smoothing: of luma and chroma, of chroma only, or none."""
        kind = uniform(0, 1, generator)
        if kind < 0.3:  # blurred as by scaling or a lens profile, strength kept
            radius = uniform(*self.blur, generator)
            return blur(noise, radius) * min(2.0, 1 + radius)
        if kind < 0.65:
            luma = (LUMA[:, None, None] * noise).sum(0, keepdim=True)
            chroma = blur(noise - luma, uniform(0.5, 3.0, generator)) * uniform(0.8, 1.6, generator)
            return luma * uniform(0.5, 1.0, generator) + chroma
        return noise

    def _store(self, noisy: Tensor, generator: Generator) -> Tensor:
        if uniform(0, 1, generator) < self.jpeg_share:
            stored = self._jpeg(noisy, generator)
            again = self.again_share > 0 and uniform(0, 1, generator) < self.again_share
            return self._jpeg(stored, generator) if again else stored
        if uniform(0, 1, generator) < 0.5:
            return (noisy * 255).round().clamp(0, 255) / 255
        return noisy

    def _jpeg(self, noisy: Tensor, generator: Generator) -> Tensor:
        quality = int(uniform(*self.quality, generator))
        return jpeg(noisy.flip(0), quality, halve_chroma=uniform(0, 1, generator) < 0.5).flip(0)
