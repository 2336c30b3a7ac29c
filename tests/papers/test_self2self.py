"""What a faithful Self2Self must show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcli
from medcli.archs.self2self import SLOPE, Self2SelfNetwork, reduced
from medcli.engine.bernoulli import Bernoulli
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.strategies import parse, whole
from medcli.errors import ModelError, RecipeError
from medcli.methods.base import Batch
from medcli.methods.self2self import Self2Self, bernoulli, hidden_pyramid_error
from medcli.train.muon import Muon
from medcli.zoo import weights


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(*, pyramid: bool = False) -> Self2SelfNetwork:
    """A small network whose parameters are all off the zero where some start."""
    network = Self2SelfNetwork(width=8, pyramid=pyramid).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def batch_of(noisy: Tensor) -> Batch:
    return Batch([noisy], None, torch.arange(len(noisy)))


def masks(shape: tuple[int, ...], keep: float = 0.7) -> Tensor:
    return (torch.rand(shape) < keep).float()


class TestNetwork:
    def test_sizes(self) -> None:
        assert sum(p.numel() for p in Self2SelfNetwork().parameters()) == 991_203
        assert sum(p.numel() for p in Self2SelfNetwork(pyramid=True).parameters()) == 991_203 + 4 * (48 * 27 + 48)
        assert [tuple(part.shape[1:]) for part in tiny().encode(torch.rand(1, 3, 64, 96))] == [
            (3, 64, 96), (8, 32, 48), (8, 16, 24), (8, 8, 12), (8, 4, 6), (8, 2, 3)
        ]  # fmt: skip

    @pytest.mark.parametrize("pyramid", [False, True])
    def test_plain_convolutions_equal_partial_ones_where_all_is_visible(self, pyramid: bool) -> None:
        network, noisy = tiny(pyramid=pyramid), torch.rand(2, 3, 64, 32)
        assert (network(noisy) - network(noisy, torch.ones_like(noisy))).abs().max() < 1e-5

    def test_a_partial_convolution_is_the_mean_over_what_is_visible(self) -> None:
        """Against equation 1 of Liu et al., at a pixel away from the border and one of which nothing is visible."""
        network, noisy = tiny(), torch.rand(1, 3, 32, 32)
        visible = masks(noisy.shape, 0.5)
        visible[..., 20:23, 20:23] = 0
        features, seen = network._partial(0, noisy * visible, visible)
        window = np.s_[0, :, 4:7, 9:12]
        weight, bias = network.encoder[0].weight, network.encoder[0].bias
        total = (weight * (noisy * visible)[window]).sum((1, 2, 3)) * 27 / visible[window].sum() + bias
        assert torch.allclose(features[0, :, 5, 10], F.leaky_relu(total, SLOPE), atol=1e-5)
        assert seen is not None
        assert not features[..., 21, 21].any()
        assert not seen[..., 21, 21].any()
        assert seen.mean() > 0.99

    @pytest.mark.parametrize("pyramid", [False, True])
    def test_blind_spot(self, pyramid: bool) -> None:
        """Outputs do not depend on hidden elements, injected reduced images included."""
        network = tiny(pyramid=pyramid)
        noisy = torch.rand(1, 3, 64, 64, requires_grad=True)
        visible = masks(noisy.shape)
        generator = torch.Generator()

        def thin(features: Tensor, layer: int) -> Tensor:
            return features * (torch.rand(features.shape, generator=generator.manual_seed(layer)) < 0.7)

        restored = network(noisy, visible, thin)
        (restored * (1 - visible)).square().sum().backward()
        assert noisy.grad is not None
        assert not (noisy.grad * (1 - visible)).any()
        assert (noisy.grad * visible).any()

    def test_reduced_images_are_means_of_what_is_visible(self) -> None:
        noisy = torch.rand(1, 3, 32, 32)
        visible = masks(noisy.shape, 0.4)
        small, share = reduced(noisy, visible)
        again, _ = reduced(small, share)
        assert share is not None
        block, shown = noisy[0, 1, 4:8, 8:12], visible[0, 1, 4:8, 8:12]
        assert again[0, 1, 1, 2] == pytest.approx(((block * shown).sum() / shown.sum()).item(), abs=1e-6)
        assert torch.equal(small == 0, share == 0)


class TestTraining:
    def test_only_hidden_elements_count(self) -> None:
        """The loss is their mean squared error: it does not change with visible targets."""
        method = Self2Self(tiny(), dropout=0.0)
        batch = batch_of(torch.rand(2, 3, 32, 32))
        visible = bernoulli(batch.noisy, 0.7, batch.generators())
        restored = method.model(batch.noisy, visible)
        expected = ((1 - visible) * (restored - batch.noisy).square()).sum() / (1 - visible).sum()
        assert method.terms(batch)["mse"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_masks_follow_the_keys_and_the_share(self) -> None:
        like = torch.zeros(2, 3, 128, 128)
        batch = batch_of(like)
        drawn = bernoulli(like, 0.7, batch.generators())
        assert torch.equal(drawn, bernoulli(like, 0.7, batch.generators()))
        assert drawn.mean().item() == pytest.approx(0.7, abs=0.01)
        assert not torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[:, 0], drawn[:, 1])

    def test_the_pyramid_is_measured_at_hidden_elements(self) -> None:
        noisy = torch.rand(1, 3, 32, 32)
        hidden = 1 - masks(noisy.shape)
        coarse, target, share = [], noisy, hidden
        for _ in range(4):
            target, part = reduced(target, share)
            assert part is not None
            share = part
            coarse.append(target)
        visible_changed = torch.where(hidden > 0, noisy, torch.rand_like(noisy))
        assert hidden_pyramid_error(coarse, visible_changed, hidden).item() == pytest.approx(0, abs=1e-12)
        off = [image + 0.1 for image in coarse]
        weights = sum(4.0**-level for level in (1, 2, 3, 4))
        assert hidden_pyramid_error(off, noisy, hidden).item() == pytest.approx(0.01 * weights, rel=1e-4)

    def test_learns_one_noisy_image(self) -> None:
        """Its clean image is never seen."""
        rows = torch.linspace(0, 1, 32)[:, None].expand(32, 32)
        clean = torch.stack((rows, rows.T, 1 - rows))[None]
        noisy = clean + 0.2 * torch.randn(clean.shape)
        network = Self2SelfNetwork(width=8)
        method = Self2Self(network, dropout=0.05, pyramid=True)
        optimizer = Muon([p for each in method.networks.values() for p in each.parameters()], 0.05)
        for step in range(40):
            optimizer.zero_grad()
            terms = method.terms(Batch([noisy], None, torch.tensor([step])))
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
        with torch.inference_mode():
            restored = Bernoulli(passes=8, dropout=0.05)(network.eval(), noisy)
        assert (restored - clean).square().mean() < 0.5 * (noisy - clean).square().mean()

    @pytest.mark.parametrize(
        ("options", "words"), [({"keep": 1.0}, "keep"), ({"dropout": 1.0}, "dropout"), ({"passes": 0}, "passes")]
    )
    def test_options_out_of_range(self, options: dict[str, float], words: str) -> None:
        with pytest.raises(RecipeError, match=words):
            Self2Self(tiny(), **options)

    def test_other_networks_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="takes masks"):
            Self2Self(nn.Identity())


class TestStrategy:
    def test_the_notation_of_the_method(self) -> None:
        strategy = parse(Self2Self(tiny(), keep=0.6, dropout=0.2, passes=9, joint=True).strategy)
        assert strategy == Bernoulli(9, 0.6, 0.2, 1)

    def test_random_numbers_have_their_share_and_no_pattern(self) -> None:
        strategy, coordinates = Bernoulli(), whole(torch.zeros(1, 1, 256, 256))
        drawn = torch.cat([strategy._kept(coordinates, 40, 0.7, number, 3)[0] for number in (0, 1)]).float()
        assert drawn.mean().item() == pytest.approx(0.7, abs=1e-3)
        between = torch.corrcoef(drawn.flatten(1)) - torch.eye(80)
        assert between.abs().max() < 6 / 256  # six standard errors
        for shifted in (drawn.roll(1, 1), drawn.roll(1, 2)):
            assert ((drawn - 0.7) * (shifted - 0.7)).mean().abs() < 6 * 0.21 / drawn.numel() ** 0.5

    def test_a_seed_means_one_image(self) -> None:
        network, noisy = tiny(), torch.rand(1, 3, 32, 32)
        with torch.inference_mode():
            first, again, other = (Bernoulli(3, seed=seed)(network, noisy) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_batch_does_not_matter(self) -> None:
        network, noisy = tiny(), torch.rand(3, 3, 32, 32)
        with torch.inference_mode():
            together = Bernoulli(2)(network, noisy)
            alone = torch.cat([Bernoulli(2)(network, each[None]) for each in noisy])
        assert (together - alone).abs().max() < 1e-5

    @pytest.mark.parametrize("joint", [0, 1])
    def test_tiles_do_not_matter(self, joint: int) -> None:
        """Nor that their borders lie at other places of the network's grid of 32 pixels, or beyond the image."""
        network, noisy = tiny(), np.random.default_rng(0).random((40, 700, 3), np.float32)
        results = [
            Denoiser(TorchRuntime(network, Bernoulli(2, joint=joint), device="cpu"), tile=tile, overlap=384)(noisy)
            for tile in (0, 576)
        ]
        assert np.abs(results[0] - results[1]).max() < 1e-5

    def test_passes_average_the_randomness(self) -> None:
        """The deviation between predictions of n passes falls as the square root of n."""
        network, noisy = tiny(), torch.rand(1, 3, 32, 32)
        with torch.inference_mode():
            single, many = (
                torch.stack([Bernoulli(passes, seed=seed)(network, noisy) for seed in range(8)]).std(0).mean()
                for passes in (1, 25)
            )
        assert (many / single).item() == pytest.approx(0.2, rel=0.3)

    def test_joint_masks_hide_all_channels(self) -> None:
        seen: list[Tensor] = []

        class Seen(nn.Module):
            takes_masks = True

            def forward(self, noisy: Tensor, visible: Tensor, _: object) -> Tensor:
                seen.append(visible)
                return noisy

        noisy = torch.rand(1, 3, 32, 32)
        for joint in (0, 1):
            assert torch.equal(Bernoulli(1, joint=joint)(Seen(), noisy), noisy)
        assert not torch.equal(seen[0][:, 0], seen[0][:, 1])
        assert torch.equal(seen[1][:, 0], seen[1][:, 1])

    def test_other_networks_and_values_are_refused(self) -> None:
        with pytest.raises(ModelError, match="takes no masks"):
            Bernoulli()(nn.Identity(), torch.rand(1, 3, 8, 8))
        with pytest.raises(ModelError, match="keep=0"):
            parse("bernoulli:keep=0")


def test_samples_and_seed_are_those_of_the_strategy(tmp_path: Path) -> None:
    network = tiny()
    card = weights.Card("s", "self2self", network.config, strategy="bernoulli:passes=3,keep=0.8")
    path = tmp_path / "s.safetensors"
    weights.save(path, network, card)
    denoiser = medcli.load(path, device="cpu", samples=2, seed=7)
    assert isinstance(denoiser.runtime, TorchRuntime)
    assert denoiser.runtime.strategy == Bernoulli(2, 0.8, seed=7)
    with pytest.raises(ModelError, match="cannot take refine"):
        medcli.load(path, device="cpu", refine=2)


def test_gray_images_get_joint_masks(tmp_path: Path) -> None:
    from medcli.methods.base import MethodSettings, Patches

    gray = np.repeat(np.random.default_rng(0).random((8, 8, 1), np.float32), 3, 2)
    (find,) = Self2Self.auto_options
    found = find(MethodSettings({}, {}, None), lambda: Patches([gray], []))
    assert found is not None
    assert found.options == {"joint": True}
    colour = gray * np.float32([1, 0.5, 1])
    assert find(MethodSettings({}, {}, None), lambda: Patches([gray, colour], [])) is None
