"""What the AMSNet paper promises, in miniature: masks, sub-images, no leak in any network, noise that stays out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_archs import build
from torch import Generator, Tensor, nn

import medcli
from medcli.blind_spot import FILLS, drawn, error_where, hidden_pixel_error, join, predict, roughness, scattered, split
from medcli.blind_spot import stitched as stitch
from medcli.data.folders import matched
from medcli.data.noise_correlation import noise_correlation
from medcli.engine.blind_spot import ComplementaryMasks
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.strategies import Flips, PixelCoordinates, Plain, mean, parse, whole
from medcli.errors import InputError, ModelError, RecipeError
from medcli.images import read
from medcli.losses import l1, mse
from medcli.methods.amsnet import AMSNet
from medcli.methods.base import Batch
from medcli.metrics import psnr
from medcli.registry import ARCHITECTURES, resolve
from medcli.zoo import catalog

LEVEL = 0.1  # of the noise
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "real" / "polyu" / "noisy"


class Around(nn.Module):
    """Guesses a pixel by the mean of the visible ones near it; zero counts as hidden. Remembers what it was shown."""

    channels, receptive_field = 3, 2

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple
        self.shown: list[Tensor] = []

    def forward(self, seen: Tensor) -> Tensor:
        self.shown.append(seen)
        return F.avg_pool2d(seen, 5, 1, 2) / F.avg_pool2d((seen != 0).float(), 5, 1, 2).clamp(min=0.01)


class Small(nn.Module):
    """Four convolutions and a skip from the input."""

    channels, multiple, receptive_field = 1, 1, 4

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        inner = [layer for _ in range(2) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        ends = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.layers = nn.Sequential(ends[0], nn.ReLU(), *inner, ends[1])

    def forward(self, seen: Tensor) -> Tensor:
        out: Tensor = seen + self.layers(seen)
        return out


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noisy_image(*shape: int) -> Tensor:
    """Never zero: that is what hidden pixels are."""
    return 0.2 + 0.8 * torch.rand(shape, generator=generator())


def batch_of(clean: Callable[[Generator], Tensor], step: int) -> Batch:
    draw = generator(step)
    scene = clean(draw)
    noisy = scene + LEVEL * torch.randn(scene.shape, generator=draw)
    return Batch([noisy], scene, torch.arange(len(scene)) + 1000 * step)


def gray(draw: Generator) -> Tensor:
    return torch.full((4, 1, 24, 24), 0.5)


def waves(draw: Generator, side: int = 24) -> Tensor:
    steps = torch.arange(side) / 24
    slopes, phases = 5 * torch.randn(2, 4, 1, 1, 1, generator=draw), 6 * torch.rand(4, 1, 1, 1, generator=draw)
    return 0.5 + 0.3 * torch.sin(slopes[0] * steps[:, None] + slopes[1] * steps + phases)


def train(network: nn.Module, terms: Callable[[Batch], Any], clean: Callable[[Generator], Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.zero_grad()
        sum(terms(batch_of(clean, step)).values()).backward()
        optimizer.step()


def unmasked(network: nn.Module) -> Callable[[Batch], dict[str, Tensor]]:
    return lambda batch: {"l1": l1(network(batch.noisy), batch.noisy)}


def decibels(restored: Tensor, clean: Tensor) -> float:
    return -10 * float(torch.log10(mse(restored, clean)))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.set_num_threads(1)
    network = small()
    train(network, AMSNet(network, pd=1).masked, waves, 150)
    return network.requires_grad_(False)


# --- 1: sub-images


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_sub_images_go_back_bit_for_bit(stride: int) -> None:
    images = noisy_image(2, 3, 20, 30)
    assert torch.equal(join(split(images, stride), stride), images)
    assert split(images, stride).shape == (2 * stride**2, 3, 20 // stride, 30 // stride)


def test_sub_images_are_in_the_order_of_their_first_pixels() -> None:
    images = noisy_image(2, 3, 20, 30)
    assert torch.equal(split(images, 5)[7], images[0, :, 1::5, 2::5])
    assert torch.equal(split(images, 5)[25 + 7], images[1, :, 1::5, 2::5])


def test_sub_images_of_a_flip_are_flipped_sub_images() -> None:
    image = noisy_image(1, 3, 20, 30)
    flipped = split(image, 5).flip(3).view(5, 5, 3, 4, 6).flip(1).flatten(0, 1)
    assert torch.equal(split(image.flip(3), 5), flipped)


# --- 2: masks


def index_maps(branches: int) -> dict[str, Tensor]:
    numbers = scattered(*whole(torch.empty(1, 1, 256, 256)), seed=3)
    return {"drawn": drawn(256, 256, branches, [generator()])[0, 0], "scattered": numbers * branches >> 32}


@pytest.mark.parametrize("branches", [2, 3, 4])
@pytest.mark.parametrize("kind", ["drawn", "scattered"])
def test_masks_complement_each_other_and_hide_equal_shares(kind: str, branches: int) -> None:
    index = index_maps(branches)[kind]
    hidden = torch.stack([index == branch for branch in range(branches)])
    assert (hidden.sum(0) == 1).all()
    assert ((~hidden).sum(0) == branches - 1).all()
    assert (hidden.float().mean((1, 2)) - 1 / branches).abs().max() < 0.01


def test_scattered_masks_know_no_neighbour_row_or_seed() -> None:
    place = whole(torch.empty(1, 1, 256, 256))
    first, other = (scattered(*place, seed=seed) / 2**32 - 0.5 for seed in (3, 4))
    pairs = [(first, other), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1]), (first[2:, 2:], first[:-2, :-2])]
    assert all(abs(float((one * two).mean()) * 12) < 0.02 for one, two in [*pairs, (first, first.T)])
    assert first.mean(1).std() < 0.025  # no row is lighter than chance allows


def test_a_network_sees_each_pixel_with_all_its_channels_in_all_branches_but_one() -> None:
    network, image = Around(), noisy_image(2, 3, 16, 16)
    ComplementaryMasks(k=3, pd=1)(network, image)
    hidden = torch.stack(network.shown) == 0
    assert (hidden.sum(0) == 1).all()
    assert (hidden == hidden[:, :, :1]).all()
    assert all(torch.equal(shown[shown != 0], image[shown != 0]) for shown in network.shown)


# --- 3: no leak


def leak(ask: Callable[[Tensor], Tensor], noisy: Tensor, hidden: Tensor) -> tuple[float, float]:
    """How much the answers at hidden pixels feel hidden pixels, and visible ones, at most."""
    noisy = noisy.clone().requires_grad_()
    (ask(noisy) * hidden).sum().backward()
    assert noisy.grad is not None
    felt = noisy.grad.abs().amax(1, keepdim=True)
    return float((felt * hidden).max()), float((felt * ~hidden).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("training", [False, True])
def test_no_network_knows_what_is_hidden_from_it(name: str, training: bool, fill: str) -> None:
    network = build(name).train(training)
    noisy = noisy_image(2, 3, 4 * network.multiple, 2 * network.multiple)
    hidden = drawn(*noisy.shape[2:], 2, [generator(1), generator(2)]) == 0
    from_hidden, from_visible = leak(lambda seen: predict(network, seen, hidden, FILLS[fill]), noisy, hidden)
    assert from_hidden == 0.0
    assert from_visible > 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("fill", FILLS)
def test_no_pixel_of_the_stitched_answer_knows_itself_or_another_sub_image(name: str, fill: str) -> None:
    network = build(name)
    side = 4 * network.multiple
    index = drawn(side, side, 2, [generator()])
    for row, column in ((0, 0), (side // 2 + 1, side // 2)):
        noisy = noisy_image(1, 3, side, side).requires_grad_()
        stitch(network, noisy, index, branches=2, stride=2, fill=FILLS[fill])[0, :, row, column].sum().backward()
        assert noisy.grad is not None
        assert (noisy.grad[0, :, row, column] == 0.0).all()
        felt = split(noisy.grad.abs(), 2).amax((1, 2, 3))
        here = 2 * (row % 2) + column % 2
        assert [bool(value) for value in felt] == [phase == here for phase in range(4)]


def test_statistics_of_the_unmasked_image_would_be_seen() -> None:
    noisy, hidden = noisy_image(1, 3, 16, 16), drawn(16, 16, 2, [generator()]) == 0
    assert leak(lambda seen: predict(Around(), seen, hidden) + seen.mean((2, 3), keepdim=True), noisy, hidden)[0] > 0
    assert leak(lambda seen: predict(Around(), seen - seen.mean(), hidden), noisy, hidden)[0] > 0


def test_a_fill_leaves_what_is_visible_and_the_mean_continues_a_flat_place() -> None:
    image, hidden = noisy_image(2, 3, 16, 16), drawn(16, 16, 2, [generator(1), generator(2)]) == 0
    for fill in FILLS.values():
        assert torch.equal(fill(image, hidden).masked_fill(hidden, 0), image.masked_fill(hidden, 0))
    flat = torch.full_like(image, 0.3)
    assert torch.allclose(FILLS["mean"](flat, hidden), flat, atol=1e-6)
    assert (FILLS["zero"](flat, hidden)[hidden.expand_as(flat)] == 0).all()
    assert (FILLS["mean"](flat, torch.ones_like(hidden)) == 0).all()


# --- 4: the loss


def test_only_hidden_pixels_are_compared() -> None:
    noisy, hidden = noisy_image(2, 3, 8, 8), drawn(8, 8, 2, [generator(1), generator(2)]) == 0
    restored = noisy_image(2, 3, 8, 8).flip(3).requires_grad_()
    error = error_where(restored, noisy, hidden, l1)
    error.backward()
    assert restored.grad is not None
    assert (restored.grad[~hidden.expand_as(noisy)] == 0).all()
    assert (restored.grad[hidden.expand_as(noisy)] != 0).all()
    each = [(a - b).abs()[:, one[0]].mean() for a, b, one in zip(restored, noisy, hidden, strict=True)]
    assert torch.allclose(error, torch.stack(each).mean())


def test_a_image_that_hides_nothing_is_refused() -> None:
    noisy = noisy_image(2, 3, 8, 8)
    with pytest.raises(ValueError, match="hidden"):
        error_where(noisy, noisy, torch.zeros(2, 1, 8, 8, dtype=torch.bool), l1)


@pytest.mark.parametrize("stage", ["b", "p"])
def test_a_step_is_the_mean_of_its_samples_steps(stage: str) -> None:
    method = AMSNet(Around(2), stage=stage, pd=2)  # type: ignore[arg-type]
    batch = Batch([noisy_image(4, 3, 18, 21)], None, torch.arange(4))
    alone = [Batch([batch.noisy[i : i + 1]], None, batch.keys[i : i + 1]) for i in range(4)]
    terms, parts = method.updates[0].terms(batch), [method.updates[0].terms(one) for one in alone]
    for name, value in terms.items():
        assert torch.allclose(value, torch.stack([part[name] for part in parts]).mean(), atol=1e-6)


# --- 5: the noise stays out, and Table 3 in miniature


def likeness(restored: Tensor, noisy: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([restored.flatten(), noisy.flatten()]))[0, 1])


def test_pure_noise_cannot_be_guessed_and_is_copied_where_nothing_is_hidden() -> None:
    masked, control = small(), small()
    method = AMSNet(masked, pd=1)
    train(masked, method.masked, gray, 100)
    train(control, unmasked(control), gray, 15)
    with torch.no_grad():
        noisy, index = method.prepared(batch_of(gray, -1))
        restored, copied = stitch(masked, noisy, index, branches=2), control(noisy)
    assert abs(likeness(restored, noisy)) < 0.15
    assert float(l1(restored, noisy)) == pytest.approx(LEVEL * (2 / np.pi) ** 0.5, rel=0.06)
    assert likeness(copied, noisy) > 0.88
    assert float(l1(copied, noisy)) < 0.052


def test_masked_training_denoises_and_unmasked_training_stays_at_the_input(trained: nn.Module) -> None:
    control, batch = small(), batch_of(waves, -1)
    train(control, unmasked(control), waves, 15)
    assert batch.clean is not None
    noisy = decibels(batch.noisy, batch.clean)
    with torch.no_grad():
        assert decibels(ComplementaryMasks(pd=1)(trained, batch.noisy), batch.clean) > noisy + 4
        assert decibels(control(batch.noisy), batch.clean) == pytest.approx(noisy, abs=0.3)
        assert decibels(ComplementaryMasks(pd=1)(control, batch.noisy), batch.clean) < noisy


# --- 6: the paper's denoisers


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("restormer", {}, 26_111_668),
        ("nafnet-baseline", {}, 29_056_227),
        ("plainunet", {}, 7_935_555),
        ("deamnet", {}, 1_875_619),
        ("dncnn", {"batch_norm": False}, 557_443),
        ("restormer", {"width": 16, "blocks": [2, 3, 3, 4], "refinement": 2}, 1_730_000),
        ("nafnet-baseline", {"width": 16, "encoders": [2, 2, 2, 4], "middle": 4, "decoders": [2, 2, 2, 2]}, 3_070_000),
        ("plainunet", {"width": 48}, 1_260_000),
    ],
)
def test_the_denoisers_have_the_published_sizes(name: str, config: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        network = resolve(ARCHITECTURES, name, kind="architecture", error=ModelError)(**config)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == (count if count % 10_000 else pytest.approx(count, abs=5000))


def test_the_restormer_has_as_many_tensors_as_the_published_one() -> None:
    with torch.device("meta"):
        network = resolve(ARCHITECTURES, "restormer", kind="architecture", error=ModelError)()
    assert len(network.state_dict()) == 406


# --- 7: random replacement refinement


def test_refinement_puts_back_the_stated_share_and_shows_the_rest_denoised() -> None:
    network, image = Around(), noisy_image(1, 3, 256, 256)
    denoised = ComplementaryMasks(pd=1)(Around(), image)
    ComplementaryMasks(pd=1, refine=3)(network, image)
    runs = [network.shown[i] + network.shown[i + 1] for i in range(2, 8, 2)]  # the branches complement each other
    for composite in runs:
        put_back = (composite == image).all(1)
        assert abs(float(put_back.float().mean()) - 0.16) < 0.007
        assert torch.equal(composite, torch.where(put_back[:, None], image, denoised))
    assert not torch.equal(runs[0], runs[1])


def test_refinement_that_puts_nothing_back_is_the_mean_over_the_denoised_image() -> None:
    image = noisy_image(1, 3, 32, 32)
    denoised = ComplementaryMasks()(Around(), image)
    several = ComplementaryMasks(pd=1, samples=9)
    indices = [several._numbers(whole(image), number, 0) * 2 >> 32 for number in range(1, 9)]
    expected = mean(stitch(Around(), denoised, index[None, None], branches=2) for index in indices)
    assert torch.allclose(ComplementaryMasks(refine=8, share=0.0)(Around(), image), expected, atol=1e-6)


def test_passes_tell_the_cost() -> None:
    network, strategy = Around(), ComplementaryMasks(k=2, pd=2, refine=8)
    strategy(network, noisy_image(1, 3, 16, 24))
    assert len(network.shown) == strategy.passes == 18
    assert [tuple(shown.shape) for shown in network.shown] == 2 * [(4, 3, 8, 12)] + 16 * [(1, 3, 16, 24)]
    assert ComplementaryMasks().passes == 2
    assert ComplementaryMasks(k=3, samples=4).passes == 12
    assert Flips(ComplementaryMasks()).passes == 16


# --- 8: seeds


def test_one_seed_gives_one_image_whatever_else_is_in_the_batch(trained: nn.Module) -> None:
    noisy, strategy = batch_of(waves, -1).noisy, ComplementaryMasks(pd=2, samples=2, refine=2)
    together, again = strategy(trained, noisy), strategy(trained, noisy)
    assert torch.equal(together, again)
    order = [2, 0]
    assert torch.allclose(strategy(trained, noisy[order]), together[order], atol=1e-6)
    assert not torch.allclose(
        ComplementaryMasks(pd=2, samples=2, refine=2, seed=1)(trained, noisy), together, atol=1e-3
    )


def test_seeds_differ_little_and_an_average_of_draws_is_no_worse_than_its_draws(trained: nn.Module) -> None:
    batch = batch_of(partial(waves, side=96), -1)
    answers = [ComplementaryMasks(pd=1, seed=seed)(trained, batch.noisy) for seed in range(8)]
    assert batch.clean is not None
    errors = [float(mse(answer, batch.clean)) for answer in answers]
    assert float(mse(mean(answers), batch.clean)) <= np.mean(errors)
    assert np.ptp(10 * np.log10(errors)) < 0.2
    eight = ComplementaryMasks(pd=1, samples=8)(trained, batch.noisy)
    assert decibels(eight, batch.clean) > decibels(answers[0], batch.clean)


@pytest.mark.parametrize(
    "strategy",
    [ComplementaryMasks(pd=1), ComplementaryMasks(k=3, pd=2, samples=2, refine=2), Flips(ComplementaryMasks(pd=2))],
)
def test_masks_do_not_know_of_tiles(strategy: Any) -> None:
    pixels = noisy_image(90, 131, 3).numpy()
    whole, tiled = (Denoiser(TorchRuntime(Around(4), strategy, device="cpu"), tile=tile)(pixels) for tile in (0, 64))
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_what_is_mirrored_beyond_the_border_is_hidden_with_its_original() -> None:
    network, pixels = Around(16), noisy_image(13, 13, 3).numpy()
    Denoiser(TorchRuntime(network, ComplementaryMasks(pd=1), device="cpu"))(pixels)
    for shown in network.shown:
        assert torch.equal(shown[..., 13, :], shown[..., 11, :])
        assert torch.equal(shown[..., 15], shown[..., 9])


def test_flips_turn_the_masks_with_the_image() -> None:
    class NoiseStatistics(ComplementaryMasks):
        def __call__(self, network: nn.Module, batch: Tensor, place: PixelCoordinates | None = None) -> Tensor:
            assert place is not None
            seen.append((batch[0, 0], place))
            return batch

    seen: list[tuple[Tensor, PixelCoordinates]] = []
    image = (torch.arange(6)[:, None] * 10.0 + torch.arange(4))[None, None]
    assert torch.equal(Flips(NoiseStatistics())(Around(), image), image)
    for turned, place in seen[:4]:
        assert torch.equal(turned, place.rows[:, None] * 10.0 + place.columns)
    for turned, place in seen[4:]:
        assert torch.equal(turned, place.columns * 10.0 + place.rows[:, None])


# --- 9: sizes


@pytest.mark.parametrize("size", [(16, 16), (257, 301), (1, 40), (4000, 16), (16, 3000)])
def test_any_size_keeps_its_shape(size: tuple[int, int]) -> None:
    pixels = (noisy_image(*size, 3).numpy() * 255).astype(np.uint8)
    network = Around(16)
    assert Denoiser(TorchRuntime(network, ComplementaryMasks(refine=1), device="cpu"))(pixels).shape == pixels.shape
    assert {side % 16 for shown in network.shown for side in shown.shape[2:]} == {0}


def test_a_image_that_fits_is_not_padded() -> None:
    network, image = Around(16), noisy_image(64, 32, 3)
    Denoiser(TorchRuntime(network, ComplementaryMasks(pd=2), device="cpu"))(image.numpy())
    assert {tuple(shown.shape) for shown in network.shown} == {(4, 3, 32, 16)}
    assert torch.equal(join(network.shown[0] + network.shown[1], 2), image.permute(2, 0, 1)[None])


# --- 10: smoothness


def test_roughness_is_nothing_on_a_constant_and_the_slope_on_a_ramp() -> None:
    assert float(roughness(torch.full((2, 3, 9, 9), 0.7))) == pytest.approx(1e-4, rel=1e-3)
    ramp = 0.03 * torch.arange(20.0)[:, None] + 0.04 * torch.arange(20.0)
    assert float(roughness(ramp[None, None])) == pytest.approx(0.05, rel=1e-3)


def checkerboard(images: Tensor, stride: int) -> float:
    """Variance of the means of the sub-images."""
    return float(split(images, stride).mean((1, 2, 3)).view(len(images), -1).var(1).mean())


def test_less_roughness_is_less_checkerboard() -> None:
    image = (waves(generator()) + 0.05 * torch.randn(4, 1, 1, 1, generator=generator())).clone()
    image += 0.05 * ((torch.arange(24)[:, None] + torch.arange(24)) % 2)
    image.requires_grad_()
    before = checkerboard(image.detach(), 2)
    optimizer = torch.optim.SGD([image], lr=10.0)
    for _ in range(5):
        optimizer.zero_grad()
        roughness(image).backward()
        optimizer.step()
    assert checkerboard(image.detach(), 2) < 0.5 * before


def test_stage_p_lowers_the_checkerboard_of_the_stitched_answer(trained: nn.Module) -> None:
    network = copy.deepcopy(trained).requires_grad_(True)
    train(network, AMSNet(network, stage="p", pd=2, smoothness=1.0).smooth, waves, 30)
    noisy = batch_of(partial(waves, side=96), -1).noisy
    with torch.no_grad():
        b, p = (checkerboard(ComplementaryMasks(pd=2)(each, noisy), 2) for each in (trained, network))
    assert p < 0.5 * b


def test_stage_p_makes_the_answer_smoother_and_costs_all_branches(trained: nn.Module) -> None:
    answers = {}
    for weight in (0.0, 1.0):
        network = copy.deepcopy(trained).requires_grad_(True)
        train(network, AMSNet(network, stage="p", pd=2, smoothness=weight).smooth, waves, 30)
        answers[weight] = ComplementaryMasks(pd=2)(network, batch_of(waves, -1).noisy).detach()
    assert roughness(answers[1.0]) < 0.9 * roughness(answers[0.0])
    network = Around()
    assert parse(AMSNet(network, branches=3).strategy) == ComplementaryMasks(k=3)
    assert parse(AMSNet(network, pd=4, denoise_pd=3).strategy) == ComplementaryMasks(pd=3)
    assert parse(AMSNet(network, pd=1, denoise_pd=3).strategy) == ComplementaryMasks(pd=1)
    AMSNet(network, stage="p", branches=3, pd=2).updates[0].terms(
        Batch([noisy_image(1, 3, 8, 8)], None, torch.arange(1))
    )
    assert len(network.shown) == 3


# --- 8 and 11: what the zoo has


@pytest.mark.parametrize("name", ["amsnet-real", "amsnet-fast"])
class TestShipped:
    @pytest.fixture
    def photographs(self, name: str) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Noisy and clean crops of PolyU that no model has seen."""
        if name not in catalog.entries():
            pytest.skip(f"'{name}' is not in the catalogue")
        if not SHARED.is_dir():
            pytest.skip("the photographs of PolyU are not here")
        held = json.loads((SHARED.parent / "splits.json").read_text())["holdout"]
        pairs = matched(SHARED, SHARED.parent / "clean")
        chosen = [pair for pair in pairs if pair[0].stem in {Path(each).stem for each in held}][::12]
        files = [(SHARED / noisy, SHARED.parent / "clean" / clean) for noisy, clean in chosen]
        return [(read(noisy).pages[0].pixels, read(clean).pages[0].pixels) for noisy, clean in files]

    def test_photographs_gain_a_decibel(self, name: str, photographs: list[Any]) -> None:
        denoiser = medcli.load(name, device="cpu")
        gains = [level(denoiser(noisy), clean) - level(noisy, clean) for noisy, clean in photographs]
        assert np.mean(gains) > 1.0

    def test_seeds_differ_by_less_than_a_tenth_of_a_decibel(self, name: str, photographs: list[Any]) -> None:
        noisy, clean = photographs[0]
        levels = [level(medcli.load(name, device="cpu", seed=seed)(noisy), clean) for seed in range(2)]
        assert abs(levels[0] - levels[1]) < 0.1


