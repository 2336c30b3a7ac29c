"""Gray images keep their local brightness whatever a network does to it, and models say if they have learned gray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import medcli
from medcli.cli import med
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.zoo.model import find_model


class Wrong(nn.Module):
    """The mean of 3x3 pixels, moved by `shift` grey levels, more in the blue; a `flat` one answers that level alone."""

    channels, multiple, receptive_field = 3, 1, 1

    def __init__(self, shift: float, flat: float | None = None, tint: float = 0.0) -> None:
        super().__init__()
        self.shift, self.flat, self.tint = shift / 255, flat, tint / 255

    def forward(self, noisy: Tensor) -> Tensor:
        padded = nn.functional.pad(noisy, (1, 1, 1, 1), mode="reflect")
        answer = nn.functional.avg_pool2d(padded, 3, stride=1)
        if self.flat is not None:
            answer = torch.full_like(noisy, self.flat / 255)
        return answer + self.shift + self.tint * torch.tensor([-1.0, 0.0, 1.0])[:, None, None]


def flat(level: float, sigma: float, height: int = 150, width: int = 203) -> np.ndarray:
    """(height, width) float32 in units of white: one level and white Gaussian noise, in grey levels."""
    noise = np.random.default_rng(4).normal(0, sigma, (height, width))
    return ((level + noise) / 255).astype(np.float32)


def denoiser_of(network: nn.Module, **options: Any) -> Denoiser:
    return Denoiser(TorchRuntime(network, device="cpu"), range="dtype", **options)


def moved(denoiser: Denoiser, pixels: np.ndarray) -> float:
    """By how many grey levels the mean moves."""
    return float(denoiser(pixels).mean(dtype=np.float64) - pixels.mean(dtype=np.float64)) * 255


@pytest.mark.parametrize("shift", [-9, 0, 12])
@pytest.mark.parametrize("height", [3, 150])
def test_a_shift_is_taken_back_in_gray(shift: float, height: int) -> None:
    gray = flat(120, 20, height)
    assert abs(moved(denoiser_of(Wrong(shift)), gray)) < 0.2
    assert abs(moved(denoiser_of(Wrong(shift)), np.repeat(gray[..., None], 3, axis=2))) < 0.2


def test_a_shift_that_differs_from_place_to_place_is_taken_back_in_each() -> None:
    class Leaning(Wrong):
        def forward(self, noisy: Tensor) -> Tensor:
            return noisy + torch.linspace(-0.1, 0.1, noisy.shape[3])

    gray = flat(120, 20, 100, 400)
    kept = denoiser_of(Leaning(0))(gray)
    for part in (slice(50, 150), slice(150, 250), slice(250, 350)):
        assert abs(kept[:, part].mean() - gray[:, part].mean()) * 255 < 0.3


def test_colour_is_left_to_the_network() -> None:
    colour = np.stack([flat(level, 20) for level in (90, 120, 150)], axis=2)
    shifting, plain = denoiser_of(Wrong(9)), denoiser_of(Wrong(9), keep_brightness=False)
    assert np.array_equal(shifting(colour), plain(colour))
    assert abs(moved(shifting, colour) - 9) < 0.1


def test_equal_channels_come_back_equal_and_as_gray_does() -> None:
    tinting = denoiser_of(Wrong(5, tint=20))
    for gray in (flat(120, 20), (flat(120, 20) * 255).round().astype(np.uint8)):
        assert np.array_equal(tinting(np.repeat(gray[..., None], 3, axis=2)), np.repeat(tinting(gray)[..., None], 3, 2))


@pytest.mark.parametrize("tile", [32, 64, 150])
def test_tiles_make_no_difference(tile: int) -> None:
    gray = flat(120, 20)
    whole = denoiser_of(Wrong(9), tile=0)(gray)
    assert np.abs(denoiser_of(Wrong(9), tile=tile)(gray) - whole).max() < 1e-5


@pytest.mark.parametrize(("level", "answer"), [(8, 8), (247, 247)])
def test_what_clipping_did_to_the_mean_may_be_undone(level: int, answer: int) -> None:
    clipped = (flat(level, 40) * 255).round().clip(0, 255).astype(np.uint8)
    assert abs(clipped.mean() - level) > 10
    assert denoiser_of(Wrong(0, flat=answer))(clipped).mean() == answer


@pytest.mark.parametrize(("level", "answer"), [(8, 40), (247, 215)])
def test_what_leads_further_away_from_what_was_clipped_may_not(level: int, answer: int) -> None:
    clipped = (flat(level, 40) * 255).round().clip(0, 255).astype(np.uint8)
    assert abs(moved(denoiser_of(Wrong(0, flat=answer)), clipped / np.float32(255))) < 0.5


def test_impulses_and_one_bright_pixel_are_not_spread() -> None:
    gray = flat(120, 5)
    gray[::7, ::5] = 0
    gray[40, 40] = 1e6
    restored = denoiser_of(Wrong(0, flat=120))(gray)
    restored[40, 40] = 120 / 255  # no network sees it
    assert abs(restored * 255 - 120).max() < 1


def test_no_number_and_no_noise_change_nothing() -> None:
    gray = flat(120, 0)
    gray[10:30, 10:30] = np.nan
    restored = denoiser_of(Wrong(0, flat=120))(gray)
    assert np.array_equal(np.isnan(restored), np.isnan(gray))
    assert np.nanmax(abs(restored * 255 - 120)) < 0.01


def test_the_default_model_keeps_the_brightness_of_a_flat_field() -> None:
    denoiser = medcli.load("photo", device="cpu", precision="fp32", range="dtype")
    gray = flat(192, 40, 128, 128)
    assert abs(moved(denoiser, gray)) < 0.2
    assert denoiser(gray).std() < 0.5 * gray.std()


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_a_model_that_fills_in_is_free_to_move_the_brightness(tmp_path: Path) -> None:
    from medcli.zoo import weights

    path, (network, card) = tmp_path / "filling.safetensors", weights.load_network(find_model("gaussian-dncnn").path)
    for noises, kept in ((["gaussian:25"], True), (["gaussian:25", "drop:0.5"], False)):
        weights.save(path, network, replace(card, noises=noises))
        assert medcli.load(path, device="cpu").keep_brightness == kept


def test_the_warning_names_a_model_that_has_learned_gray() -> None:
    assert "-m photo" in find_model("med-pool").gray_warning
    assert not find_model("photo").gray_warning
    assert not find_model("amsnet-real").gray_warning  # not measured


def test_denoise_warns_of_gray_images_and_of_no_others(tmp_path: Path) -> None:
    gray = flat(120, 20, 16, 16)
    reported = {
        name: CliRunner().invoke(med, ["denoise", str(save(tmp_path / f"{name}.png", pixels)), "-m", model]).output
        for name, model, pixels in (
            ("gray", "med-gaussian", gray),
            ("equal", "med-gaussian", np.repeat(gray[..., None], 3, axis=2)),
            ("colour", "med-gaussian", np.stack([gray, gray.T, gray], axis=2)),
            ("learned", "photo", gray),
        )
    }
    assert [name for name, output in reported.items() if "has not learned gray" in output] == ["gray", "equal"]


def test_eval_warns_once(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "clean" / f"{number}.png", flat(120, 0, 16, 16))
    arguments = [
        "eval",
        "-m",
        "med-gaussian",
        "--clean",
        str(tmp_path / "clean"),
        "--noise",
        "gaussian:20",
        "--metrics",
        "psnr",
    ]
    reported = CliRunner().invoke(med, arguments)
    assert reported.exit_code == 0, reported.output
    assert reported.output.count("has not learned gray") == 1


def test_info_says_whether_a_model_has_learned_gray() -> None:
    reported = {name: CliRunner().invoke(med, ["models", "info", name]).output for name in ("photo", "gaussian")}
    assert ["not trained on" in output for output in reported.values()] == [False, True]
    assert all("gray images" in output for output in reported.values())
