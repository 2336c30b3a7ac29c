"""What a faithful NVT must show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.archs.self2self import SLOPE, Self2SelfNetwork
from medcli.data.cache import open_cache
from medcli.data.crops import CropSampler, SyntheticPairs, mixed, stacked
from medcli.engine.bernoulli import Bernoulli
from medcli.errors import RecipeError
from medcli.images import read
from medcli.losses import bce, mse
from medcli.methods.base import Batch, MethodSettings, Patches
from medcli.methods.mutual_information import ImageDependence, PairClassifier, jensen_shannon, shuffled
from medcli.methods.nvt import NVT, NoiseBranch, distance_of_directions
from medcli.methods.self2self import Self2Self
from medcli.noise.gaussian import Gaussian
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Trainer
from medcli.train.recipe import Recipe
from medcli.zoo.model import find_model

CBSD68 = Path(__file__).parents[3] / "shared" / "data" / "test" / "cbsd68"
CPU = Hardware(torch.device("cpu"), torch.float32, workers=0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(*, pyramid: bool = False) -> Self2SelfNetwork:
    return Self2SelfNetwork(width=8, pyramid=pyramid)


def batch_of(count: int = 2, side: int = 32) -> Batch:
    clean = torch.rand(count, 3, side, side)
    views = [(clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1) for _ in range(2)]
    return Batch(views, clean, torch.arange(count))


class TestNoiseBranch:
    def test_equals_a_decoder_of_concatenated_features(self) -> None:
        """The decoder of the thesis has inputs of both encoders; the one that is kept has lost those of the noise."""
        network = tiny()
        branch = NoiseBranch(network)
        content, noise = network.encode(torch.rand(2, 3, 64, 64)), branch(torch.rand(2, 3, 64, 64))
        expected = self._concatenated(network, branch, content, noise)
        joined = network.restored(network.decode(content, branch.beside(noise)))
        assert (joined - expected).abs().max() < 1e-6
        silent = [torch.zeros_like(each) for each in noise]
        pruned = network.restored(network.decode(content))
        assert (pruned - self._concatenated(network, branch, content, silent)).abs().max() < 1e-6
        assert (pruned - joined).abs().max() > 1e-4

    @staticmethod
    def _concatenated(
        network: Self2SelfNetwork, branch: NoiseBranch, content: Sequence[Tensor], noise: Sequence[Tensor]
    ) -> Tensor:
        skips, theirs = list(content), list(noise)
        features, other = skips.pop(), F.interpolate(theirs.pop(), scale_factor=2.0)
        blocks: Any = network.decoder
        for level, (first, second) in enumerate(blocks):
            parts, weights = [F.interpolate(features, scale_factor=2.0), skips.pop()], [first.weight]
            if theirs:
                parts += [other, theirs.pop()] if level == 0 else [theirs.pop()]
                weights.append(branch.joins[level].weight)
            joined = F.conv2d(torch.cat(parts, 1), torch.cat(weights, 1), first.bias, padding=1)
            features = F.leaky_relu(second(F.leaky_relu(joined, SLOPE)), SLOPE)
        return torch.sigmoid(network.output(features))

    def test_the_raw_image_reaches_the_decoder_from_the_content_only(self) -> None:
        branch = NoiseBranch(tiny())
        assert [tuple(each.shape[1:]) for each in branch(torch.rand(1, 3, 64, 64))] == [
            (8, 32, 32), (8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2)
        ]  # fmt: skip


class TestTerms:
    def test_names_follow_the_switches(self) -> None:
        batch = batch_of()
        assert set(NVT(tiny(), nrl=False).terms(batch)) == {"clean"}
        assert set(NVT(tiny(), mutual=0.0).terms(batch)) == {"clean", "noisy", "alike"}
        assert set(NVT(tiny()).terms(batch)) == {"clean", "noisy", "alike", "mutual", "fool"}
        pyramid = NVT(tiny(pyramid=True), pyramid=True, mutual=0.0)
        assert set(pyramid.terms(batch)) == {"clean", "noisy", "alike", "pyramid"}

    def test_needs_follow_the_switches(self) -> None:
        assert (NVT(tiny()).needs.views, NVT(tiny(), nrl=False).needs.views) == (2, 1)
        assert [NVT(tiny(), mixup=share).needs.mixup for share in (0.0, 0.3)] == [0.0, 0.3]

    def test_the_crossed_view_is_made_of_the_other_content_and_its_own_noise(self) -> None:
        method = NVT(tiny(), loss="mse", mutual=0.0)
        assert method.noise_branch is not None
        batch = batch_of()
        first, second = batch.views
        network, branch = method.model, method.noise_branch
        errors = [
            mse(network.restored(network.decode(network.encode(content), branch.beside(branch(noise)))), noise)
            for content, noise in ((second, first), (first, second))
        ]
        assert method.terms(batch)["noisy"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)

    @pytest.mark.parametrize("detach", [True, False])
    def test_the_crossed_loss_reaches_the_content_encoder_only_without_detach(self, detach: bool) -> None:
        method = NVT(tiny(), detach=detach)
        method.terms(batch_of())["noisy"].backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in method.model.encoder.parameters()]
        assert any(reached) is not detach
        assert method.noise_branch is not None
        assert all(p.grad is not None for p in method.noise_branch.parameters())

    def test_distance_of_equal_orthogonal_and_opposite_features(self) -> None:
        feature = torch.rand(2, 4, 3, 3) + 0.1
        half = torch.ones(4)
        half[:2] = 0
        one, other = feature * half[:, None, None], feature * (1 - half)[:, None, None]
        pairs = ((feature, 3 * feature), (one, other), (feature, -feature))
        assert [distance_of_directions(*pair).item() for pair in pairs] == pytest.approx([0, 2, 4], abs=1e-5)

    def test_levels_of_the_pyramid_weigh_as_many_pixels_as_they_have(self) -> None:
        method = NVT(tiny(pyramid=True), loss="l1", pyramid=True)
        clean = torch.full((1, 3, 32, 32), 0.5)
        for level in range(1, 5):
            coarse = [torch.full((1, 3, 32 >> k, 32 >> k), 0.5 + 0.1 * (k == level)) for k in range(1, 5)]
            assert method._pyramid(coarse, clean).item() == pytest.approx(0.1 / 4**level, rel=1e-4)

    def test_masked_samples(self) -> None:
        method, batch = NVT(tiny(), hidden=0.5), batch_of(40)
        visible = method._visible(torch.cat(list(batch.views)), batch)
        assert visible is not None
        masked = visible.mean((1, 2, 3)) < 1
        joint = (visible[:, 0] == visible[:, 1]).all(1).all(1) & masked
        assert 0.3 < masked.float().mean() < 0.7
        assert 0.25 < (joint.sum() / masked.sum()) < 0.75
        assert visible[masked].mean().item() == pytest.approx(0.7, abs=0.02)
        assert NVT(tiny())._visible(batch.noisy, batch) is None

    @pytest.mark.parametrize(("options", "words"), [({"mixup": 2.0}, "mixup"), ({"alike": -1.0}, "alike")])
    def test_options_out_of_range(self, options: dict[str, float], words: str) -> None:
        with pytest.raises(RecipeError, match=words):
            NVT(tiny(), **options)

    def test_other_networks_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="takes masks"):
            NVT(nn.Identity())

    def test_the_networks_part_of_the_pyramid_follows_the_option(self) -> None:
        (inject,) = NVT.auto_options
        found = [
            inject(MethodSettings({"pyramid": wanted}, {}, None), lambda: Patches([], [])) for wanted in (True, False)
        ]
        assert found[0] is not None
        assert found[0].config == {"pyramid": True}
        assert found[1] is None


class TestMutualInformation:
    """Of Gaussian pairs with correlation rho the estimate is known by integration: -0.80 for 0.95 (-1.386 for 0)."""

    @staticmethod
    def _estimated(correlation: float) -> float:
        torch.manual_seed(0)
        network = PairClassifier(2)
        optimizer = torch.optim.Adam(network.parameters(), 4e-3)
        for _ in range(80):
            pairs = TestMutualInformation._pairs(correlation, 128)
            optimizer.zero_grad()
            (-TestMutualInformation._value(network, pairs)).backward()
            optimizer.step()
        with torch.no_grad():
            return TestMutualInformation._value(network, TestMutualInformation._pairs(correlation, 20_000)).item()

    @staticmethod
    def _pairs(correlation: float, count: int) -> Tensor:
        first, other = torch.randn(2, count, 1)
        return torch.cat((first, correlation * first + (1 - correlation**2) ** 0.5 * other), 1)

    @staticmethod
    def _value(network: nn.Module, pairs: Tensor) -> Tensor:
        others = torch.cat((pairs[:, :1], shuffled(pairs[:, 1:])), 1)
        return jensen_shannon(network(pairs), network(others))

    def test_no_statistic_means_no_dependence(self) -> None:
        assert jensen_shannon(torch.zeros(5), torch.zeros(5)).item() == pytest.approx(-2 * np.log(2))
        assert jensen_shannon(torch.full((5,), 50.0), torch.full((5,), -50.0)).item() == pytest.approx(0, abs=1e-6)

    def test_rises_for_dependent_pairs_only(self) -> None:
        assert -1.0 < self._estimated(0.95) < -0.75
        assert self._estimated(0.0) == pytest.approx(-2 * np.log(2), abs=0.05)

    def test_no_sample_keeps_its_own_code(self) -> None:
        codes = torch.arange(5.0)
        assert not (shuffled(codes) == codes).any()
        with pytest.raises(ValueError, match="one sample"):
            shuffled(codes[:1])

    def test_images_and_their_means_are_told_from_others(self) -> None:
        dependence = ImageDependence(3, 3)
        optimizer = torch.optim.Adam(dependence.parameters(), 1e-3)
        for _ in range(60):
            images = torch.rand(32, 3, 1, 1).expand(-1, -1, 16, 16)
            optimizer.zero_grad()
            estimate = dependence(images, images.mean((2, 3)))
            (-estimate).backward()
            optimizer.step()
        assert estimate.item() > -1.5 * 1.2  # -1.5 * 1.386 at the start

    def test_adversary_and_encoders_move_disjoint_parameters(self, image_folder: Path, tmp_path: Path) -> None:
        images = open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=32)
        source = SyntheticPairs(images, Gaussian(25, 25), CropSampler(32), 0, views=2)
        method = NVT(tiny())
        trainer = Trainer(method, Recipe(id="x", title="", steps=1, patch=32, batch=2), CPU, tmp_path, lambda _: None)
        batch = CPU.batch(stacked(source, 0, range(2)))
        others = {"denoiser", "noise", "dependence"}
        for title, moving in (("adversary", {"adversary"}), ("denoiser", others)):
            before = {name: [p.detach().clone() for p in net.parameters()] for name, net in method.networks.items()}
            trainer._make(trainer.updates[title], batch, 0.01)
            after = method.networks.items()
            assert moving == {
                name
                for name, net in after
                if any(not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True))
            }
        adam = trainer.updates["adversary"].optimizer.param_groups[0]
        assert (type(trainer.updates["adversary"].optimizer).__name__, adam["betas"]) == ("Adam", (0.5, 0.999))

    def test_one_image_is_too_few(self) -> None:
        with pytest.raises(RecipeError, match="several images"):
            NVT(tiny()).tell_apart(batch_of(1))


class TestLoss:
    def test_is_zero_for_equal_images_and_finite_at_the_ends(self) -> None:
        target = torch.tensor([0.0, 0.3, 1.0])
        assert bce(target, target).item() == pytest.approx(0, abs=1e-6)
        ends = torch.tensor([1.0, 0.3, 0.0], requires_grad=True)
        bce(ends, target).backward()
        assert ends.grad is not None
        assert ends.grad.isfinite().all()

    def test_is_minimal_at_the_mean_of_the_targets(self) -> None:
        targets = torch.rand(1000) ** 2
        losses = [bce(torch.full_like(targets, p.item()), targets) for p in torch.linspace(0.01, 0.99, 99)]
        assert (int(torch.stack(losses).argmin()) + 1) / 100 == pytest.approx(targets.mean().item(), abs=0.006)


class TestMixup:
    def test_weights_follow_the_arcsine_distribution(self) -> None:
        generator = torch.Generator().manual_seed(0)
        zero, one = torch.zeros(1), torch.ones(1)
        shares = torch.stack([mixed(zero, one, generator) for _ in range(4000)])
        assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
        assert shares.var().item() == pytest.approx(1 / 8, abs=0.01)  # of Beta(0.5, 0.5)
        assert (shares < 0.1).float().mean().item() == pytest.approx(0.2048, abs=0.03)  # 2 asin(sqrt(0.1)) / pi

    def test_comes_before_the_noise_and_not_in_validation(self, image_folder: Path, tmp_path: Path) -> None:
        images = open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=16)
        source = SyntheticPairs(images, Gaussian(25, 25), CropSampler(16), 0, views=2, mixup=1.0)
        (first, second), clean, _ = stacked(source, 0, range(16))
        assert clean is not None
        assert (first - clean).std().item() * 255 == pytest.approx(25, rel=0.05)
        assert (second - clean).std().item() * 255 == pytest.approx(25, rel=0.05)
        unmixed = stacked(replace(source, mixup=0.0).for_validation(), 0, range(16))[1]
        assert unmixed is not None
        assert not torch.equal(unmixed, clean)
        judged = stacked(source.for_validation(), 0, range(16))[1]
        assert judged is not None
        assert torch.equal(judged, unmixed)


@pytest.mark.skipif(not CBSD68.is_dir(), reason="the images of CBSD68 are not here")
def test_area_down_and_bilinear_up_removes_most_noise() -> None:
    """Table 3 (sigma 50, 8 bits): down by a factor of 2, up again, PSNR over CBSD68."""
    kinds = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "lanczos4": cv2.INTER_LANCZOS4}
    table = {("area", "bilinear"): 22.58, ("area", "area"): 21.67, ("bilinear", "bilinear"): 20.38,
             ("lanczos4", "bilinear"): 18.70}  # fmt: skip
    random, found = np.random.default_rng(0), {pair: list[float]() for pair in table}
    for path in sorted(CBSD68.iterdir()):
        clean = read(path).pages[0].pixels
        noisy = (clean + 50 * random.standard_normal(clean.shape)).round().clip(0, 255).astype(np.uint8)
        height, width = clean.shape[:2]
        for down, up in table:
            small = cv2.resize(noisy, (width // 2, height // 2), interpolation=kinds[down])
            again = cv2.resize(small, (width, height), interpolation=kinds[up])
            found[down, up].append(10 * np.log10(255**2 / np.square(again.astype(np.float64) - clean).mean()))
    assert {pair: np.mean(scores) for pair, scores in found.items()} == pytest.approx(table, abs=0.05)


def test_the_average_follows_the_weights(image_folder: Path, tmp_path: Path) -> None:
    """bar <- tau bar + (1 - tau) online, where the loop's tau is the recipe's, and smaller at first."""
    images = open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=32)
    method = NVT(tiny())
    source = SyntheticPairs(images, Gaussian(25, 25), CropSampler(32), 0, views=2)
    recipe = Recipe(id="x", title="", steps=1, patch=32, batch=2, warmup=1)
    trainer = Trainer(method, recipe, CPU, tmp_path, lambda _: None)
    old = [p.detach().clone() for p in trainer.average.parameters()]
    trainer.run(source, Limits())
    tau = min(recipe.ema, 1 / 10)
    for before, average, online in zip(old, trainer.average.parameters(), method.model.parameters(), strict=True):
        assert torch.allclose(average, tau * before + (1 - tau) * online, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(old, method.model.parameters(), strict=True))
    assert np.isfinite([p.detach().abs().max().item() for p in method.networks["noise"].parameters()]).all()


class TestShippedModel:
    """On the included weights `nvt`."""

    @staticmethod
    def _crops(count: int, side: int) -> list[Tensor]:
        """(1, 3, side, side) of CBSD68, in [0, 1]."""
        paths = sorted(CBSD68.iterdir())
        crops = []
        for path in paths[:: len(paths) // count][:count]:
            pixels = torch.from_numpy(read(path).pages[0].pixels).permute(2, 0, 1)[None] / 255
            top, left = ((length - side) // 2 for length in pixels.shape[2:])
            crops.append(pixels[..., top : top + side, left : left + side])
        return crops

    @staticmethod
    def _noisy(clean: Tensor, sigma: float, seed: int) -> Tensor:
        return clean + sigma / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))

    @pytest.mark.skipif(not CBSD68.is_dir(), reason="the images of CBSD68 are not here")
    @pytest.mark.parametrize(("sigma", "least"), [(25, 27.97), (50, 25.36), (75, 23.90)])
    def test_is_near_the_table_of_the_thesis(self, sigma: float, least: float) -> None:
        """Table 7, levels and kinds of noise vary: within half a decibel, here on the middles of eight images."""
        network = find_model("nvt").network().eval()
        scores = []
        for seed, clean in enumerate(self._crops(8, 160)):
            with torch.inference_mode():
                restored = network(self._noisy(clean, sigma, seed)).clamp(0, 1)
            scores.append(-10 * torch.log10((restored - clean).square().mean()).item())
        assert np.mean(scores) > least - 0.5

    @pytest.mark.skipif(not CBSD68.is_dir(), reason="the images of CBSD68 are not here")
    def test_is_a_better_start_for_self2self_than_chance(self) -> None:
        (clean,) = self._crops(1, 64)
        noisy, scores = self._noisy(clean, 50, 0), []
        for network in (find_model("nvt").network(), Self2SelfNetwork()):
            method = Self2Self(network.train(), dropout=0.0)
            optimizer = torch.optim.Adam(network.parameters(), 1e-4)
            for step in range(6):
                optimizer.zero_grad()
                method.terms(Batch([noisy], None, torch.tensor([step])))["mse"].backward()
                optimizer.step()
            with torch.inference_mode():
                restored = Bernoulli(4, dropout=0.0)(network.eval(), noisy)
            scores.append(-10 * torch.log10((restored - clean).square().mean()).item())
        assert scores[0] > scores[1] + 2
