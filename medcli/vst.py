"""Poisson-Gaussian noise, and the transform that makes it Gaussian of deviation 1.

The generalised Anscombe transform and its exact unbiased inverse: Makitalo and Foi, Optimal inversion of the
generalized Anscombe transformation for Poisson-Gaussian noise (IEEE TIP 2013), equations 2, 6 and 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MOST_TABULATED = 40.0  # electrons: beyond, the closed form is exact to four digits
FLAT = 30.0  # electrons of read noise from which the noise hardly depends on the signal


@dataclass(frozen=True)
class PhotonNoise:
    """z = gain Poisson(x) + N(offset, read^2) for x electrons; all three in units of the image's values.

    gain: per electron, above 0. offset: the value of no light. read: deviation of the read noise.
    """

    gain: float
    offset: float = 0.0
    read: float = 0.0

    @property
    def floor(self) -> float:
        """The variance that the line through all means has at value 0; negative where the offset is large."""
        return self.read**2 - self.gain * self.offset

    def variance(self, mean: Tensor) -> Tensor:
        """Of values with these means, any shape; at least a thousandth of one electron's."""
        return (self.gain * mean + self.floor).clamp(min=1e-3 * self.gain**2)

    @property
    def words(self) -> str:
        """`gain 3.4, offset 99.8, read noise 1.2`, to three digits, the read noise in electrons too."""
        electrons = f" ({self.read / self.gain:.2g} electrons)" if self.read > 0 else ""
        return f"gain {self.gain:.3g} per electron, offset {self.offset:.4g}, read noise {self.read:.3g}{electrons}"

    def rescaled(self, low: float, width: float) -> PhotonNoise:
        """In units in which `low` is 0 and `low + width` is 1."""
        return PhotonNoise(self.gain / width, (self.offset - low) / width, self.read / width)


@dataclass(frozen=True)
class Anscombe:
    """The transform of images with this noise, less its value at `black`."""

    noise: PhotonNoise
    black: float = 0.0

    def forward(self, values: Tensor) -> Tensor:
        """(2 / g) sqrt(max(0, g z + 3/8 g^2 + s^2 - g m)) less that of black; any shape, deviation 1 (equation 2)."""
        root, black = (self.noise.gain * values + self._constant).clamp(min=0).sqrt(), self._root_at_black
        if self._is_flat:  # a difference of roots would lose digits
            return 2 * (values - self.black) / (root + black)
        return 2 / self.noise.gain * (root - black)

    def inverse(self, stabilised: Tensor) -> Tensor:
        """The values whose transforms have these means, any shape: the exact unbiased inverse.

        Up to 40 electrons from the expectation (equation 6), beyond by its closed form (equation 10).
        Departs: means below that of no light, which errors of a denoiser bring, go on along the line there and become
        negative. Zero instead would make dark regions too bright on average.
        """
        gain, black = self.noise.gain, self._root_at_black
        if self._is_flat:
            return self.black + black * stabilised + gain / 4 * (stabilised**2 + 1)
        root = stabilised + 2 * black / gain  # D of the paper
        electrons, means = (each.to(stabilised) for each in self._table)
        far = root.clamp(min=means[-1].item())
        series = 1 / 4 * 1.5**0.5 / far - 11 / 8 / far**2 + 5 / 8 * 1.5**0.5 / far**3
        beyond = far**2 / 4 + series - 1 / 8 - (self.noise.read / gain) ** 2
        right = torch.searchsorted(means, root.contiguous()).clamp(1, len(means) - 1)
        slope = (electrons[right] - electrons[right - 1]) / (means[right] - means[right - 1])
        near = electrons[right - 1] + slope * (root - means[right - 1])
        return self.noise.offset + gain * torch.where(root > means[-1], beyond, near)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """(electrons, mean transforms), both (N,) increasing: the expectation over counts and read noise."""
        spread = self.noise.read / self.noise.gain
        electrons = torch.linspace(0, MOST_TABULATED**0.5, 512, dtype=torch.float64) ** 2
        counts = torch.arange(4 * round(MOST_TABULATED), dtype=torch.float64)
        normal = torch.linspace(-6, 6, 193, dtype=torch.float64)
        weights = torch.exp(-(normal**2) / 2)
        read = (counts[:, None] + spread * normal + 3 / 8 + spread**2).clamp(min=0)
        of_count = 2 * read.sqrt() @ (weights / weights.sum())
        likely = torch.exp(torch.xlogy(counts, electrons[:, None]) - electrons[:, None] - torch.lgamma(counts + 1))
        return electrons, likely @ of_count

    @property
    def _is_flat(self) -> bool:
        return self._root_at_black > FLAT * self.noise.gain

    @property
    def _constant(self) -> float:
        return 3 / 8 * self.noise.gain**2 + self.noise.floor

    @property
    def _root_at_black(self) -> float:
        return math.sqrt(max(self.noise.gain * self.black + self._constant, 0.0))


def span(transform: Anscombe, white: float) -> float:
    """How many deviations of the noise lie between black and white."""
    return float(transform.forward(torch.tensor(white, dtype=torch.float64)))
