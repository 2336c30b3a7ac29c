"""Runtimes, number formats and instruction sets: megapixels per second of one core, and decibels.

Times are processor time of one thread, the least of several runs, so that other work on the machine hardly matters.

    python docs/benchmarks/runtimes.py speed --model photo
    python docs/benchmarks/runtimes.py quality --model photo --clean ../shared/data/test/cbsd68 --limit 8
    python docs/benchmarks/runtimes.py command --image docs/samples/noisy.png
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # neither is known to ONNX Runtime
ROWS = [("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
SIDE, RUNS = 512, 5


def network_seconds(model: str, runtime: str, precision: str) -> float:
    """Of one pass over SIDE x SIDE pixels."""
    import medcli
    from medcli.engine.memory import keep_freed_memory
    from medcli.engine.runtimes.base import Coordinates

    keep_freed_memory()
    denoiser = medcli.load(model, device="cpu", runtime=runtime, precision=precision)
    tile = np.random.default_rng(0).random((SIDE, SIDE, denoiser.channels), np.float32)
    where = Coordinates(np.arange(SIDE), np.arange(SIDE))
    seconds = []
    for _ in range(1 + RUNS):
        started = time.process_time()
        denoiser.runtime.restore(tile, where, precision, lambda: None)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def in_a_process(function: str, *arguments: object, **environment: str) -> Any:
    """What a function of this file returns in a process of its own, with one thread."""
    code = f"import json, runtimes; print(json.dumps(runtimes.{function}(*{arguments!r})))"
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def speed(model: str) -> None:
    print("| runtime | precision | this CPU, MP/s per core | as AVX2 |\n|---|---|---:|---:|")
    for runtime, precision in ROWS:
        own = SIDE**2 / 1e6 / in_a_process("network_seconds", model, runtime, precision)
        limited = ""
        if precision == "fp32" and runtime != "onnx":
            limited = f"{SIDE**2 / 1e6 / in_a_process('network_seconds', model, runtime, precision, **AVX2):.2f}"
        print(f"| {runtime} | {precision} | {own:.2f} | {limited} |", flush=True)


def quality(model: str, clean: Path, limit: int) -> None:
    """Mean PSNR over images with Gaussian noise of sigma 25, 8 bits."""
    import medcli
    from medcli.images import read
    from medcli.metrics import psnr

    paths = sorted(clean.glob("*.*"))[:limit]
    print(f"{len(paths)} images, sigma 25, rounded to 8 bits\n\n| runtime | precision | PSNR dB | largest step |")
    print("|---|---|---:|---:|")
    references: list[np.ndarray[Any, Any]] = []
    for runtime, precision in ROWS:
        denoiser = medcli.load(model, device="cpu", runtime=runtime, precision=precision)
        figures, results = [], []
        for number, path in enumerate(paths):
            image = read(path).pages[0].pixels
            noise = np.random.default_rng(number).normal(0, 25, image.shape)
            results.append(denoiser(np.rint(image + noise).clip(0, 255).astype(np.uint8)))
            figures.append(psnr(results[-1] / np.float32(255), image / np.float32(255)))
        references = references or results
        pairs = zip(results, references, strict=True)
        step = max(int(np.abs(one.astype(int) - other).max()) for one, other in pairs)
        print(f"| {runtime} | {precision} | {np.mean(figures):.3f} | {step} |", flush=True)


def command(image: Path, model: str) -> None:
    """Processor time and memory of the whole command, on the imitated CPU."""
    import resource

    print("| runtime | processor s | peak MiB |\n|---|---:|---:|")
    target = Path(tempfile.mkdtemp()) / "out.png"
    for runtime in ("auto", "torch", "openvino"):
        arguments = [
            sys.executable,
            "-m",
            "medcli",
            "denoise",
            image,
            "-o",
            target,
            "--force",
            "--quiet",
            "-m",
            model,
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1"} | AVX2
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(RUNS):
            subprocess.run([*arguments, "--device", "cpu", "--runtime", runtime], env=env, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / RUNS
        print(f"| {runtime} | {seconds:.2f} | {after.ru_maxrss >> 10} (largest so far) |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "quality", "command"])
    parser.add_argument("--model", default="photo")
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--image", type=Path, default=Path("docs/samples/noisy.png"))
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.model)
    elif given.what == "quality":
        quality(given.model, given.clean, given.limit)
    else:
        command(given.image, given.model)
