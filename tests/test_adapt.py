"""`med adapt`: what is trained on does not judge, the judge sees a worse model, and the better one does the work."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import TINY_UNET
from PIL import Image
from torch import Tensor, nn

import medcli.train.adapt as subject
from medcli.cli import med
from medcli.errors import MedcliError, ModelError
from medcli.images import read
from medcli.train.adapt import Look, Verdict, dealt, judged, look, open_pictures, tiles
from medcli.train.loop import Trainer
from medcli.zoo import weights

SIGMA = 20


def scene(height: int = 256, width: int = 192, channels: int = 3) -> np.ndarray:
    """Smooth colours in [60, 200], (H, W, channels)."""
    rows, columns = np.mgrid[0:height, 0:width] / 64
    return np.stack([130 + 50 * np.sin(rows + c) + 20 * np.cos(columns) for c in range(channels)], -1)


def store(path: Path, pixels: np.ndarray, depth: type = np.uint8) -> Path:
    scale = 257 if depth is np.uint16 else 1
    levels = (pixels.clip(0, 255) * scale).round().astype(depth)
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(path)
    return path


def noisy(path: Path, seed: int = 0, smooth: int = 1, channels: int = 3, depth: type = np.uint8) -> Path:
    """A picture with noise; smooth: pixels that each share it with."""
    clean = scene(channels=channels)
    noise = np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    noise = np.sum([np.roll(noise, (i, j), (0, 1)) for i in range(smooth) for j in range(smooth)], 0) / smooth
    return store(path, clean + noise, depth)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, training_data=["somewhere"])
    path = tmp_path / "tiny.safetensors"
    weights.save(path, weights.build(card), card)
    return path


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends by its steps, not by a clock."""
    monkeypatch.setattr(subject, "STEPS", 4)
    monkeypatch.setattr(subject, "MOST_TILES", 4)


def med_adapt(*arguments: object) -> Result:
    return CliRunner().invoke(med, ["adapt", *map(str, arguments)])


