"""Two networks on noisy images that neither was trained on: which one restores them better.

Hidden pixels are predicted from pixels that do not share their noise, so a network's squared error there is its error
to the clean image plus the variance of the noise, which is the same for both.

Hidden pixels measure how a network predicts them; the one that is used may see more, or sub-images of another stride.
So a network must also be better as it is used, by Stein's unbiased estimate of its error (MC-SURE; Ramani, Blu and
Unser, IEEE TIP 2008): for the noise as it was measured, with its correlation, and for one of a quarter more variance,
since flat places tend to show too little of it. Where neighbouring pixels share their noise, the channels of a pixel
may share it as well, by demosaicking and compression: the weaker noise is drawn for each channel, the stronger for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from medcli.blind_spot import PixelHiding
from medcli.data.cache import PixelCache
from medcli.data.flat_blocks import Floats
from medcli.data.noise_correlation import correlated, noise_correlation
from medcli.data.noise_level import flat_noise
from medcli.engine.strategies import Strategy
from medcli.errors import InputError
from medcli.train.validation import fitting

AT_ONCE = 8
MARGIN = 0.03  # of the noise's variance; where Stein was misled, a model that had become worse gained 0.012
DOUBT = (1.0, 1.25)  # factors on the variance of the noise; less was measured than there is, as a rule
NUDGE = 0.1  # of the noise, in the estimate of the divergence


@dataclass(frozen=True)
class NoiseStatistics:
    """What the images say before anything is learned. stride, sigma: see `medcli.data.noise_correlation`; 0: no noise.

    tones, levels: (N,) brightness in [0, 1] and the standard deviation of the noise there, same scale. lags: of
    `medcli.data.noise_correlation.Correlation`; None for noise that is independent from pixel to pixel.
    """

    stride: int = 0
    sigma: float = 0.0
    tones: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    lags: Floats | None = None

    @property
    def words(self) -> str:
        """`noise: about 12.0 grey levels; independent from pixel to pixel`"""
        if not self.stride:
            return "noise: not measured"
        apart = "from pixel to pixel" if self.stride == 1 else f"only at a stride of {self.stride} pixels"
        return f"noise: about {self.sigma:.1f} grey levels; independent {apart}"


def noise_statistics(images: PixelCache) -> NoiseStatistics:
    """Measures the noise. Never raises for images: where none is found, the stride is 0."""
    views = [images[place] for place in range(len(images))]
    try:
        correlation, sample = noise_correlation(views), flat_noise(views)
    except InputError:
        return NoiseStatistics()
    edges = sample.edges()
    found = [(t, s / 255) for t, s in zip((edges[1:] + edges[:-1]) / 2, sample.by_tone(edges), strict=True) if s > 0]
    tones, levels = zip(*found, strict=True) if found else ((0.5,), (sample.sigma / 255,))
    stride = correlation.stride()
    lags = correlation.lags if stride > 1 else None
    return NoiseStatistics(stride, correlation.sigma, tuple(map(float, tones)), levels, lags)


@dataclass(frozen=True)
class Comparison:
    """Both models on pixels that neither was trained on.

    before, after: error at hidden pixels, RMS in grey levels (their noise included). gains: in units of the noise's
    variance, more than 0 where the adapted model is better: at hidden pixels, and as it is used, under the noise that
    was measured and under a stronger one. errors: their standard errors, from paired differences of tiles.
    """

    before: float
    after: float
    gains: tuple[float, ...]
    errors: tuple[float, ...]
    guesses: bool = True

    @property
    def better(self) -> bool:
        """Whether each gain is beyond twice its error, and that at hidden pixels also beyond `MARGIN`.

        Without `guesses`, hidden pixels must only not be clearly worse.
        """
        hidden, *used = zip(self.gains, self.errors, strict=True)
        bar = hidden[0] - 2 * hidden[1] > MARGIN if self.guesses else hidden[0] + 2 * hidden[1] > 0
        return bar and all(gain - 2 * error > 0 for gain, error in used)


@dataclass(frozen=True)
class Stein:
    """The parts of Stein's estimate. strategy: how networks are used."""

    strategy: Strategy

    def drawn(self, noisy: Tensor, start: nn.Module, seen: NoiseStatistics, seed: int) -> Sequence[Tensor]:
        """Noise as it was measured, for each doubt or for all, at the brightness that the start model finds.

        Its sides are those that the strategy takes.
        """
        bright = torch.cat([self.restored(start, part) for part in torch.split(noisy, AT_ONCE)]).mean(1, keepdim=True)
        level: NDArray[Any] = np.interp(bright.cpu().numpy(), seen.tones, seen.levels).astype(np.float32)
        normal = torch.randn(len(noisy), noisy.shape[1], *bright.shape[2:], generator=Generator().manual_seed(seed))
        gray = (noisy == noisy[:, :1]).flatten(1).all(1).cpu().view(-1, 1, 1, 1)
        normal = torch.where(gray, normal[:, :1], normal)  # equal channels have equal noise
        kinds = [normal]
        if seen.lags is not None:
            kinds = [correlated(each, seen.lags) for each in (normal, normal[:, :1].expand_as(normal))]
        return [(kind * torch.from_numpy(level)).to(noisy.device) for kind in kinds]

    def restored(self, network: nn.Module, noisy: Tensor) -> Tensor:
        """Squares (N, C, H, H) as the network is used on them; cut to the sides that it takes."""
        return self.strategy(network, fitting(noisy, network, self.strategy)).float()

    def residual(self, network: nn.Module, noisy: Tensor) -> Tensor:
        error = (self.restored(network, noisy) - fitting(noisy, network, self.strategy)).square()
        return error.mean((1, 2, 3))

    def divergence(self, network: nn.Module, noisy: Tensor, noise: Tensor) -> Tensor:
        y = fitting(noisy, network, self.strategy)
        change = self.restored(network, y + NUDGE * noise) - self.restored(network, y - NUDGE * noise)
        return (noise * change).mean((1, 2, 3)) / (2 * NUDGE)


