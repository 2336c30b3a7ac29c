"""What learned noise costs: time and memory of drawing it on images of several sizes, and time of a training step.

    python docs/benchmarks/sampling.py [--width 32 | --model run/] [--megapixels 1,4,12] [--tile 512]
                                       [--batch 8] [--patch 64] [--repeats 5] [--device cpu]

Each image is drawn on in a process of its own, tile by tile, as `med synth-pairs --model` does; loading the network
does not count in its seconds. Peak memory is resident, of the whole process, as the kernel saw it: so this runs where
there is wait4, and on a GPU it is the host's. OMP_NUM_THREADS=1 gives what one of several --processes has.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from medcli.archs.ludvae import LUDVAE
from medcli.batch.synth.learned_noise import open_model
from medcli.methods.base import Batch
from medcli.train.hardware import Hardware, choose_hardware
from medcli.train.muon import Muon
from medcli.train.recipe import load
from medcli.train.run import build_method
from medcli.zoo import weights
from medcli.zoo.model import find_model


def draw(model: str, side: int, tile: int, device: str) -> None:
    """Prints the seconds that an image of side x side pixels takes; what a child process does."""
    noise_source = replace(open_model(model, device=device), tile=tile)
    generator = torch.Generator().manual_seed(0)
    channels = find_model(model).card.channels
    noise_source.draw(torch.rand(channels, 64, 64, generator=generator), generator)
    image = torch.rand(channels, side, side, generator=generator)
    start = time.perf_counter()
    noise_source.draw(image, generator)
    print(time.perf_counter() - start)


def measured(model: str, side: int, tile: int, device: str) -> tuple[float, float]:
    """(seconds, peak resident memory in GB)"""
    arguments = [sys.executable, __file__, "--model", model, "--side", str(side), "--tile", str(tile)]
    child = subprocess.Popen([*arguments, "--device", device], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    words = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"drawing on {side}x{side} pixels ended with {child.returncode}")
    return float(words), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def training_step(network: LUDVAE, hardware: Hardware, batch: int, patch: int, repeats: int) -> float:
    """Median of the seconds that a step takes: forward, backward and the optimizer, in the dtype of `med train`."""
    config = {key: value for key, value in network.config.items() if key not in ("gain", "offset")}
    recipe = replace(load("ludvae"), config=config, patch=patch, batch=batch)
    method = build_method(recipe, hardware)
    turn = method.turns[0]
    parameters = list(method.players[turn.player].parameters())
    optimizer = Muon(parameters, lr=recipe.learning_rate)
    images = torch.rand(2, batch, network.channels, patch, patch)
    samples: Batch = hardware.batch(([images[0]], images[1], torch.arange(batch)))
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with hardware.autocast():
            terms = turn.terms(samples)
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip).item()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first one is slow


def tables(options: argparse.Namespace, model: str) -> None:
    network = find_model(model).network()
    assert isinstance(network, LUDVAE)
    print(f"Width {network.width}, tiles of {options.tile} pixels, {torch.get_num_threads()} threads.\n")
    print("| image MP | seconds | seconds per MP | peak RSS, GB |\n|---|---|---|---|")
    for megapixels in map(float, options.megapixels.split(",")):
        side = round((megapixels * 1e6) ** 0.5)
        seconds, memory = measured(model, side, options.tile, options.device)
        print(f"| {side**2 / 1e6:.2f} | {seconds:.2f} | {seconds / (side**2 / 1e6):.2f} | {memory:.3f} |", flush=True)
    hardware = choose_hardware(options.device, workers=0)
    seconds = training_step(network, hardware, options.batch, options.patch, options.repeats)
    print("\n| width | patches a step | dtype | seconds per training step |\n|---|---|---|---|")
    patches, dtype = f"{options.batch} of {options.patch}x{options.patch}", str(hardware.dtype).removeprefix("torch.")
    print(f"| {network.width} | {patches} | {dtype} | {seconds:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--model", help="in place of a fresh network of --width")
    parser.add_argument("--megapixels", default="1,4,12")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        draw(options.model, options.side, options.tile, options.device)
    elif options.model:
        tables(options, options.model)
    else:
        with tempfile.TemporaryDirectory() as room:
            path, network = Path(room) / "fresh.safetensors", LUDVAE(width=options.width)
            weights.save(path, network, weights.Card("fresh", "ludvae", network.config))
            tables(options, str(path))


if __name__ == "__main__":
    main()
