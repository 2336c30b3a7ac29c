"""The contract of every architecture in the table, on tiny configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medcli.archs.push_pull import fill_missing
from medcli.archs.split import InpaintUNet
from medcli.archs.unet import ResidualUNet
from medcli.errors import ModelError
from medcli.registry import ARCHITECTURES, resolve
from medcli.zoo import weights

TINY = {
    "deamnet": {"width": 16, "passes": 2, "levels": 2},
    "dncnn": {"width": 8, "depth": 4},
    "lir": {"width": 12, "blocks": 1},
    "inpaint": {"widths": [12, 16], "encoders": [1, 1], "decoders": [1, 1]},
    "ludvae": {"width": 8},
    "nafnet": {"width": 4, "encoders": [1, 1], "middle": 1, "decoders": [1, 1]},
    "nafnet-baseline": {"width": 4, "encoders": [1, 1], "middle": 1, "decoders": [1, 1]},
    "noise2vst": {"network": "dncnn", "config": {"width": 8, "depth": 4}, "knots": 12},
    "plainunet": {"width": 8, "head": 8, "levels": 3},
    "restormer": {"width": 4, "blocks": [1, 1], "refinement": 1, "heads": [1, 2]},
    "self2self": {"width": 4, "pyramid": True},
    "split": {"widths": [12, 16], "encoders": [1, 1], "decoders": [1, 1]},
    "swin": {"width": 8, "depths": [2, 2], "heads": 2, "window": 4},
    "unet": {"widths": [8, 16], "blocks": [1], "middle": 1},
}


def build(name: str, *, trained: bool = True) -> torch.nn.Module:
    """A tiny network; `trained` moves every parameter off zero, where fresh networks put some."""
    torch.manual_seed(0)
    network = resolve(ARCHITECTURES, name, kind="architecture", error=ModelError)(**TINY[name]).eval()
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def test_every_architecture_has_a_tiny_configuration() -> None:
    assert set(TINY) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestContract:
    def test_keeps_the_shape_at_any_multiple(self, name: str) -> None:
        network = build(name)
        height, width = 3 * network.multiple, 5 * network.multiple
        assert network(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)

    def test_gradients_reach_every_parameter(self, name: str) -> None:
        if name == "ludvae":
            pytest.skip("its priors speak only where it samples")
        network = build(name)
        side = max(16, network.multiple)
        network(torch.rand(1, 3, side, side)).square().sum().backward()
        unreached = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert unreached == []

    def test_config_rebuilds_the_same_network(self, name: str) -> None:
        network = build(name)
        again = type(network)(**network.config)
        again.load_state_dict(network.state_dict())
        noisy = torch.rand(1, 3, 32, 32)
        assert torch.equal(again.eval()(noisy), network(noisy))

    def test_can_be_measured_without_memory(self, name: str) -> None:
        network = build(name)
        with torch.device("meta"):
            twin = type(network)(**network.config).eval()
            assert twin(torch.zeros(1, twin.channels, 4 * twin.multiple, 4 * twin.multiple)).device.type == "meta"

    def test_survives_a_weight_file(self, name: str, tmp_path: Path) -> None:
        network = build(name)
        card = weights.Card(id="tiny", architecture=name, config=network.config, licence="MIT")
        weights.save(tmp_path / "tiny.safetensors", network, card)
        loaded, read = weights.load_network(tmp_path / "tiny.safetensors")
        assert read == card
        for key, tensor in network.state_dict().items():
            stored = tensor.half().float() if tensor.is_floating_point() else tensor
            assert torch.equal(loaded.state_dict()[key], stored)

    def test_nothing_beyond_the_receptive_field_matters(self, name: str) -> None:
        network = build(name)
        side = 2 * network.receptive_field + 3
        side += 2 * network.multiple - side % network.multiple
        noisy = torch.rand(1, 3, side, side, requires_grad=True)
        centre = side // 2
        network(noisy)[..., centre, centre].sum().backward()
        rows, columns = torch.nonzero(noisy.grad[0].abs().sum(0), as_tuple=True)
        context_radius = max((rows - centre).abs().max(), (columns - centre).abs().max())
        if getattr(network, "global_context", False):
            assert context_radius > network.receptive_field
            return
        assert context_radius <= network.receptive_field
        assert context_radius >= network.receptive_field // 3  # the figure is a bound, not a guess on the safe side


def test_published_parameter_counts() -> None:
    def count(name: str, **config: object) -> int:
        network = resolve(ARCHITECTURES, name, kind="architecture", error=ModelError)(**config)
        return sum(p.numel() for p in network.parameters())

    assert count("dncnn", channels=1, depth=17) == 556_097
    assert count("dncnn", channels=3, depth=20, batch_norm=False) == 668_227
    assert count("nafnet") == 29_159_715
    assert count("restormer") == 26_111_668


@pytest.mark.parametrize("name", ["unet", "nafnet"])
def test_a_fresh_residual_network_changes_little(name: str) -> None:
    noisy = torch.rand(1, 3, 32, 32)
    restored = build(name, trained=False)(noisy)
    assert (restored - noisy).abs().max() < (1e-6 if name == "unet" else 1.0)


def test_a_gray_unet_gives_the_mean_of_the_colour_network_on_equal_channels() -> None:
    colour = ResidualUNet(**TINY["unet"] | {"channels": 3})
    for each in colour.parameters():
        torch.nn.init.normal_(each, std=0.1)
    noisy = torch.rand(2, 1, 16, 16)
    expected = colour(noisy.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    assert torch.allclose(colour.as_gray()(noisy), expected, atol=1e-5)


def test_unet_refuses_levels_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="2 entries"):
        ResidualUNet(widths=[8, 16, 32], blocks=[1])


class TestMissingPixels:
    """The network `inpaint`."""

    def test_are_filled_from_known_ones_only(self) -> None:
        torch.manual_seed(0)
        image, missing = torch.rand(1, 3, 32, 48), torch.rand(1, 1, 32, 48) < 0.5
        filled = fill_missing(image, missing, levels=4)
        assert torch.equal(filled[~missing.expand_as(filled)], image[~missing.expand_as(image)])
        assert torch.equal(fill_missing(image.masked_fill(missing, 9), missing, levels=4), filled)

    @pytest.mark.parametrize("side", [1, 5, 15])
    def test_a_hole_in_a_flat_area_takes_its_value(self, side: int) -> None:
        missing = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
        missing[..., 17 : 17 + side, 20 : 20 + side] = True
        filled = fill_missing(torch.full((1, 3, 48, 48), 0.3), missing, levels=4)
        torch.testing.assert_close(filled, torch.full_like(filled, 0.3))

    def test_nothing_known_gives_mid_grey(self) -> None:
        missing = torch.ones(1, 1, 16, 16, dtype=torch.bool)
        assert (fill_missing(torch.rand(1, 1, 16, 16), missing, levels=4) == 0.5).all()

    def test_a_fresh_network_fills_and_changes_nothing_else(self) -> None:
        torch.manual_seed(0)
        network = InpaintUNet(**TINY["inpaint"])
        image = torch.rand(1, 3, 16, 16).masked_fill(torch.rand(1, 1, 16, 16) < 0.3, 0)
        missing = image.eq(0).all(1, keepdim=True)
        torch.testing.assert_close(network(image), fill_missing(image, missing, levels=2))
        assert isinstance(network.make_noise_network(), InpaintUNet)
