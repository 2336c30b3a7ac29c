"""`med adapt`: models are compared on held-out rows, and the better one is used."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import TINY_UNET
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import medcli.cli.adapt_run
import medcli.train.adapt.holdout as bands
import medcli.train.adapt.run as subject
from medcli.blind_spot import hidden_pixel_error
from medcli.cli import med
from medcli.data.cache import CachedImage
from medcli.data.noise_correlation import LAGS, correlated, noise_correlation
from medcli.engine.blind_spot import ComplementaryMasks
from medcli.engine.strategies import AppliedNetwork, Plain
from medcli.errors import MedcliError, ModelError, OptionError, OutputError
from medcli.images import read
from medcli.methods.amsnet import hidden_parts
from medcli.methods.base import NoisyImages
from medcli.methods.n2s import scattered_pixels
from medcli.train.adapt.holdout import dealt, squares, usable
from medcli.train.adapt.run import AdaptationJob, AdaptationPlan, adaptation_job, adaptation_plan, open_images
from medcli.train.adapt.sure import Comparison, HoldoutScore, NoiseStatistics
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
    """An image with noise; smooth: pixels that each share it with."""
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
    monkeypatch.setattr(bands, "MOST_PIXELS", 4 * 64**2)


def med_adapt(*arguments: object) -> Result:
    return CliRunner().invoke(med, ["adapt", *map(str, arguments)])


class Blend(nn.Module):
    """A share of the image and the rest of a mean over its neighbourhood."""

    multiple = 1

    def __init__(self, share: float, side: int = 9) -> None:
        super().__init__()
        self.share, self.mean = share, nn.AvgPool2d(side, 1, side // 2, count_include_pad=False)

    def forward(self, images: Tensor) -> Tensor:
        around: Tensor = self.mean(images)
        return self.share * images + (1 - self.share) * around


def tiles_of(seed: int = 0) -> Tensor:
    clean = torch.from_numpy(scene(64, 64 * 6)).permute(2, 0, 1).float() / 255
    image = clean + SIGMA / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack(torch.split(image, 64, dim=2))


def truth_of(channels: int = 3) -> Tensor:
    """The scene of `tiles_of` without noise."""
    whole = torch.from_numpy(scene(64, 64 * 6, channels)).permute(2, 0, 1).float() / 255
    return torch.stack(torch.split(whole, 64, dim=2))


compared = HoldoutScore(Plain(), scattered_pixels())
SEEN = NoiseStatistics(1, float(SIGMA), (0.5,), (SIGMA / 255,))


def test_the_comparison_finds_the_better_model_without_a_clean_image() -> None:
    weak, strong = Blend(0.6), Blend(0.05)
    assert compared(weak, strong, tiles_of(), SEEN).better
    assert not compared(strong, weak, tiles_of(), SEEN).better
    assert not compared(strong, copy.deepcopy(strong), tiles_of(), SEEN).better


def test_stein_estimates_the_difference_of_true_errors() -> None:
    """The comparison without doubt about the level, against errors that only the clean image knows."""
    weak, strong, image, clean = Blend(0.6), Blend(0.05), tiles_of(), truth_of()
    before, after = (((network(image) - clean) ** 2).mean().item() for network in (weak, strong))
    gain = compared(weak, strong, image, SEEN).gains[1]
    assert gain == pytest.approx((before - after) / (SIGMA / 255) ** 2, abs=0.05)


def test_the_identity_wins_nothing() -> None:
    assert not compared(Blend(0.05), Blend(1.0), tiles_of(), SEEN).better


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
    assert Comparison(1.0, 0.9, gains, errors).better is better


def test_held_out_rows_are_not_trained_on(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.arange(700)[:, None, None] % 256, (700, 70, 3))
    images = open_images([store(tmp_path / "rows.png", rows)], tmp_path / "cache")
    learning, held_out = dealt(images, 64)
    shares = [[part[place] for place in range(len(part))] for part in (learning, held_out)]
    assert sum(len(band) for share in shares for band in share) == 700
    assert [len(band) for band in shares[1]] == [64, 64]
    tops = [slot.offset for part in (learning, held_out) for slot in part.slots]
    assert len(set(tops)) == len(tops)
    in_order = np.concatenate(
        [band for _, band in sorted(zip(tops, [*shares[0], *shares[1]], strict=True), key=lambda p: p[0])]
    )
    assert np.array_equal(in_order, images[0])
    assert squares(held_out, 3, 64, 0).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(("height", "width", "fits"), [(240, 80, True), (239, 80, False), (240, 79, False)])
def test_bands_follow_from_what_network_and_stride_need(tmp_path: Path, height: int, width: int, fits: bool) -> None:
    opened = open_images([store(tmp_path / "one.png", scene(height, width))], tmp_path / "cache")
    way = way_at(5)
    images = usable(opened, way.rows, way.side)
    assert len(images) == fits
    if fits:
        learning, held_out = dealt(images, 80)
        assert [len(held_out[0]), *(len(learning[place]) for place in range(2))] == [80, 80, 80]
        assert squares(held_out, 3, 80, 0).shape == (1, 3, 80, 80)


def way_at(stride: int, strategy: str = "masks:k=2,pd=2", multiple: int = 16) -> AdaptationPlan:
    return adaptation_plan(*network_and_card(strategy, multiple), NoisyImages(stride))


@given(st.integers(1, 7), st.sampled_from([1, 2, 4, 8, 16, 64]), st.integers(0, 900))
def test_every_band_has_room_for_a_patch(stride: int, multiple: int, more: int) -> None:
    way = way_at(stride, multiple=multiple)
    slot = CachedImage(0, (way.rows + more, way.side, 3), "uint8")
    heights = [(stop - top, held) for top, stop, held in bands._bands(slot, way.side)]
    assert sum(height for height, _ in heights) == slot.shape[0]
    assert all(height == way.side if held else height >= way.plan.step for height, held in heights)


def network_and_card(strategy: str, multiple: int = 16) -> tuple[nn.Module, weights.Card]:
    network = Blend(0.5)
    network.multiple = multiple
    return network, weights.Card(id="tiny", architecture="unet", config={}, strategy=strategy)


@pytest.mark.parametrize(
    ("strategy", "stride", "pd", "side", "patch"),
    [
        ("masks:k=2,pd=2", 1, 2, 64, 160),
        ("masks:k=2,pd=2", 3, 3, 96, 144),
        ("masks:k=3,pd=1,fill=mean", 5, 5, 80, 160),
        ("masks:k=2,pd=1", 1, 1, 64, 160),
        ("masks", 7, 7, 112, 112),
    ],
)
def test_a_model_with_masks_learns_in_sub_images_of_the_noise(
    strategy: str, stride: int, pd: int, side: int, patch: int
) -> None:
    network, card = network_and_card(strategy)
    way = adaptation_plan(network, card, NoisyImages(stride))
    assert way.method == "amsnet"
    assert way.plan.options["pd"] == pd
    assert way.plan.options["fill"] == ("mean" if "mean" in strategy else "zero")
    assert way.plan.options["branches"] == way.score.hiding.branches == (3 if "k=3" in strategy else 2)
    assert (way.side, way.plan.patch) == (side, patch)
    assert way.side % (pd * 16) == way.plan.patch % (pd * 16) == 0


def lesson_of(path: Path, strategy: str = "plain") -> AdaptationJob:
    return adaptation_job(*network_and_card(strategy), open_images([path], path.parent / "cache"))


def test_noise_is_looked_at_first(tmp_path: Path) -> None:
    white, shared = noisy(tmp_path / "white.png"), noisy(tmp_path / "shared.png", smooth=3)
    assert lesson_of(white).seen.stride == 1
    assert not lesson_of(white).obstacle
    assert not lesson_of(white, "masks").obstacle
    assert lesson_of(white).seen.sigma == pytest.approx(SIGMA, rel=0.15)
    assert lesson_of(shared).seen.stride == 3
    assert "spatially correlated" in lesson_of(shared).obstacle
    assert not lesson_of(shared, "masks:k=2,pd=1,fill=mean").obstacle
    small = store(tmp_path / "small.png", scene(40, 40))
    assert "no image has the 64 x 192 pixels" in lesson_of(small).obstacle
    clean = store(tmp_path / "flat.png", np.full((256, 192, 3), 90.0))
    assert "no noise" in lesson_of(clean).obstacle


def test_noise_that_reaches_further_than_can_be_measured_is_no_masked_model_s_either(tmp_path: Path) -> None:
    far = replace(lesson_of(noisy(tmp_path / "white.png"), "masks"), seen=NoiseStatistics(LAGS, 20.0))
    assert "over a distance of 8" in far.obstacle


# --- noise that neighbouring pixels share


def test_noise_is_drawn_with_the_correlation_that_was_measured() -> None:
    lags = np.array([[1, 0.6, 0.2, 0, 0, 0, 0, 0, 0], [1, 0.3, 0, 0, 0, 0, 0, 0, 0]])
    noise = correlated(torch.randn(8, 1, 96, 96, generator=torch.Generator().manual_seed(0)), lags)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    images = [np.asarray(0.5 + 0.1 * plane[0], np.float32) for plane in noise]
    np.testing.assert_allclose(noise_correlation(images).lags[:, :3], lags[:, :3], atol=0.12)


def shared_tiles() -> tuple[Tensor, NoiseStatistics]:
    """Gray squares with noise that 3 x 3 pixels share, as `look` sees it."""
    noise = torch.randn(6, 1, 66, 66, generator=torch.Generator().manual_seed(0))
    image = truth_of(1) + 3 * SIGMA / 255 * nn.functional.avg_pool2d(noise, 3, 1)
    lags = np.array([1, 2 / 3, 1 / 3, *[0.0] * 6])
    return image, NoiseStatistics(3, float(SIGMA), (0.5,), (SIGMA / 255,), np.stack([lags, lags]))


def test_a_network_that_guesses_shared_noise_does_not_win() -> None:
    """Hidden pixels prefer the network that guesses noise where the stride is too small; the comparison does not."""
    wide, near, (image, seen) = Blend(0.0, 9), Blend(0.0, 3), shared_tiles()
    strategy = ComplementaryMasks(pd=1, fill="mean")
    fooled = HoldoutScore(strategy, hidden_parts(strategy.k, 1, strategy.fill))(
        wide, near, image, replace(seen, lags=None)
    )
    right = HoldoutScore(strategy, hidden_parts(strategy.k, 4, strategy.fill))
    assert fooled.gains[0] - 2 * fooled.errors[0] > 0.03
    assert not right(wide, near, image, seen).better
    assert right(near, wide, image, seen).better


def test_stein_estimates_the_difference_of_true_errors_under_shared_noise() -> None:
    wide, near, (image, seen) = Blend(0.0, 9), Blend(0.0, 3), shared_tiles()
    strategy = ComplementaryMasks(pd=1, fill="mean")
    before, after = (((strategy(network, image) - truth_of(1)) ** 2).mean().item() for network in (near, wide))
    gain = HoldoutScore(strategy, hidden_parts(strategy.k, 4, strategy.fill))(near, wide, image, seen).gains[1]
    assert gain == pytest.approx((before - after) / (SIGMA / 255) ** 2, abs=0.08)


def test_pixels_that_no_branch_owns_are_seen_and_not_compared() -> None:
    image, network = tiles_of()[:, :, :16, :16], Blend(1.0)
    (index,) = scattered_pixels().maps(len(image), 16, 0)
    assert int((index < 4).sum()) == 64
    blind = hidden_pixel_error(network, image, index, branches=4, fill=lambda y, hidden: y.masked_fill(hidden, 0))
    squared = image.square() * (index < 4)
    assert torch.allclose(blind, squared.sum((1, 2, 3)) / (3 * 64))


BETTER = Comparison(9.0, 8.0, (0.5,) * 3, (0.01,) * 3)


@pytest.mark.parametrize(("channels", "depth"), [(3, np.uint8), (1, np.uint8), (1, np.uint16)])
def test_the_better_model_is_kept_and_used(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, depth: type
) -> None:
    monkeypatch.setattr(HoldoutScore, "__call__", lambda *_: BETTER)
    image = noisy(tmp_path / "cells.png", channels=channels, depth=depth)
    result = med_adapt(image, "-m", model, "-o", tmp_path / "clean.png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "the adapted model is better and is used" in result.output
    card = weights.read_card(tmp_path / "clean.safetensors")
    assert card.recipe == "adapted from tiny"
    assert card.training_data == ["somewhere", "cells.png"]
    assert card.steps == 4
    page = read(tmp_path / "clean.png").pages[0]
    assert page.pixels.dtype == depth
    assert page.pixels.shape == read(image).pages[0].pixels.shape
    again = CliRunner().invoke(
        med, ["denoise", str(image), "-m", str(tmp_path / "clean.safetensors"), "-o", str(tmp_path / "b.png")]
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


def test_a_model_of_random_masks_is_trained_and_compared_through_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    strategy = "bernoulli:passes=4,keep=0.8,dropout=0.1,joint=1"
    card = weights.Card(id="s", architecture="self2self", config={"channels": 3, "width": 4}, strategy=strategy)
    start = tmp_path / "start.safetensors"
    weights.save(start, weights.build(card), card)
    compared: list[nn.Module] = []

    def compare(_: HoldoutScore, *arguments: Any) -> Comparison:
        compared.extend(arguments[:2])
        return BETTER

    monkeypatch.setattr(HoldoutScore, "__call__", compare)
    image = noisy(tmp_path / "cells.png")
    result = med_adapt(image, "-m", start, "-o", tmp_path / "clean.png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    adapted = weights.read_card(tmp_path / "clean.safetensors")
    assert (adapted.method, adapted.strategy) == ("self2self", strategy)
    assert [type(each.strategy).__name__ for each in compared if isinstance(each, AppliedNetwork)] == ["Bernoulli"] * 2
    plan = adaptation_plan(*weights.load_network(start), NoisyImages(5))
    assert plan.plan.options == {"keep": 0.8, "dropout": 0.1, "passes": 4, "joint": True}
    assert len(plan.fewer(torch.zeros(40, 1))) == 20
    assert plan.plan.most_stride == 1
    assert "banding" in plan.plan.why
    plain = weights.Card(id="s", architecture="self2self", config={"channels": 3, "width": 4})
    assert adaptation_plan(weights.build(plain), plain, NoisyImages(1)).method == "n2s"


def with_strategy(model: Path, strategy: str) -> Path:
    network, card = weights.load_network(model)
    path = model.with_name("requested.safetensors")
    weights.save(path, network, replace(card, strategy=strategy))
    return path


@pytest.mark.parametrize("smooth", [1, 3])
def test_a_model_with_masks_learns_from_shared_noise_and_denoises_through_its_masks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooth: int
) -> None:
    monkeypatch.setattr(HoldoutScore, "__call__", lambda *_: BETTER)
    image, start = noisy(tmp_path / "photo.png", smooth=smooth), with_strategy(model, "masks:k=3,pd=2,fill=mean")
    page = tmp_path / "page.html"
    result = med_adapt(image, "-m", start, "-o", tmp_path / "clean.png", "--device", "cpu", "--compare", page)
    assert result.exit_code == 0, result.output
    counts = [page.read_text("utf-8").count(f'data-name="{name}"') for name in ("noisy", "before", "adapted")]
    assert counts == [3 if smooth == 1 else 2] * 3  # squares that were held out
    assert f"independent {'from pixel to pixel' if smooth == 1 else 'only at a stride of 3 pixels'}" in result.output
    card = weights.read_card(tmp_path / "clean.safetensors")
    assert (card.method, card.strategy, card.steps) == ("amsnet", "masks:k=3,pd=2,fill=mean", 4)
    again = ["denoise", str(image), "-m", str(tmp_path / "clean.safetensors"), "-o", str(tmp_path / "b.png")]
    assert CliRunner().invoke(med, [*again, "--device", "cpu"]).exit_code == 0
    assert (tmp_path / "clean.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_model_with_masks_that_is_no_better_is_forgotten(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "RATE", 1e-9)
    image, start = noisy(tmp_path / "photo.png", smooth=3), with_strategy(model, "masks:k=2,pd=2")
    result = med_adapt(image, "-m", start, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"not clearly better: {start} is used" in result.output
    assert not list(tmp_path.glob("photo*.safetensors"))


@pytest.mark.parametrize("known", [[], ["one", "two"]])
def test_shared_noise_is_denoised_without_adapting(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: list[str]
) -> None:
    monkeypatch.setattr(medcli.cli.adapt_run, "blind_spot_models", lambda: known)
    image = noisy(tmp_path / "photo.png", smooth=3)
    result = med_adapt(image, "-m", model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "not adapted: the noise is spatially correlated" in result.output
    assert ("can be adapted to such images: -m one or -m two" in result.output) == bool(known)
    assert (tmp_path / "photo.denoised.png").exists()
    assert not list(tmp_path.glob("photo*.safetensors"))


def test_a_dry_run_changes_nothing(model: Path, tmp_path: Path) -> None:
    image = noisy(tmp_path / "cells.png")
    before = sorted(tmp_path.iterdir())
    result = med_adapt(image, "-m", model, "--dry-run", "--minutes", 7)
    assert result.exit_code == 0, result.output
    assert "independent from pixel to pixel" in result.output
    assert "on 1 images for 7 min" in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_ctrl_c_ends_the_training_and_not_the_denoising(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_all = Trainer._train_step

    def interrupted(self: Trainer, *arguments: object) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return turn_all(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    monkeypatch.setattr(HoldoutScore, "__call__", lambda *_: BETTER)
    result = med_adapt(noisy(tmp_path / "cells.png"), "-m", model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "stopped after 1 steps; the model as it is now is compared" in result.output
    assert (tmp_path / "cells.denoised.png").exists()


def test_a_place_that_cannot_be_is_reported_before_the_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HoldoutScore, "__call__", lambda *_: BETTER)
    image = noisy(tmp_path / "cells.png")
    result = med_adapt(image, "-m", model, "--save", image / "mine.safetensors", "--device", "cpu")
    assert isinstance(result.exception, OutputError)
    assert "step" not in result.output


def test_errors(model: Path, tmp_path: Path) -> None:
    image = noisy(tmp_path / "cells.png")
    taken = tmp_path / "mine.safetensors"
    taken.touch()
    for arguments in (["--save", taken], ["--save", tmp_path / "mine.txt"]):
        error = med_adapt(image, "-m", model, *arguments).exception
        assert isinstance(error, MedcliError)
        assert taken.stat().st_size == 0
    assert isinstance(med_adapt(image, "-m", with_strategy(model, "flips")).exception, ModelError)
    assert isinstance(med_adapt(image, "-m", tmp_path / "absent.safetensors").exception, ModelError)
    assert isinstance(med_adapt(tmp_path / "absent.png", "-m", model).exception, MedcliError)
    assert isinstance(med_adapt("-", "-m", model).exception, OptionError)
