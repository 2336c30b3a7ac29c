"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and by the commands that tests start

import numpy as np
import pytest
import torch
from PIL import Image

TINY_UNET = {"channels": 3, "widths": [8, 16], "blocks": [1], "middle": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny networks on many threads mostly wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Five small images of smooth colours with edges, in a folder `clean`."""
    folder = tmp_path / "clean"
    folder.mkdir()
    rows, columns = np.mgrid[0:48, 0:56] / 48
    for number in range(5):
        waves = [np.sin(3 * rows * (number + 1) + c) + (columns > 0.2 * number) for c in range(3)]
        levels = (np.stack(waves, -1) * 60 + 90).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of folders that cannot be read."""
    scan = os.scandir

    def refuse(folder: Any) -> Any:
        if Path(os.fsdecode(folder)).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    return "lost+found"