def level(pixels: np.ndarray[Any, Any], clean: np.ndarray[Any, Any]) -> float:
    return psnr(pixels / 255, clean / 255)


# --- the criterion that needs no clean image


def test_the_hidden_pixel_error_shows_how_far_apart_two_networks_are_from_the_truth(trained: nn.Module) -> None:
    worse = small()
    train(worse, AMSNet(worse, pd=1).masked, waves, 15)
    differences, seen = [], []
    for step in range(-8, 0):
        batch = batch_of(waves, step)
        index = drawn(24, 24, 2, batch.generators())
        assert batch.clean is not None
        with torch.no_grad():
            blind = [hidden_pixel_error(network, batch.noisy, index).mean() for network in (worse, trained)]
            true = [mse(stitch(network, batch.noisy, index, branches=2), batch.clean) for network in (worse, trained)]
        differences.append(float(blind[0] - blind[1]))
        seen.append(float(true[0] - true[1]))
    assert np.mean(seen) > 0
    assert np.mean(differences) == pytest.approx(np.mean(seen), rel=0.25)


# --- how far noise is correlated


def noisy_photo(blur: float, level: float = 12.0) -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[0:300, 0:300] / 300
    scene = np.stack([90 + 60 * np.sin(5 * rows + c) + 40 * columns for c in range(3)], -1)
    scene[100:140] += 8 * np.random.default_rng(1).standard_normal((40, 1, 3)).cumsum(0)
    grain = np.random.default_rng(0).standard_normal(scene.shape)
    grain = cv2.GaussianBlur(grain, (0, 0), blur) if blur else grain
    return np.asarray((scene + level * grain / grain.std()).round().clip(1, 254), np.uint8)


