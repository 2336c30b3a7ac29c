"""What the parts of NVT bring, and what Self2Self gains from its start.

python docs/benchmarks/nvt.py parts DATA/train/photos --test DATA/test/cbsd68 [--steps 300] [--width 24] [--seeds 2]
python docs/benchmarks/nvt.py real DATA/real/polyu [--seconds 60] [--limit 3]
python docs/benchmarks/nvt.py sharpening DATA/test/cbsd68 [--limit 10]
python docs/benchmarks/nvt.py start DATA/test/cbsd68 [--crop 96] [--steps 200,400,800] [--passes 20]
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

import medcli
from medcli.archs.self2self import Self2SelfNetwork
from medcli.engine.bernoulli import Bernoulli
from medcli.engine.sharpen import sharpened
from medcli.engine.strategies import Plain, Strategy
from medcli.engine.tiling import Floats
from medcli.images import read
from medcli.methods.base import Batch
from medcli.methods.n2s import Noise2Self
from medcli.methods.self2self import Self2Self
from medcli.metrics import ssim
from medcli.train.muon import Muon
from medcli.train.recipe import Recipe
from medcli.train.run import TrainOptions, train
from medcli.train.validation import psnr
from medcli.zoo import weights
from medcli.zoo.model import find_model

NAMES = ("0000", "0018", "0020", "0027", "0028")  # the images of Table 5
PARTS: dict[str, dict[str, object]] = {
    "none": {"nrl": False, "mixup": 0.0},
    "MixUp": {"nrl": False, "mixup": 0.5},
    "pyramid": {"nrl": False, "mixup": 0.0, "pyramid": True},
    "NRL": {"mixup": 0.0, "mutual": 0.0},
    "NRL, mutual information": {"mixup": 0.0},
}


def unit(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(read(path).pages[0].pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def noisy(clean: Tensor, sigma: float, seed: int) -> Tensor:
    return clean + sigma / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def score(network: nn.Module, images: list[Tensor], sigma: float) -> float:
    """PSNR in dB over images that are cut to multiples of 32, noise neither clipped nor rounded."""
    cut = [image[..., : image.shape[2] // 32 * 32, : image.shape[3] // 32 * 32] for image in images]
    with torch.autocast("cpu", torch.bfloat16):
        restored = [network(noisy(image, sigma, place)).clamp(0, 1) for place, image in enumerate(cut)]
    return torch.cat([psnr(*pair) for pair in zip(restored, cut, strict=True)]).mean().item()


@click.group(help=__doc__)
def main() -> None:
    torch.set_num_threads(1)


@main.command()
@click.argument("data", type=Path)
@click.option("--test", type=Path, required=True)
@click.option("--steps", default=300, show_default=True)
@click.option("--width", default=24, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--limit", default=12, show_default=True, help="Test images.")
def parts(data: Path, test: Path, steps: int, width: int, seeds: int, limit: int) -> None:
    files = sorted(test.iterdir())
    images = [unit(path) for path in files[:: max(1, len(files) // limit)][:limit]]
    noises = {"gaussian:0-75": 0.7, "sensor:mild": 0.3}
    for title, options in PARTS.items():
        for seed in range(seeds):
            recipe = Recipe(
                id="x", title="", steps=steps, method="nvt", options=options, architecture="self2self", noises=noises,
                config={"channels": 3, "width": width}, patch=64, batch=4, learning_rate=0.02, ema=0.98, seed=seed,
                warmup=50,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                run = TrainOptions(Path(folder) / "run", [data], precision="bf16", workers=0, device="cpu")
                started = time.process_time()
                path = train(recipe, run, lambda _: None, lambda _: None)
                seconds = time.process_time() - started
                network, _ = weights.load_network(path)
            scores = [f"{score(network.eval(), images, sigma):.2f}" for sigma in (25, 50, 75)]
            print(f"| {title} | {seed} | {' | '.join(scores)} | {seconds:.0f} |", flush=True)


@main.command()
@click.argument("data", type=Path)
@click.option("--crop", default=96, show_default=True, help="Side of the middle of each image that is used.")
@click.option("--steps", default="200,400,800", show_default=True)
@click.option("--passes", default=20, show_default=True)
@click.option("--dropout", default=0.3, show_default=True)
@click.option("--images", default=5, show_default=True)
@click.option("--sigma", default=50.0, show_default=True)
@click.option("--model", default="nvt", show_default=True)
@click.option("--only", default="", help="random, or the model's name.  [default: both]")
@click.option("--optimizer", type=click.Choice(["adam", "muon"]), default="adam", show_default=True)
def start(
    data: Path,
    crop: int,
    steps: str,
    passes: int,
    dropout: float,
    images: int,
    sigma: float,
    model: str,
    only: str,
    optimizer: str,
) -> None:
    stops = [int(each) for each in steps.split(",")]
    starts = [only] if only else ["random", model]
    for place, name in enumerate(NAMES[:images]):
        (path,) = data.glob(f"{name}.*") if any(data.glob(f"{name}.*")) else [sorted(data.iterdir())[int(name)]]
        clean = unit(path)
        top, left = ((side - crop) // 2 for side in clean.shape[2:])
        clean = clean[..., top : top + crop, left : left + crop]
        image = noisy(clean, sigma, place)
        for title in starts:
            torch.manual_seed(place)
            network: nn.Module = Self2SelfNetwork() if title == "random" else find_model(title).network()
            cells = refined(network, image, clean, stops, Bernoulli(passes, dropout=dropout), optimizer)
            print(f"| {name} | {title} | {cells} |", flush=True)


@main.command()
@click.argument("data", type=Path)
@click.option("--model", default="nvt", show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Of one thread, for each image and method.")
@click.option("--limit", default=3, show_default=True)
@click.option("--crop", default=256, show_default=True)
def real(data: Path, model: str, seconds: float, limit: int, crop: int) -> None:
    paths = sorted((data / "noisy").iterdir())
    for path in paths[:: max(1, len(paths) // limit)][:limit]:
        (other,) = (data / "clean").glob(f"{path.stem}.*")
        pair = [unit(each) for each in (path, other)]
        top, left = ((side - crop) // 2 for side in pair[0].shape[2:])
        image, clean = (each[..., top : top + crop, left : left + crop] for each in pair)
        start = find_model(model).network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        cells = [f"{psnr(image, clean).item():.2f}", f"{seen(start, Plain(), image, clean):.2f}"]
        for method in (Self2Self(copy.deepcopy(start), joint=True, dropout=0.0), Noise2Self(copy.deepcopy(start))):
            steps = trained(method, image, seconds)
            strategy = Bernoulli(8, dropout=0.0, joint=1) if isinstance(method, Self2Self) else Plain()
            cells.append(f"{seen(method.model, strategy, image, clean):.2f} ({steps} steps)")
        print(f"| {path.stem} | {' | '.join(cells)} |", flush=True)


def trained(method: Self2Self | Noise2Self, image: Tensor, seconds: float) -> int:
    """The steps that it made: Adam 1e-4, four patches of 96x96 each."""
    moving = torch.optim.Adam(method.model.parameters(), lr=1e-4)
    generator, started, step = torch.Generator().manual_seed(0), time.process_time(), 0
    while time.process_time() - started < seconds:
        places = torch.randint(image.shape[2] - 95, (4, 2), generator=generator).tolist()
        patches = torch.cat([image[..., top : top + 96, left : left + 96] for top, left in places])
        batch = patches.rot90(step % 4, (2, 3)).contiguous(memory_format=torch.channels_last)
        moving.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            (loss,) = method.terms(Batch([batch], None, torch.arange(4) + 4 * step)).values()
        loss.backward()
        moving.step()
        step += 1
    return step


@torch.inference_mode()
def seen(network: nn.Module, strategy: Strategy, image: Tensor, clean: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        restored = strategy(network.eval(), image)
    return psnr(restored.clamp(0, 1), clean).item()


@main.command()
@click.argument("data", type=Path)
@click.option("--model", "models", multiple=True, default=("photo", "nvt"), show_default=True)
@click.option("--sigma", "sigmas", multiple=True, default=(25.0, 50.0), show_default=True)
@click.option("--limit", default=10, show_default=True)
def sharpening(data: Path, models: tuple[str, ...], sigmas: tuple[float, ...], limit: int) -> None:
    files = sorted(data.iterdir())
    images = [unit(path) for path in files[:: max(1, len(files) // limit)][:limit]]
    for model in models:
        denoiser = medcli.load(model, device="cpu", precision="bf16", range="dtype")
        for sigma in sigmas:
            pairs = []
            for place, clean in enumerate(images):
                restored = denoiser(noisy(clean, sigma, place)[0].permute(1, 2, 0).numpy())
                pairs.append((restored, clean[0].permute(1, 2, 0).numpy()))
            for amount in (0.0, 0.1, 0.2, 0.3, 0.5):
                for by_value in (True, False):
                    cells = np.mean([sharp_scores(*pair, amount, by_value) for pair in pairs], 0)
                    words = f"{cells[0]:.2f} | {cells[1]:.4f} | {cells[2]:.3f}"
                    print(
                        f"| {model} | {sigma:g} | {amount} | {'value' if by_value else 'rgb'} | {words} |", flush=True
                    )


def sharp_scores(restored: Floats, clean: Floats, amount: float, by_value: bool) -> tuple[float, float, float]:
    """PSNR in dB, SSIM, and the mean gradient relative to that of the clean image."""
    bands = sharpened([(0, restored)], len(restored), amount, by_value=by_value)
    result = np.concatenate([band for _, band in bands]).clip(0, 1)
    gradients = [np.abs(np.diff(image, axis=0)).mean() for image in (result, clean)]

    return (
        float(10 * np.log10(1 / np.square(result - clean).mean())),
        ssim(result, clean),
        float(gradients[0] / gradients[1]),
    )


def refined(
    network: nn.Module, image: Tensor, clean: Tensor, stops: list[int], strategy: Bernoulli, optimizer: str
) -> str:
    """PSNR before the first step and at the stops, and the processor seconds to each."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method = Self2Self(network, dropout=strategy.dropout)
    build, rate = (torch.optim.Adam, 1e-4) if optimizer == "adam" else (Muon, 2e-3)
    moving = build(network.parameters(), lr=rate)
    cells, spent = [f"{predicted(network, image, clean, strategy):.2f}"], 0.0
    for step in range(1, max(stops) + 1):
        started = time.process_time()
        turned = image.rot90(step % 4, (2, 3))
        moving.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            (loss,) = method.terms(Batch([turned], None, torch.tensor([step]))).values()
        loss.backward()
        moving.step()
        spent += time.process_time() - started
        if step in stops:
            cells.append(f"{predicted(network, image, clean, strategy):.2f} ({spent:.0f} s)")
    return " | ".join(cells)


@torch.inference_mode()
def predicted(network: nn.Module, image: Tensor, clean: Tensor, strategy: Bernoulli) -> float:
    found = seen(network, strategy, image, clean)
    network.train()
    return found


if __name__ == "__main__":
    main()
