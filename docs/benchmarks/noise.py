"""Learned noise against real noise, on scenes that the noise model has never seen.

    python docs/benchmarks/noise.py MODEL --clean DIR --noisy DIR [--sigma 16]

Both noises are known exactly, as the clean images are: what the model makes of a clean image, and the real noisy one,
each in 256 levels, less the clean image. Deviations by deciles of brightness, correlation of neighbouring pixels.
Without --sigma the noise that hides the content (h) is as strong as makes flat places as noisy as the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
import numpy as np

from medcli import images
from medcli.archs.ludvae import LUDVAE
from medcli.data.folders import matched
from medcli.data.noise_level import NoiseSample, flat_noise, known_noise
from medcli.train.noise_plot import draw, fitting_sigma, middle, sampled
from medcli.zoo.model import find_model

SIDE = 256
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("model")
@click.option("--clean", type=FOLDER, required=True)
@click.option("--noisy", type=FOLDER, required=True)
@click.option("--sigma", type=float, help="Of h, in grey levels.")
@click.option("--limit", type=int, default=0, help="Images, spread evenly; 0 for all.")
@click.option("--image", type=click.Path(path_type=Path), help="PNG of histogram, deviations and correlation.")
def main(model: str, clean: Path, noisy: Path, sigma: float | None, limit: int, image: Path | None) -> None:
    names = matched(noisy, clean)
    chosen = np.unique(np.linspace(0, len(names) - 1, limit or len(names)).round().astype(int))
    real = [middle(images.read(noisy / names[i][0]).pages[0].pixels, SIDE) for i in chosen]
    scenes = [middle(images.read(clean / names[i][1]).pages[0].pixels, SIDE) for i in chosen]
    sampler = cast(LUDVAE, find_model(model).network()).eval()
    if sigma is None:
        sigma = fitting_sigma(sampler, flat_noise(real), scenes)
    made = sampled(sampler, scenes, sigma=sigma, side=SIDE)
    samples = known_noise(real, scenes), known_noise(made, scenes)
    click.echo(f"{len(scenes)} images, their middle {SIDE} x {SIDE} pixels; sigma of h {sigma:.1f}\n")
    report(*samples)
    if image:
        draw(*samples, image)


def report(real: NoiseSample, synthetic: NoiseSample) -> None:
    """The deciles as a table, and what is correlated."""
    edges = real.edges()
    click.echo("| brightness | real | synthetic | apart |\n|---|---|---|---|")
    deviations = zip(edges[:-1], edges[1:], real.by_tone(edges), synthetic.by_tone(edges), strict=True)
    for low, high, one, other in deviations:
        click.echo(f"| {255 * low:.0f} to {255 * high:.0f} | {one:.2f} | {other:.2f} | {other / one - 1:+.0%} |")
    click.echo(f"| all | {real.sigma:.2f} | {synthetic.sigma:.2f} | {synthetic.sigma / real.sigma - 1:+.0%} |\n")
    for name, sample in (("real", real), ("synthetic", synthetic)):
        down, along = sample.correlation(2)
        lags = f"lag 1 along rows {along[1]:.3f}, down columns {down[1]:.3f}; lag 2 {along[2]:.3f}, {down[2]:.3f}"
        click.echo(f"- {name}: {lags}; mean {255 * sample.noise.mean():+.2f} grey levels")


if __name__ == "__main__":
    main()
