"""What a training step of each method costs: forward and backward of its first turn, without images and optimizer.

python docs/benchmarks/steps.py [--side 64] [--batch 8] [--repeats 7] [--config JSON]

Each figure is the least of several turns, in processor seconds of one thread: others who share the machine only add to
it. All methods train the same split network, in bf16.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import click
import torch

from medcli.archs.split import SplitUNet
from medcli.engine.memory import keep_freed_memory
from medcli.errors import RecipeError
from medcli.methods.base import Batch, Method
from medcli.registry import METHODS, resolve

CANDIDATES = {
    "N2C": ("supervised", {}),
    "N2N": ("n2n", {}),
    "N2S": ("n2s", {}),
    "R2R": ("r2r", {}),
    "MeD, 2 views": ("med", {"views": 2}),
    "MeD, 3 views": ("med", {"views": 3}),
    "MeD, 4 views": ("med", {"views": 4}),
}


def step_of(method: Method, batch: int, side: int) -> Callable[[], None]:
    """Forward and backward on random images."""
    views = [torch.rand(batch, 3, side, side).to(memory_format=torch.channels_last) for _ in range(method.needs.views)]
    clean = None if method.needs.clean == "none" else torch.rand_like(views[0])
    images = Batch(views, clean, torch.arange(batch))
    for player in method.players.values():
        player.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            total = torch.stack(list(method.turns[0].terms(images).values())).sum()
        total.backward()

    return step


def spent(step: Callable[[], None]) -> float:
    """Processor seconds."""
    start = time.process_time()
    step()
    return time.process_time() - start


@click.command(help=__doc__)
@click.option("--side", default=64, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Scenes per step.")
@click.option("--repeats", default=7, show_default=True)
@click.option("--config", default="{}", help="Arguments of the network, as JSON.")
def main(side: int, batch: int, repeats: int, config: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    steps = {}
    for title, (name, options) in CANDIDATES.items():
        kind = resolve(METHODS, name, kind="method", error=RecipeError)
        steps[title] = step_of(kind(SplitUNet(**json.loads(config)), **options), batch, side)
    least = dict.fromkeys(steps, float("inf"))
    for turn in range(repeats + 1):  # in turns, so that other load on the machine meets all of them
        for title, step in steps.items():
            seconds = spent(step)
            least[title] = min(seconds, least[title]) if turn else float("inf")
    print(f"processor seconds for {batch} scenes of {side}x{side}, one thread\n")
    print("| method | step | of N2N's |\n|---|---|---|")
    for title, seconds in least.items():
        print(f"| {title} | {seconds:.3f} | {seconds / least['N2N']:.1f} |")


if __name__ == "__main__":
    main()