class Blend(nn.Module):
    """A share of the picture and the rest of a mean over its neighbourhood."""

    def __init__(self, share: float, side: int = 9) -> None:
        super().__init__()
        self.share, self.mean = share, nn.AvgPool2d(side, 1, side // 2, count_include_pad=False)

    def forward(self, pictures: Tensor) -> Tensor:
        around: Tensor = self.mean(pictures)
        return self.share * pictures + (1 - self.share) * around


def tiles_of(seed: int = 0) -> Tensor:
    clean = torch.from_numpy(scene(64, 64 * 6)).permute(2, 0, 1).float() / 255
    picture = clean + SIGMA / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack(torch.split(picture, 64, dim=2))


SEEN = Look(1, float(SIGMA), (0.5,), (SIGMA / 255,))


def test_the_judge_knows_better_from_worse_without_a_clean_picture() -> None:
    weak, strong = Blend(0.6), Blend(0.05)
    assert judged(weak, strong, tiles_of(), SEEN).better
    assert not judged(strong, weak, tiles_of(), SEEN).better
    assert not judged(strong, copy.deepcopy(strong), tiles_of(), SEEN).better


def test_stein_estimates_the_difference_of_true_errors() -> None:
    """The judge without doubt about the level, against errors that only the clean picture knows."""
    weak, strong, picture = Blend(0.6), Blend(0.05), tiles_of()
    whole = torch.from_numpy(scene(64, 64 * 6)).permute(2, 0, 1).float() / 255
    clean = torch.stack(torch.split(whole, 64, dim=2))
    before, after = (((network(picture) - clean) ** 2).mean().item() for network in (weak, strong))
    gain = judged(weak, strong, picture, SEEN).gains[1]
    assert gain == pytest.approx((before - after) / (SIGMA / 255) ** 2, abs=0.05)


def test_the_identity_wins_nothing() -> None:
    assert not judged(Blend(0.05), Blend(1.0), tiles_of(), SEEN).better


@pytest.mark.parametrize(
    ("gains", "errors", "better"),
    [
        ((0.1, 0.1, 0.1), (0.01, 0.01, 0.01), True),
        ((0.1, 0.1, 0.1), (0.01, 0.06, 0.01), False),
        ((0.04, 0.1, 0.1), (0.01, 0.01, 0.01), False),
        ((0.1, 0.1, -0.1), (0.01, 0.01, 0.01), False),
    ],
)
def test_a_gain_must_be_beyond_its_error_everywhere(
    gains: tuple[float, ...], errors: tuple[float, ...], better: bool
) -> None:
    assert Verdict(1.0, 0.9, gains, errors).better is better


def test_what_judges_is_not_trained_on(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.arange(700)[:, None, None] % 256, (700, 70, 3))
    pictures = open_pictures([store(tmp_path / "rows.png", rows)], tmp_path / "cache")
    assert pictures is not None
    learning, judging = dealt(pictures)
    shares = [[part[place] for place in range(len(part))] for part in (learning, judging)]
    assert sum(len(band) for share in shares for band in share) == 700
    assert [len(band) for band in shares[1]] == [64, 64]
    tops = [slot.offset for part in (learning, judging) for slot in part.slots]
    assert len(set(tops)) == len(tops)
    in_order = np.concatenate(
        [band for _, band in sorted(zip(tops, [*shares[0], *shares[1]], strict=True), key=lambda p: p[0])]
    )
    assert np.array_equal(in_order, pictures[0])
    assert tiles(judging, 3, 0).shape == (2, 3, 64, 64)


def test_noise_is_looked_at_first(tmp_path: Path) -> None:
    names = [noisy(tmp_path / "white.png"), noisy(tmp_path / "shared.png", smooth=3)]
    white, shared = (look(open_pictures([name], tmp_path / "cache")) for name in names)
    assert white.stride == 1
    assert not white.obstacle
    assert white.sigma == pytest.approx(SIGMA, rel=0.15)
    assert shared.stride > 1
    assert "share their noise" in shared.obstacle
    small = store(tmp_path / "small.png", scene(40, 40))
    assert "no picture has" in look(open_pictures([small], tmp_path / "cache")).obstacle
    clean = store(tmp_path / "flat.png", np.full((256, 192, 3), 90.0))
    assert "no noise" in look(open_pictures([clean], tmp_path / "cache")).obstacle


BETTER = Verdict(9.0, 8.0, (0.5,) * 3, (0.01,) * 3)


@pytest.mark.parametrize(("channels", "depth"), [(3, np.uint8), (1, np.uint8), (1, np.uint16)])
def test_the_better_model_is_kept_and_used(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, depth: type
) -> None:
    monkeypatch.setattr(subject, "judged", lambda *_: BETTER)
    picture = noisy(tmp_path / "cells.png", channels=channels, depth=depth)
    result = med_adapt(picture, "-m", model, "-o", tmp_path / "clean.png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "the adapted model is better and is used" in result.output
    card = weights.read_card(tmp_path / "clean.safetensors")
    assert card.recipe == "adapted from tiny"
    assert card.training_data == ["somewhere", "cells.png"]
    assert card.steps == 4
    page = read(tmp_path / "clean.png").pages[0]
    assert page.pixels.dtype == depth
    assert page.pixels.shape == read(picture).pages[0].pixels.shape
    again = CliRunner().invoke(
        med, ["denoise", str(picture), "-m", str(tmp_path / "clean.safetensors"), "-o", str(tmp_path / "b.png")]
    )
    assert again.exit_code == 0
    assert np.array_equal(page.pixels, read(tmp_path / "b.png").pages[0].pixels)


def test_a_model_that_is_no_better_is_forgotten(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(2):
        noisy(folder / f"{seed}.png", seed)
    result = med_adapt(folder, "-m", model, "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"not clearly better: {model} is used" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".medcli.jsonl", "0.png", "1.png"]


def test_shared_noise_is_denoised_without_adapting(model: Path, tmp_path: Path) -> None:
    picture = noisy(tmp_path / "photo.png", smooth=3)
    result = med_adapt(picture, "-m", model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "not adapted: neighbouring pixels share their noise" in result.output
    assert (tmp_path / "photo.denoised.png").exists()
    assert not list(tmp_path.glob("photo*.safetensors"))


def test_a_dry_run_tells_and_does_nothing(model: Path, tmp_path: Path) -> None:
    picture = noisy(tmp_path / "cells.png")
    before = sorted(tmp_path.iterdir())
    result = med_adapt(picture, "-m", model, "--dry-run", "--minutes", 7)
    assert result.exit_code == 0, result.output
    assert "independent from pixel to pixel" in result.output
    assert "from 1 pictures for 7 min" in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_ctrl_c_ends_the_learning_and_not_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_all = Trainer._turn_all

    def interrupted(self: Trainer, *arguments: object) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return turn_all(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_turn_all", interrupted)
    monkeypatch.setattr(subject, "judged", lambda *_: BETTER)
    result = med_adapt(noisy(tmp_path / "cells.png"), "-m", model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "stopped after 1 steps; what was learned is judged" in result.output
    assert (tmp_path / "cells.denoised.png").exists()


def test_letters(model: Path, tmp_path: Path) -> None:
    picture = noisy(tmp_path / "cells.png")
    taken = tmp_path / "mine.safetensors"
    taken.touch()
    for arguments in (["--save", taken], ["--save", tmp_path / "mine.txt"]):
        error = med_adapt(picture, "-m", model, *arguments).exception
        assert isinstance(error, MedcliError)
        assert taken.stat().st_size == 0
    network, card = weights.load_network(model)
    weights.save(tmp_path / "asked.safetensors", network, replace(card, strategy="masks:k=2"))
    assert isinstance(med_adapt(picture, "-m", tmp_path / "asked.safetensors").exception, ModelError)
    assert isinstance(med_adapt(tmp_path / "absent.png", "-m", model).exception, MedcliError)
    assert med_adapt("-", "-m", model).exit_code == 2
