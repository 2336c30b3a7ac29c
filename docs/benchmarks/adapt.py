"""Whether `med adapt` keeps its promise: each image by itself, the model before and after, also where it was refused.

    python docs/benchmarks/adapt.py --clean DIR --noisy DIR --model amsnet-real --minutes 1 [--limit N] [--device cuda]

PSNR in dB against the clean image, which training and comparison do not see, in 8 bits. A loss is unnoticed where
the adapted model was accepted and is worse.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import nn

from medcli.batch.pairs import FilePairs, Pair, as_floats, thinned
from medcli.data.folders import matched
from medcli.engine.denoiser import Denoiser
from medcli.engine.memory import keep_freed_memory
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.strategies import parse
from medcli.metrics import psnr
from medcli.train.adapt.run import adapt, adaptation_job, open_images
from medcli.train.hardware import Hardware, choose_hardware
from medcli.zoo.model import find_model
from medcli.zoo.weights import Card


class Row(NamedTuple):
    """One image. after: None where nothing was learned. verdict: accepted, refused or an obstacle."""

    comparison: str
    before: float
    after: float | None
    seconds: float

    @property
    def gain(self) -> float:
        return 0.0 if self.after is None else self.after - self.before


def measured(pair: Pair, path: Path, model: str, minutes: float, hardware: Hardware) -> tuple[Row, str]:
    """The row, and the figures of the comparison."""
    zoo = find_model(model)
    network, card = zoo.network(), zoo.card
    with TemporaryDirectory() as name:
        found = adaptation_job(network, card, open_images([path], Path(name)))
        started = time.perf_counter()
        if found.obstacle:
            return Row(found.obstacle, scored(network, card, pair, hardware), None, 0.0), "-"
        result = adapt(found, folder=Path(name), hardware=hardware, minutes=minutes, report=lambda _: None)
    seconds = time.perf_counter() - started
    before = scored(result.start, card, pair, hardware)
    if result.learned is None or result.comparison is None:
        return Row("nothing learned", before, None, seconds), "-"
    comparison = "accepted" if result.comparison.better else "refused"
    seen = ", ".join(
        f"{g:+.3f} ± {2 * e:.3f}" for g, e in zip(result.comparison.gains, result.comparison.errors, strict=True)
    )
    row = Row(comparison, before, scored(result.learned, card, pair, hardware), seconds)
    return row, f"stride {found.seen.stride}, sigma {found.seen.sigma:.1f}: {seen}"


def scored(network: nn.Module, card: Card, pair: Pair, hardware: Hardware) -> float:
    denoiser = Denoiser(
        TorchRuntime(network, parse(card.strategy), device=str(hardware.device), half_safe=card.half_safe)
    )
    return psnr(as_floats(denoiser(pair.noisy)).clip(0, 1), pair.clean)


def summary(rows: Sequence[Row]) -> str:
    accepted = [row.gain for row in rows if row.comparison == "accepted"]
    if not accepted:
        return f"{len(rows)} images, none accepted."
    helped = sum(gain > 0 for gain in accepted)
    return (
        f"{len(rows)} images, {len(accepted)} accepted with {sum(accepted) / len(accepted):+.2f} dB on average; "
        f"{helped / len(rows):.0%} of all helped; worst unnoticed loss {max(0.0, -min(accepted)):.2f} dB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--noisy", type=Path, required=True)
    parser.add_argument("--model", required=True, help="name or file")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--limit", type=int, help="at most so many images, spread evenly")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    hardware = choose_hardware(options.device, "auto", workers=0)
    names = thinned(matched(options.noisy, options.clean), options.limit)
    pairs = FilePairs(options.noisy, options.clean, names)
    print("| image | verdict | before | adapted | gain | s | comparison |\n|---|---|---|---|---|---|---|")
    rows = []
    for pair, (name, _) in zip(pairs, names, strict=True):
        row, seen = measured(pair, options.noisy / name, options.model, options.minutes, hardware)
        after = "-" if row.after is None else f"{row.after:.2f}"
        figures = f"{row.before:.2f} | {after} | {row.gain:+.2f} | {row.seconds:.0f}"
        print(f"| {pair.name} | {row.comparison} | {figures} | {seen} |", flush=True)
        rows.append(row)
    print(f"\n{summary(rows)}")


if __name__ == "__main__":
    main()
