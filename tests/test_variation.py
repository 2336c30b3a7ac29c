"""Claims about training samples beyond their noise: monochrome noise, small contrast, patterns, film grain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medcli.data.cache import open_cache
from medcli.data.crops import CropSampler, SyntheticPairs, stacked
from medcli.data.patterns import PATTERNS, checkerboard, dither, pattern
from medcli.data.structures import STRUCTURES, structures
from medcli.data.variation import Variation
from medcli.errors import RecipeError
from medcli.methods.base import Needs
from medcli.noise.camera import Camera
from medcli.noise.gaussian import Gaussian
from medcli.noise.grain import Grain
from medcli.train.recipe import Recipe
from medcli.train.sources import _variation

NOISE = Gaussian(25, 25)
DRAWS = 200


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colours() -> torch.Tensor:
    return torch.rand(3, 32, 32, generator=seeded())


@pytest.mark.parametrize("noise", [NOISE, Camera()], ids=str)
def test_a_monochrome_sample_has_equal_channels_in_both_images(noise: Gaussian | Camera) -> None:
    clean, (noisy,) = Variation(gray=1).views(colours(), noise, seeded(), 1)
    for image in (clean, noisy):
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])
    assert not torch.equal(clean, noisy)


def test_common_noise_is_correlated_between_channels_and_keeps_its_strength() -> None:
    correlations = []
    for seed in range(20):
        clean, (noisy,) = Variation(common=1).views(torch.full((3, 64, 64), 0.5), NOISE, seeded(seed), 1)
        noise = (noisy - clean).flatten(1)
        correlations.append(torch.corrcoef(noise)[0, 1].item())
        assert noise.std().item() * 255 == pytest.approx(25, rel=0.5)
    assert max(correlations) > 0.7
    assert min(correlations) < 0.4


def test_a_small_contrast_stays_in_range_and_keeps_the_noise() -> None:
    spans = []
    for seed in range(60):
        clean, (noisy,) = Variation(contrast=1).views(colours(), NOISE, seeded(seed), 1)
        assert 0 <= clean.min() <= clean.max() <= 1
        assert (noisy - clean).std().item() * 255 == pytest.approx(25, rel=0.15)
        spans.append((clean.max() - clean.min()).item())
    assert min(spans) < 0.25
    assert max(spans) > 0.7


def test_some_patterns_stay_clean() -> None:
    drawn = [Variation(patterns=1).views(colours(), NOISE, seeded(seed), 1) for seed in range(50)]
    untouched = sum(torch.equal(clean, noisy) for clean, (noisy,) in drawn)
    assert 10 <= untouched <= 30


def test_shares_are_shares() -> None:
    variation = Variation(gray=0.3, patterns=0.2)
    drawn = [variation.views(colours(), NOISE, seeded(seed), 1) for seed in range(DRAWS)]
    gray = sum(torch.equal(noisy[0], noisy[1]) for _, (noisy,) in drawn) / DRAWS
    assert 0.25 < gray < 0.5  # patterns are often gray by themselves


def test_a_seed_means_one_sample() -> None:
    variation = Variation(0.3, 0.3, 0.5, 0.5)
    for seed in range(20):
        (clean, (noisy,)), (again, (noisy_again,)) = (variation.views(colours(), NOISE, seeded(seed), 1) for _ in "ab")
        assert torch.equal(clean, again)
        assert torch.equal(noisy, noisy_again)


def test_views_show_one_scene_with_noise_of_their_own() -> None:
    for seed in range(20):
        clean, views = Variation(gray=0.5, contrast=0.5).views(colours(), NOISE, seeded(seed), 2)
        first, second = (view - clean for view in views)
        correlation = torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]
        assert abs(correlation) < 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_patterns_are_in_range_and_differ(channels: int) -> None:
    drawn = [pattern(channels, 48, seeded(seed)) for seed in range(60)]
    for each in drawn:
        assert each.shape == (channels, 48, 48)
        assert each.dtype == torch.float32
        assert 0 <= each.min() <= each.max() <= 1
    assert len({each.numpy().tobytes() for each in drawn}) > 40


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
def test_every_pattern_fits_any_side(kind: type) -> None:
    for side in (16, 33, 128):
        assert kind(side, seeded(side)).shape == (side, side)


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda kind: kind.__name__)
def test_every_structure_fits_any_side_and_has_no_negative_light(kind: type) -> None:
    for side in (16, 33, 128):
        drawn = kind(side, seeded(side))
        assert drawn.shape == (side, side)
        assert drawn.dtype == "float32"
        assert drawn.min() > -0.2  # cubic interpolation may go below 0 by a little
        assert drawn.max() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_specimens_are_in_range_and_differ(channels: int) -> None:
    drawn = [structures(channels, 48, seeded(seed)) for seed in range(40)]
    for each in drawn:
        assert each.shape == (channels, 48, 48)
        assert torch.equal(each[0], each[-1])
        assert 0 <= each.min() <= each.max() <= 1
    assert len({each.numpy().tobytes() for each in drawn}) == 40
    assert torch.stack(drawn).median() < 0.4  # more dark than light, as in fluorescence


def test_specimens_replace_the_image() -> None:
    clean, _ = Variation(structures=1).views(colours(), NOISE, seeded(), 1)
    assert torch.equal(clean[0], clean[1])
    assert not torch.equal(clean, colours())


def test_an_exposure_darkens_and_stays_in_range() -> None:
    means = []
    for seed in range(60):
        clean, _ = Variation(exposure=1).views(colours(), NOISE, seeded(seed), 1)
        assert 0 <= clean.min() <= clean.max() <= 1
        means.append(clean.mean().item())
    assert min(means) < 0.1
    assert max(means) > 0.35


def test_a_checkerboard_and_a_dither_have_two_values() -> None:
    for kind in (checkerboard, dither):
        assert set(kind(32, seeded()).ravel().tolist()) <= {0.0, 1.0}


class TestGrain:
    @pytest.mark.parametrize("size", [0.0, 0.5, 1.5])
    def test_strength_does_not_depend_on_size(self, size: float) -> None:
        gray = torch.full((3, 128, 128), 0.5)
        noise = Grain(20, 20, size=(size, size), midtones=(0, 0))(gray, seeded()) - gray
        assert noise.std().item() * 255 == pytest.approx(20, rel=0.05)

    def test_neighbours_share_coarse_grain(self) -> None:
        gray = torch.full((1, 128, 128), 0.5)
        noise = Grain(20, 20, size=(1.5, 1.5), midtones=(0, 0))(gray, seeded())[0] - 0.5
        pair = torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.7

    def test_black_and_white_may_have_none(self) -> None:
        grain = Grain(20, 20, midtones=(1, 1))
        for value in (0.0, 1.0):
            ends = torch.full((3, 16, 16), value)
            assert torch.equal(grain(ends, seeded()), ends)


def test_more_jpeg_generations_make_another_image() -> None:
    once, twice = Camera(jpeg_share=1.0, quality=(50, 60)), Camera(jpeg_share=1.0, quality=(50, 60), again_share=1.0)
    assert not torch.equal(once(colours(), seeded()), twice(colours(), seeded()))


RECIPE = Recipe("x", "x", 1, noises={"gaussian:25": 1})


@pytest.mark.parametrize(
    ("variation", "words"),
    [({"grey": 0.1}, "no variation 'grey'"), ({"gray": 2}, "cannot be 2"), ({"gray": True}, "cannot be True")],
)
def test_what_is_no_share_is_an_error(variation: dict[str, float], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        _variation(replace(RECIPE, variation=variation), Needs(clean="paired"))


def test_methods_without_clean_targets_take_no_variation() -> None:
    recipe = replace(RECIPE, variation={"gray": 0.1})
    assert _variation(recipe, Needs(clean="paired")) == Variation(gray=0.1)
    assert _variation(recipe, Needs(clean="unpaired")) == Variation(gray=0.1)
    assert _variation(RECIPE, Needs(views=2)) is None
    with pytest.raises(RecipeError, match="takes no variations"):
        _variation(recipe, Needs(views=2))


def test_unpaired_clean_images_are_varied_too(image_folder: Path, tmp_path: Path) -> None:
    images = open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=16)
    source = SyntheticPairs(images, NOISE, CropSampler(16), 0, clean="unpaired", variation=Variation(gray=1.0))
    noisy, clean, _ = stacked(source, 0, range(4))
    for patches in (noisy[0], clean):
        assert torch.equal(patches, patches[:, :1].expand_as(patches))