@pytest.mark.parametrize(("blur", "stride"), [(0.0, 1), (0.7, 2), (1.0, 3), (1.5, 4)])
def test_the_stride_follows_the_correlation_of_the_noise(blur: float, stride: int) -> None:
    found = noise_correlation([noisy_photo(blur), noisy_photo(blur)[..., 0]])
    assert found.stride() == stride
    assert found.lags[:, 0] == pytest.approx(1)
    if not blur:
        assert found.sigma == pytest.approx(12, rel=0.1)


def test_every_depth_measures_alike() -> None:
    eight = noisy_photo(1.0)
    lags = [noise_correlation([p]).lags for p in (eight, eight.astype(np.uint16) * 257, (eight / 255).astype("f4"))]
    np.testing.assert_allclose(lags[0], lags[1], atol=1e-5)
    np.testing.assert_allclose(lags[0], lags[2], atol=1e-5)


@pytest.mark.parametrize("image", [np.full((80, 80, 3), 90, np.uint8), np.zeros((300, 300), np.uint8)])
def test_images_without_noise_are_errors(image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InputError, match="flat part") as caught:
        noise_correlation([image])
    assert "--pd" in caught.value.hint


def test_photographs_of_cameras_need_a_stride_of_three_or_four() -> None:
    paths = sorted(SHARED.glob("*"))[:8]
    if not paths:
        pytest.skip("the photographs of PolyU are not here")
    assert noise_correlation(read(path).pages[0].pixels for path in paths).stride() in (3, 4)


