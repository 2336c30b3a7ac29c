"""How well a run of MeD tells scene and noise apart, on two noisy views of images that it has not seen.

python docs/benchmarks/disentangled.py RUN CLEAN [--sigma 25] [--side 256] [--limit N]

RUN is the folder of `med train --method med`; its last checkpoint has the noise path too, which is not in the model.
CLEAN holds clean images, of which the middle is taken. Live weights are used throughout: of the noise path there are
no averaged ones. PSNR in dB, in float, neither clipped nor rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import click
import torch
from torch import Generator, Tensor

from medcli.batch.pairs import as_floats, thinned
from medcli.data.folders import images_in
from medcli.images import read
from medcli.methods.med import Latent, MeD, choices, mix
from medcli.noise.gaussian import Gaussian
from medcli.noise.views import views
from medcli.train import checkpoint
from medcli.train.hardware import choose_hardware
from medcli.train.recipe import load
from medcli.train.run import build_method


def trained(run: Path) -> MeD:
    method = build_method(load(str(run / "recipe.yaml")), choose_hardware("cpu"))
    if not isinstance(method, MeD):
        raise click.UsageError(f"{run} is no run of MeD.")
    saved = checkpoint.saved(run / "checkpoints")
    if not saved:
        raise click.UsageError(f"{run} has no checkpoint.")
    checkpoint.load(saved[-1], dict(method.players), {})
    return method


def middle(path: Path, side: int) -> Tensor:
    """(1, 3, side, side), float32 in [0, 1]."""
    pixels = as_floats(read(path).pages[0].pixels)
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1)[None].float()


def psnr(image: Tensor, clean: Tensor) -> float:
    return -10 * (image - clean).square().mean().log10().item()


def apart(one: Latent, other: Latent) -> float:
    """Distance of two latents over the length of the first."""
    first, second = (torch.cat([level.flatten() for level in latent]) for latent in (one, other))
    return ((first - second).norm() / first.norm()).item()


@torch.no_grad()
def look(method: MeD, clean: Tensor, sigma: float, seed: int) -> Mapping[str, float]:
    generator = Generator().manual_seed(seed)
    one, other = (view[None] for view in views(Gaussian(sigma, sigma), clean[0], generator))
    scenes, noises = ([half.encode(view) for view in (one, other)] for half in (method.scene, method.noise_network))
    mixed = tuple(mix(level, choices(level[0], 2, [generator])) for level in zip(*scenes, strict=True))
    crossed = method.cross(scenes[0], noises[1])
    found, true = method.noise_network.decode(noises[0]), one - clean
    return {
        "scene of view 1 and noise of view 2 give view 2, not 1 (share)": float(
            (crossed - other).abs().mean() < (crossed - one).abs().mean()
        ),
        "scene latents apart": apart(*scenes),
        "noise latents apart": apart(*noises),
        "scene of view 1": psnr(method.scene.decode(scenes[0]), clean),
        "scene of view 2": psnr(method.scene.decode(scenes[1]), clean),
        "scene of the mixture": psnr(method.scene.decode(mixed), clean),
        "view 1 less its noise": psnr(one - found, clean),
        "correlation of the noise with the true one": torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[
            0, 1
        ].item(),
    }


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("clean", type=click.Path(path_type=Path, exists=True))
@click.option("--sigma", default=25.0, show_default=True)
@click.option("--side", default=256, show_default=True)
@click.option("--limit", type=int, help="Images, spread evenly.")
def main(run: Path, clean: Path, sigma: float, side: int, limit: int | None) -> None:
    method = trained(run)
    images = thinned(images_in(clean), limit)
    rows = [look(method, middle(clean / name, side), sigma, seed) for seed, name in enumerate(images)]
    print(f"| {len(rows)} images, sigma {sigma:g} | mean |\n|---|---|")
    for name in rows[0]:
        print(f"| {name} | {fmean(row[name] for row in rows):.3f} |")


if __name__ == "__main__":
    main()
