"""Speed against quality: every bundled colour denoiser and the classical ones on the same photographs.

    python docs/benchmarks/speed_quality.py measure DATA      # writes speed_quality.json beside this file
    python docs/benchmarks/speed_quality.py measure DATA nvt  # only these models; the other rows stay
    python docs/benchmarks/speed_quality.py draw              # draws docs/images/speed-quality.svg from it

Five crops of DATA/real/cc15 (512x512, 8 bits), spread evenly. Speed is megapixels per second of CPU time on one thread,
after a warm-up, files not included; so other programs on the machine hardly change it. Models are those of
`models.yaml`, so that a new one is measured by running it again. Needs `medcli[bench]`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
DATA, CHART = HERE / "speed_quality.json", HERE.parent / "images" / "speed-quality.svg"
COUNT = 5
CLASSICAL = {"nlm": "OpenCV non-local means", "wavelet": "wavelet shrinkage", "bm3d": "CBM3D"}
Method = Callable[[Any], Any]


def measure(data: Path, only: Sequence[str]) -> None:
    import torch

    from medcli.zoo.catalog import entries
    from medcli.zoo.description import NOISE_DOMAIN

    torch.set_num_threads(1)
    ids = [e.id for e in entries().values() if e.hub is None and e.channels == 3 and e.domain != NOISE_DOMAIN]
    pairs = images(data / "real" / "cc15")
    if only:
        rows = [each for each in json.loads(DATA.read_text("utf-8"))["rows"] if each["name"] not in only]
        rows += [row(name, pairs, model(name)) for name in ids if name in only]
    else:
        rows = [row("noisy", pairs, None)]
        rows += [row(name, pairs, model(name)) for name in ids]
        rows += [row(title, pairs, baseline(name)) for name, title in CLASSICAL.items()]
    protocol = f"{COUNT} crops of CC, 512x512, 8 bits; MP per second of CPU time, one thread"
    DATA.write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def images(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    from medcli.images import read

    names = sorted(path.name for path in (folder / "noisy").iterdir())
    chosen = [names[i * len(names) // COUNT] for i in range(COUNT)]
    return [tuple(read(folder / kind / name).pages[0].pixels for kind in ("noisy", "clean")) for name in chosen]  # type: ignore[misc]


def model(name: str) -> Method:
    import medcli

    return medcli.load(name, device="cpu", runtime="torch")


def baseline(name: str) -> Method:
    from medcli.engine.classical import classical

    restore = classical(name, None)

    def method(noisy: np.ndarray) -> np.ndarray:
        return (restore((noisy / 255).astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)

    return method


def row(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], method: Method | None) -> dict[str, Any]:
    if method is None:
        return {"name": name, "psnr": round(float(np.mean([psnr(*pair) for pair in pairs])), 2)}
    method(pairs[0][0][:64, :64])
    scores, seconds = [], 0.0
    for noisy, clean in pairs:
        started = time.process_time()
        restored = method(noisy)
        seconds += time.process_time() - started
        scores.append(psnr(restored, clean))
    pixels = sum(noisy.shape[0] * noisy.shape[1] for noisy, _ in pairs)
    found = {"name": name, "psnr": round(float(np.mean(scores)), 2), "speed": float(f"{pixels / 1e6 / seconds:.3g}")}
    print(found, file=sys.stderr)
    return found


def psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((restored.astype(float) - clean) ** 2)))


def fingerprint() -> str:
    """Of the data that a chart shows; it is in the chart, so that a stale one is found."""
    return sha256(DATA.read_bytes()).hexdigest()[:16]


def draw() -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "medcli", "svg.fonttype": "none", "font.size": 11})
    import matplotlib.pyplot as plt

    data = json.loads(DATA.read_text("utf-8"))
    noisy, *rows = data["rows"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    axes.axhline(noisy["psnr"], color="0.5", linestyle=":", linewidth=1)
    axes.annotate("noisy input", (0.01, noisy["psnr"]), xycoords=("axes fraction", "data"), va="top", color="0.4")
    for each in rows:
        classical = each["name"] in CLASSICAL.values()
        axes.plot(each["speed"], each["psnr"], "s" if classical else "o", color="0.45" if classical else "#1663a6")
        left = any(
            1 < other["speed"] / each["speed"] < 20 and abs(other["psnr"] - each["psnr"]) < 0.15 for other in rows
        )
        place = {"xytext": (-7 if left else 7, 0), "ha": "right" if left else "left", "va": "center"}
        axes.annotate(each["name"], (each["speed"], each["psnr"]), textcoords="offset points", **place)
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.1)
    axes.set_xlabel("megapixels per second of CPU time, one thread")
    axes.set_ylabel("PSNR in dB")
    axes.set_title("Photographs with real noise (CC, 5 crops)", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    metadata = {"Date": None, "Description": f"data {fingerprint()}"}
    CHART.parent.mkdir(exist_ok=True)
    figure.savefig(CHART, metadata=metadata, facecolor="white")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"] and len(sys.argv) > 2:
        measure(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:] == ["draw"]:
        draw()
    else:
        sys.exit(__doc__)
