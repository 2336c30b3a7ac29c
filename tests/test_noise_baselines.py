"""The ruler of every comparison: how far the noisy images of CBSD68 are from the clean ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.noise.chain import clipped
from medcli.noise.notation import parse

CBSD68 = Path(__file__).parents[2] / "shared" / "data" / "test" / "cbsd68"

# mean PSNR in dB, clipped to [0, 1] after every component, not rounded; known for MeD's formulas to 0.01
BASELINES = {
    "gaussian:15": 24.84,
    "gaussian:25": 20.53,
    "gaussian:50": 15.00,
    "gaussian:75": 12.11,
    "local-variance": 28.21,
    "poisson-255fold": 52.20,
    "poisson:255": 28.22,
    "speckle:25": 27.22,
    "speckle:50": 21.38,
    "salt-pepper:0.05": 18.00,
    "salt-pepper:0.3": 10.21,
    "salt-pepper:0.5": 8.00,
    "gaussian:25+speckle:25": 19.67,
    "gaussian:50+speckle:25": 14.78,
    "local-variance+poisson-255fold": 28.17,
    "poisson-255fold+speckle:25": 27.20,
}


@pytest.mark.skipif(not CBSD68.is_dir(), reason="the images of CBSD68 are not beside this checkout")
def test_noisy_images_are_as_far_from_clean_as_known() -> None:
    noises = {text: clipped(parse(text)) for text in BASELINES}
    scores: dict[str, list[float]] = {text: [] for text in BASELINES}
    for seed, path in enumerate(sorted(CBSD68.iterdir())):
        clean = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        for text, noise in noises.items():
            noisy = noise(clean, torch.Generator().manual_seed(seed))
            scores[text].append(-10 * (noisy - clean).square().mean().log10().item())
    assert {len(values) for values in scores.values()} == {68}
    assert {text: sum(values) / 68 for text, values in scores.items()} == pytest.approx(BASELINES, abs=0.05)
