"""Learned noise beside the noise that it was learned from: two `NoiseSample`s in, one image out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from medcli.data.crops import as_unit
from medcli.data.noise_level import NoiseSample, flat_noise
from medcli.train.curves import COLOURS, DPI, LOOK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (12, 4.5)  # inches: 1200 x 450 pixels
LAGS, BINS = 8, 61
HALVINGS = 6
PENS = (("real", COLOURS[0], "o"), ("synthetic", COLOURS[1], "s"))


@runtime_checkable
class NoiseNetwork(Protocol):
    """A network that generates noise. sigma_x, sigma_y: of the noise in which clean and noisy images become alike,
    in grey levels."""

    sigma_x: float
    sigma_y: float

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def sample(self, clean: Tensor, normal: Callable[[int, int], Tensor], *, sigma: float) -> Tensor:
        """Clean images (B, C, H, W) float in [0, 1] -> noisy ones, same shape, from the normal numbers alone."""
        ...


def plot_noise(sampler: NoiseNetwork, noisy: Sequence[NDArray[Any]], clean: Sequence[NDArray[Any]], out: Path) -> None:
    """Draws the flat noise of real images beside what the sampler makes of clean ones at its sigma_y.

    noisy, clean: (H, W, C) of different scenes. Raises InputError where either have no flat place, OutputError where
    `out` cannot be written.
    """
    made = sampled(sampler, clean, sigma=sampler.sigma_y)
    draw(flat_noise(noisy), flat_noise(made), out)


def draw(real: NoiseSample, synthetic: NoiseSample, out: Path) -> None:
    """Histogram, deviation against brightness and correlation of both, 1200 x 450 pixels, as PNG.

    Raises OutputError where `out` cannot be written.
    """
    import matplotlib

    from medcli.files.atomic import atomic_write

    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.rcParams.update(LOOK)
        figure = _figure(real, synthetic)
        with atomic_write(out) as file:
            figure.savefig(file, format="png")


def sampled(
    sampler: NoiseNetwork, clean: Iterable[NDArray[Any]], *, sigma: float, seed: int = 0, side: int = 256
) -> list[NDArray[np.float32]]:
    """The middles of clean images as the sampler makes them noisy, in the 256 levels of a file.

    clean: (H, W, C) with the sampler's channels, any depth. sigma: of h, in grey levels. side: of the middles, pixels.
    `flat_noise` measures the noise of the result as that of real images has to be measured.
    """
    generator = Generator().manual_seed(seed)
    return [_sampled(sampler, middle(as_unit(each), side), sigma, generator) for each in clean]


def fitting_sigma(sampler: NoiseNetwork, real: NoiseSample, clean: Sequence[NDArray[Any]], *, side: int = 128) -> float:
    """The sigma of h, up to twice sigma_x, at which flat noise is as strong as the real one.

    By halving: more sigma is more noise. Raises InputError where the clean images have no flat place.
    """
    low, high = 0.0, 2 * sampler.sigma_x
    for _ in range(HALVINGS):
        sigma = (low + high) / 2
        weak = flat_noise(sampled(sampler, clean, sigma=sigma, side=side)).sigma < real.sigma
        low, high = (sigma, high) if weak else (low, sigma)
    return (low + high) / 2


@torch.inference_mode()
def _sampled(
    sampler: NoiseNetwork, clean: NDArray[np.float32], sigma: float, generator: Generator
) -> NDArray[np.float32]:
    """(H, W, C) -> the same, noisy, as a file of 8 bits would hold it."""
    device = next(sampler.parameters()).device
    planes = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].to(device)

    def normal(level: int, channels: int) -> Tensor:
        return torch.randn(1, channels, *planes.shape[2:], generator=generator).to(device)

    noisy = sampler.sample(planes, normal, sigma=sigma)[0].permute(1, 2, 0)
    stored: NDArray[np.float32] = noisy.clamp(0, 1).mul(255).round().div(255).float().cpu().numpy()
    return stored


def middle(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """At most `side` x `side` pixels of (H, W) or (H, W, C)."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _figure(real: NoiseSample, synthetic: NoiseSample) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    levels = f"real {real.sigma:.2f}, synthetic {synthetic.sigma:.2f} grey levels"
    figure.suptitle(f"noise in flat places: {levels}", x=0.01, ha="left")
    panels = figure.subplots(1, 3)
    for panel, show in zip(panels, (_histogram, _by_tone, _correlation), strict=True):
        show(panel, (real, synthetic))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="upper right", ncols=len(PENS))
    return figure


def _histogram(axes: Axes, samples: Sequence[NoiseSample]) -> None:
    """Shares on a logarithmic scale, so that tails are seen."""
    reach = 255 * max(float(np.quantile(np.abs(each.noise), 0.9995)) for each in samples)
    edges = np.linspace(-reach, reach, BINS)
    for sample, (name, colour, _) in zip(samples, PENS, strict=True):
        shares, _ = np.histogram(255 * sample.noise, edges, density=True)
        axes.stairs(shares, edges, color=colour, linewidth=1.8, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("noise, grey levels")
    axes.set_ylabel("density")


def _by_tone(axes: Axes, samples: Sequence[NoiseSample]) -> None:
    """Over the brightness deciles of the real images."""
    edges = samples[0].edges()
    middles = 255 * (edges[1:] + edges[:-1]) / 2
    for sample, (name, colour, marker) in zip(samples, PENS, strict=True):
        axes.plot(middles, sample.by_tone(edges), color=colour, marker=marker, linewidth=1.8, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("brightness, grey levels")
    axes.set_ylabel("standard deviation, grey levels")


def _correlation(axes: Axes, samples: Sequence[NoiseSample]) -> None:
    for sample, (name, colour, marker) in zip(samples, PENS, strict=True):
        down, along = sample.correlation(LAGS)
        axes.plot(along, color=colour, marker=marker, linewidth=1.8, label=name)
        axes.plot(down, "--", color=colour, marker=marker, linewidth=1.2, markersize=4)
    axes.set_xlabel("distance, pixels (dashed: down columns)")
    axes.set_ylabel("correlation")