@dataclass(frozen=True)
class HoldoutScore(Stein):
    """strategy: how both networks are used. hiding: what is hidden from both to compare them. guesses: see
    `Adaptation`."""

    hiding: PixelHiding
    guesses: bool = True

    @torch.no_grad()
    def __call__(
        self, start: nn.Module, learned: nn.Module, noisy: Tensor, seen: NoiseStatistics, seed: int = 0
    ) -> Comparison:
        """Both networks on squares (N, C, H, H) float in [0, 1] that neither was trained on."""
        noises = self.drawn(noisy, start, seen, seed)
        maps = [index.expand(len(noisy), -1, -1, -1) for index in self.hiding.maps(len(noisy), noisy.shape[2], seed)]
        parts = [self._measured(network, noisy, noises, maps) for network in (start, learned)]
        hidden, residual, *divergences = (before - after for before, after in zip(*parts, strict=True))
        each_doubt = zip(DOUBT, divergences * len(DOUBT), strict=False)  # one noise stands for both
        stein = [residual + 2 * factor * divergence for factor, divergence in each_doubt]
        gains = [each / (seen.sigma / 255) ** 2 for each in (hidden, *stein)]
        errors = tuple(float(gain.std()) / sqrt(len(gain)) if len(gain) > 1 else float("inf") for gain in gains)
        before, after = (255 * sqrt(float(part[0].mean())) for part in parts)
        return Comparison(before, after, tuple(float(gain.mean()) for gain in gains), errors, self.guesses)

    def _measured(
        self, network: nn.Module, noisy: Tensor, noises: Sequence[Tensor], maps: Sequence[Tensor]
    ) -> list[Tensor]:
        """Of each square (N,): squared error at hidden pixels, squared residual, divergence weighted by each noise."""
        found = []
        for place in range(0, len(noisy), AT_ONCE):
            here = slice(place, place + AT_ONCE)
            error = self.hiding.error(network, noisy[here], [index[here] for index in maps])
            divergences = (self.divergence(network, noisy[here], noise[here]) for noise in noises)
            found.append((error, self.residual(network, noisy[here]), *divergences))
        return [torch.cat(parts) for parts in zip(*found, strict=True)]
