"""From a repository on the Hub with another author's checkpoint to a restored image, and again without a network."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from fakehub import FakeHub
from PIL import Image
from torch import nn

from medcli.zoo import catalog

REPO, FILE = "acme/denoisers", "dncnn.pth"
WITH_THIS_CATALOGUE = """
import sys
from pathlib import Path
from medcli.zoo import catalog
listed = Path(sys.argv.pop(1))
catalog.catalog_path = lambda: listed
from medcli.cli import main
main()
"""


def checkpoint() -> bytes:
    """A DnCNN of three layers under KAIR's names, whose noise estimate is a fifth of the image."""
    stack = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    stack.append(nn.Conv2d(3, 3, 3, padding=1))
    for scale, layer in zip((1.0, 1.0, 0.2), [layer for layer in stack if isinstance(layer, nn.Conv2d)], strict=True):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.weight.data *= scale
    file = io.BytesIO()
    torch.save({f"model.{name}": tensor for name, tensor in stack.state_dict().items()}, file)
    return file.getvalue()


def catalogue(folder: Path, data: bytes, revision: str) -> Path:
    row = catalog.as_row(catalog.entries()["nafnet-sidd-32"]) | {
        "id": "foreign", "architecture": "dncnn", "multiple": 1, "receptive_field": 3, "parameters": 252,
        "config": {"channels": 3, "width": 3, "depth": 3, "batch_norm": False}, "half_safe": False,
        "source": {"repo": REPO, "file": FILE, "revision": revision, "kind": "model"}, "naming": "kair",
        "licence": "MIT", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [row]}))
    return path


def test_fetched_converted_used_and_used_again_offline(tmp_path: Path) -> None:
    data = checkpoint()
    image = np.full((20, 24, 3), 200, np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CACHE", "DATA", "CONFIG")}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}

    def med(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITH_THIS_CATALOGUE, listed, *arguments]
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)

    with FakeHub() as hub:
        revision = hub.add_repo(REPO, {FILE: data}, lfs={FILE}).head
        listed = catalogue(tmp_path, data, revision)
        environment["HF_ENDPOINT"] = hub.url
        first = med("denoise", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", "foreign", "--device", "cpu")
        assert first.returncode == 0, first.stderr
        assert "Fetching 'foreign': " in first.stderr
        assert f" kB from {hub.url}/{REPO} into {tmp_path / 'hf' / 'hub'}" in first.stderr
        requested = len(hub.log)
        assert requested > 0
    result = np.asarray(Image.open(tmp_path / "out.png"))
    assert abs(int(result[10, 12, 0]) - 160) <= 1  # 200 less a fifth

    again = med("denoise", tmp_path / "in.png", "-o", tmp_path / "again.png", "--model", "foreign", "--device", "cpu")
    assert again.returncode == 0, again.stderr  # the Hub is gone
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    verified = med("models", "verify", "foreign")
    assert verified.returncode == 0, verified.stderr
    removed = med("models", "rm", "foreign")
    assert removed.returncode == 0, removed.stderr
    lost = med("denoise", tmp_path / "in.png", "-o", tmp_path / "lost.png", "--model", "foreign", "--device", "cpu")
    assert lost.returncode == 1
    assert not (tmp_path / "lost.png").exists()
    assert "Traceback" not in lost.stderr