# --- notation and letters


@pytest.mark.parametrize(
    ("notation", "strategy"),
    [
        ("masks", ComplementaryMasks()),
        ("masks:k=3,pd=1", ComplementaryMasks(k=3, pd=1)),
        ("masks:fill=mean", ComplementaryMasks(fill="mean")),
        (
            "masks: pd=4, refine=8, share=0.2, samples=2, seed=7",
            ComplementaryMasks(pd=4, refine=8, share=0.2, samples=2, seed=7),
        ),
    ],
)
def test_notation_becomes_a_strategy(notation: str, strategy: ComplementaryMasks) -> None:
    assert parse(notation) == strategy


def test_plain_strategies_have_no_arguments() -> None:
    assert isinstance(parse("plain"), Plain)
    assert isinstance(parse("flips"), Flips)
    with pytest.raises(ModelError, match="inner"):
        parse("flips:inner=3")


@pytest.mark.parametrize(
    "notation",
    ["mask", "masks:j=2", "masks:k=two", "masks:k=1", "masks:pd=0", "masks:share=nan", "masks:k", "", ":k=2"],
)
def test_notation_that_makes_no_sense_is_an_error(notation: str) -> None:
    with pytest.raises(ModelError):
        parse(notation)


@given(k=st.integers(2, 5), pd=st.integers(1, 5), refine=st.integers(0, 2), fill=st.sampled_from(["zero", "mean"]))
def test_an_engine_with_masks_asks_for_room_for_its_sub_images(k: int, pd: int, refine: int, fill: str) -> None:
    strategy = ComplementaryMasks(k=k, pd=pd, refine=refine, fill=fill)
    denoiser = Denoiser(TorchRuntime(Around(4), strategy, device="cpu"))
    assert denoiser.multiple == 4 * pd
    assert denoiser.context_radius == (4 if fill == "mean" else 2) * (pd + (refine > 0))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"stage": "c"}, "stage"),
        ({"branches": 1}, "branches"),
        ({"fill": "noise"}, "fill"),
        ({"pd": 0}, "pd"),
        ({"smoothness": -1.0}, "smoothness"),
        ({"smoothness": float("nan")}, "smoothness"),
    ],
)
def test_options_that_make_no_sense_are_errors(options: dict[str, Any], word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        AMSNet(Around(), **options)
    assert word in str(caught.value)


def test_a_patch_too_small_for_its_sub_images_is_an_error() -> None:
    method = AMSNet(Around(16), pd=5)
    with pytest.raises(RecipeError, match="64 pixels") as caught:
        method.masked(Batch([noisy_image(1, 3, 64, 64)], None, torch.arange(1)))
    assert "--patch 160" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "strategy"),
    [({}, ComplementaryMasks()), ({"pd": 1, "fill": "mean"}, ComplementaryMasks(pd=1, fill="mean"))],
)
def test_the_method_says_how_its_model_is_applied(options: dict[str, Any], strategy: ComplementaryMasks) -> None:
    assert parse(AMSNet(Around(), **options).strategy) == strategy
