"""What of the removed noise is really taken away: brightness and colour apart, texture returned, tones protected.

Everything acts on the change that a denoiser made, in bands of rows. The change of luma (BT.601), and what is left, the
change of chroma, are scaled on their own. Texture is what the luma of the residual has beyond noise: the residual is
split by an undecimated wavelet transform with B3 splines (Starck, Murtagh and Bijaoui, "Image Processing and Data
Analysis", 1998, section 1.4.4), and each coefficient is kept by the share of its local energy that noise of its tone
does not explain (the empirical Wiener filter). How strong noise is at each tone and scale is measured in the flattest
blocks of the result, where the residual is noise alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medcli.engine.slider_values import Sliders
from medcli.images.values import Floats, ValueRange

Pixels = NDArray[Any]

LUMA = (0.299, 0.587, 0.114)
SPLINE = np.array([1, 4, 6, 4, 1], np.float32) / 16
SCALES = 3  # wavelets of 2, 4 and 8 pixels
WINDOW = 5  # pixels a side over which the energy of a coefficient is averaged at the finest scale; 4 more at each next
HALO = 2 * (2**SCALES - 1) + (WINDOW + 4 * (SCALES - 1)) // 2 + 1
BAND = 256
BLOCK, CROP, CROPS = 16, 128, 48  # noise is measured in blocks of crops of so many pixels a side
TONES, FLAT_SHARE = 8, 0.3
SHADOWS, HIGHLIGHTS = (0.05, 0.35), (0.65, 0.95)  # tones between which protection fades


class NoiseCurve(NamedTuple):
    """tones: (T,) brightness in [0, 1], rising. energy: (T, 1 + SCALES) mean square of noise in luma: all, by scale.

    strength: 0 to 1, the share of the removed energy that is noise.
    """

    tones: Floats
    energy: Floats
    strength: float


def adjusted(
    original: Pixels, restored: Pixels, values: ValueRange, sliders: Sliders, curve: NoiseCurve | None = None
) -> Pixels:
    """The image between `original` and `restored`, (H, W) or (H, W, 3) both, as `sliders` have it; same dtype.

    curve: of `noise_curve`, needed for texture and automatic strength. What the denoiser left as it was stays so.
    """
    if sliders.neutral:
        return restored
    if curve is None and (sliders.texture or sliders.auto):
        curve = noise_curve(original, restored, values)
    result = np.empty_like(original)
    for top in range(0, len(original), BAND):
        above = max(0, top - HALO)
        wide = slice(above, top + BAND + HALO)
        rows, inner = slice(top, top + BAND), slice(top - above, top - above + BAND)
        change = _change(_Band(original[wide], restored[wide], values), sliders, curve)[inner]
        kept = original[rows]
        moved = values.changed(kept, change.reshape(kept.shape))
        result[rows] = np.where(restored[rows] == kept, kept, moved) if sliders.texture else moved
    return result


class _Band:
    """Some rows: change (h, w, C) and tone (h, w) of the result, in units of the range; NaN did not change."""

    def __init__(self, original: Pixels, restored: Pixels, values: ValueRange) -> None:
        after = values.to_unit(restored).reshape(*restored.shape[:2], -1)
        self.change = after - values.to_unit(original).reshape(after.shape)
        self.change[~np.isfinite(self.change)] = 0
        self.tone = _luma(np.nan_to_num(after, nan=0.0, posinf=1.0, neginf=0.0))


def _luma(layers: Floats) -> Floats:
    return layers[..., 0] if layers.shape[2] == 1 else np.asarray(layers @ np.array(LUMA, np.float32))


def _change(band: _Band, sliders: Sliders, curve: NoiseCurve | None) -> Floats:
    luma = _luma(band.change)
    colour = band.change - luma[..., None]
    if sliders.texture and curve is not None:
        luma = luma + sliders.texture * _texture(-luma, band.tone, curve)
    change = sliders.luma * luma[..., None] + sliders.chroma * colour
    change *= curve.strength if sliders.auto and curve is not None else sliders.strength
    if sliders.protect_highlights or sliders.protect_shadows:
        light, dark = _ramp(band.tone, *HIGHLIGHTS), 1 - _ramp(band.tone, *SHADOWS)
        change *= ((1 - sliders.protect_highlights * light) * (1 - sliders.protect_shadows * dark))[..., None]
    return np.asarray(change, np.float32)


def _ramp(tone: Floats, start: float, stop: float) -> Floats:
    """From 0 smoothly to 1."""
    unit = ((tone - start) / (stop - start)).clip(0, 1)
    return np.asarray(unit * unit * (3 - 2 * unit))


def _texture(residual: Floats, tone: Floats, curve: NoiseCurve) -> Floats:
    """(h, w) what of the residual is no noise."""
    kept = np.zeros_like(residual)
    for scale, wavelet in enumerate(_wavelets(residual)):
        side = WINDOW + 4 * scale
        found = np.asarray(cv2.blur(wavelet * wavelet, (side, side), borderType=cv2.BORDER_REFLECT))
        noise = np.interp(tone, curve.tones, curve.energy[:, 1 + scale]).astype(np.float32)
        kept += np.maximum(0, 1 - noise / np.maximum(found, 1e-12)) * wavelet
    return kept


def _wavelets(plane: Floats) -> list[Floats]:
    """SCALES planes whose sum is the plane less what is coarser."""
    found: list[Floats] = []
    coarse: Any = plane
    for scale in range(SCALES):
        kernel = np.zeros(4 * 2**scale + 1, np.float32)
        kernel[:: 2**scale] = SPLINE
        smooth = cv2.sepFilter2D(coarse, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        found.append(coarse - smooth)
        coarse = smooth
    return found


def noise_curve(original: Pixels, restored: Pixels, values: ValueRange) -> NoiseCurve:
    """Measured in up to CROPS crops that lie evenly over the image, in the blocks where the result is flattest."""
    parts = [_blocks(_Band(original[where], restored[where], values)) for where in _crops(*original.shape[:2])]
    tone, fineness, energy = (np.concatenate(group) for group in zip(*parts, strict=True))
    if not len(tone):
        return NoiseCurve(np.zeros(1, np.float32), np.zeros((1, 1 + SCALES), np.float32), 1.0)
    tones, energies = [], []
    for group in np.array_split(np.argsort(tone, kind="stable"), min(TONES, len(tone))):
        flattest = group[np.argsort(fineness[group], kind="stable")[: math.ceil(FLAT_SHARE * len(group))]]
        tones.append(tone[group].mean())
        energies.append(energy[flattest].mean(0))
    rising, levels = np.array(tones, np.float32), np.array(energies, np.float32)
    noise, removed = np.interp(tone, rising, levels[:, 0]).mean(), energy[:, 0].mean()
    return NoiseCurve(rising, levels, float(min(1, noise / removed)) if removed > 0 else 1.0)


def _crops(height: int, width: int) -> list[tuple[slice, slice]]:
    """Squares of CROP pixels over the image, all of a small one."""
    tall, wide = max(1, height // CROP), max(1, width // CROP)
    step = max(1.0, math.sqrt(tall * wide / CROPS))
    rows, columns = max(1, int(tall / step)), max(1, int(wide / step))

    def spans(side: int, count: int) -> list[slice]:
        size = min(CROP, side)
        return [slice(start, start + size) for start in np.linspace(0, side - size, count).astype(int).tolist()]

    return [(row, column) for row in spans(height, rows) for column in spans(width, columns)]


def _blocks(band: _Band) -> tuple[Floats, Floats, Floats]:
    """Of each block: (N,) tone, (N,) energy of the fine structure of the result, (N, 1 + SCALES) of the residual."""
    fine = band.tone - cv2.GaussianBlur(band.tone, (0, 0), 2.0, borderType=cv2.BORDER_REFLECT)
    luma = _luma(band.change)
    planes = [band.tone, fine**2, luma**2, *(wavelet**2 for wavelet in _wavelets(luma))]
    rows, columns = (side // BLOCK * BLOCK for side in luma.shape)
    cut = np.stack(planes)[:, :rows, :columns].reshape(len(planes), rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    means = cut.mean((2, 4)).reshape(len(planes), -1)
    return means[0], means[1], means[2:].T
