"""Blind-spot models: branches, stride of the sub-images and refinement against each other.

    python docs/benchmarks/masks.py --clean DIR --noisy DIR --model B.safetensors --model P.safetensors \\
        --strategies masks:k=2,pd=2 masks:k=3,pd=2 [--limit N] [--device cuda]

Without --strategies: k of 2, 3 and 4 at a stride of 2, and strides of 1 to 5 with k of 2. Each once as it is and once
refined 8 times (-E). Results in the depth of the noisy file, PSNR and SSIM over all channels; s is per image. What a
strategy does not say (the fill, the seed) is as the model's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from medcli.batch.evaluate.run import EvaluatedMethod, evaluate
from medcli.batch.evaluate.tables import MethodRow, Protocol, Table
from medcli.batch.pairs import FilePairs, thinned
from medcli.data.folders import matched
from medcli.engine.denoiser import Denoiser
from medcli.engine.memory import keep_freed_memory
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.strategies import parse
from medcli.metrics import PER_IMAGE
from medcli.zoo.model import find_model

USUAL = (*(f"masks:k={k},pd=2" for k in (2, 3, 4)), *(f"masks:k=2,pd={pd}" for pd in (1, 3, 4, 5)))


def methods(model: str, strategies: Iterable[str], refine: int, device: str) -> Iterator[EvaluatedMethod]:
    """A row for each strategy, plain and refined."""
    found = find_model(model)
    network, card = found.network(), found.card
    found.require_blind_spot(["--strategies"])
    own = card.strategy.partition(":")[2]
    for notation in strategies:
        settings = notation.partition(":")[2]
        for suffix, rounds in (("", 0), ("-E", refine)):
            whole = "masks:" + ",".join(filter(None, (own, settings, f"refine={rounds}")))
            denoiser = Denoiser(TorchRuntime(network, parse(whole), device=device, half_safe=card.half_safe))
            name = f"{Path(model).stem}{suffix} {notation}"
            yield EvaluatedMethod(f"{name}, {denoiser.passes} passes", denoiser)


def line(row: MethodRow, count: int) -> str:
    figures = [f"{row.mean[name]:.{PER_IMAGE[name].decimals}f}" for name in row.mean]
    seconds = "-" if row.seconds is None else f"{row.seconds / count:.2f}"
    return f"| {' | '.join([row.method, *figures, seconds])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--noisy", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True, help="name or file; may be given again")
    parser.add_argument("--strategies", nargs="+", default=USUAL)
    parser.add_argument("--refine", type=int, default=8, help="rounds of the refined rows")
    parser.add_argument("--limit", type=int, help="at most so many images, spread evenly")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    names = thinned(matched(options.noisy, options.clean), options.limit)
    pairs = FilePairs(options.noisy, options.clean, names)
    rows = [row for name in options.model for row in methods(name, options.strategies, options.refine, options.device)]
    rulers = {name: PER_IMAGE[name].make() for name in ("psnr", "ssim")}
    result = evaluate(pairs, rows, rulers, begin=lambda name: print(name, file=sys.stderr))
    folders = str(options.noisy), str(options.clean)
    protocol = Protocol("", *folders, len(pairs), clip=False, round=True, seed=0, models=f"models on {options.device}")
    print(f"{protocol.sentence()}\n\n| method | {' | '.join(PER_IMAGE[name].title for name in rulers)} | s |")
    print("|---|---:|---:|---:|")
    print("\n".join(line(row, len(pairs)) for row in Table(protocol, result).rows()))


if __name__ == "__main__":
    main()
