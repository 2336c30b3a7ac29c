"""What the training loop costs beside the network: memory against the number of images, and time spent waiting.

    python docs/benchmarks/training.py            # 10 and 10,000 images of 128x128 made here, 300 steps each

Memory is the peak of the process that trains and of its worker together, of resident pages (RSS) and of those that
belong to no file (anonymous), read from /proc: so this runs on Linux.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

WORK = """
import sys
from pathlib import Path
from medcli.train.loop import Limits
from medcli.train.recipe import Recipe
from medcli.train.run import Options, train
data, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
config = {"channels": 3, "widths": [16, 32, 48], "blocks": [1, 1], "middle": 1}
recipe = Recipe(id="x", title="x", steps=steps, noises={"noise": 1}, config=config, patch=96, batch=16)
options = Options(out, [data], device="cpu", workers=1, cache=out.parent / "cache", limits=Limits(report_every=50))
train(recipe, options, print, print)
"""


def make(folder: Path, count: int) -> None:
    """Images of smooth noise, all different."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.png", compress_level=1)


def resident(pid: int) -> tuple[int, int]:
    """(RSS, anonymous part of it) in KiB of a process and its children; 0 once it is gone."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    own = (int(lines["VmRSS"].split()[0]), int(lines["RssAnon"].split()[0])) if "VmRSS" in lines else (0, 0)
    parts = [own, *(resident(int(child)) for child in children)]
    return sum(rss for rss, _ in parts), sum(anonymous for _, anonymous in parts)


def trained(folder: Path, room: Path, steps: int) -> dict[str, float]:
    """Peaks in MiB and the loader's share of the time, from a run in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder), str(room / "run"), str(steps)], stdout=subprocess.DEVNULL
    )
    peaks = [0, 0]

    def watch() -> None:
        while process.poll() is None:
            if (room / "run" / "log.jsonl").exists():  # decoding is over
                peaks[:] = map(max, peaks, resident(process.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    watcher.join()
    log = [json.loads(line) for line in (room / "run" / "log.jsonl").read_text().splitlines()]
    waits = [line["loader_wait"] for line in log if "loader_wait" in line][1:]
    return {"rss": peaks[0] / 1024, "anonymous": peaks[1] / 1024, "wait": sum(waits) / len(waits)}


@click.command()
@click.option("--counts", default="10,10000", show_default=True, help="Numbers of images.")
@click.option("--steps", default=300, show_default=True)
def main(counts: str, steps: int) -> None:
    """Prints a row for each number of images."""
    print("| images | peak RSS, MiB | of it anonymous, MiB | loader wait |\n|---|---|---|---|")
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            room = Path(name)
            make(room / "images", count)
            row = trained(room / "images", room, steps)
            print(f"| {count:,} | {row['rss']:.0f} | {row['anonymous']:.0f} | {row['wait']:.1%} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    main()
