"""Claims about Noise2VST: the spline and its inverse, what is trained, and how it is chosen and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from torch import Tensor, nn

from medcli.archs.noise2vst import Spline, Transformed
from medcli.archs.unet import ResidualUNet
from medcli.methods.base import Application, Batch, NoisyImages
from medcli.methods.n2s import Noise2Self
from medcli.methods.noise2vst import STEPS, Noise2VST, around, stabilising, thirds
from medcli.train.adapt.sure import Comparison
from medcli.vst import Anscombe, PhotonNoise
from medcli.zoo import weights

PHOTONS = PhotonNoise(1 / 30, 0.1, 0.01)
PLAIN = Application("plain", {})


def random_spline() -> Spline:
    spline = Spline(20, (-0.2, 1.2))
    with torch.no_grad():
        spline.steps.add_(torch.randn(19, generator=torch.Generator().manual_seed(0)))
        spline.first.add_(0.3)
    return spline


def batch(photons: PhotonNoise = PHOTONS, count: int = 4, side: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    light = 0.8 * torch.rand(count, 1, 1, side, generator=generator).expand(-1, 1, side, side)
    noisy = photons.gain * torch.poisson(light / photons.gain, generator=generator) + photons.offset
    return Batch([noisy], None, torch.arange(count))


class Smooth(nn.Module):
    channels, multiple, receptive_field = 1, 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, int] = {}
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, noisy: Tensor) -> Tensor:
        return self.weight * nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)


def smooth() -> Transformed:
    transformed = Transformed("unet", TINY_UNET | {"channels": 1})
    transformed.denoiser = Smooth()
    return transformed


class TestSpline:
    def test_it_starts_as_the_identity(self) -> None:
        values = torch.linspace(-1, 2, 31)
        assert torch.allclose(Spline(128)(values), values, atol=1e-4)
        assert torch.allclose(Spline(128).inverse(values), values, atol=1e-4)

    def test_it_increases_and_the_inverse_undoes_it_beyond_the_knots_too(self) -> None:
        spline, values = random_spline(), torch.linspace(-1, 2, 301).reshape(7, 43)
        mapped = spline(values)
        assert (mapped.flatten().diff() > 0).all()
        assert torch.allclose(spline.inverse(mapped), values, atol=1e-4)

    def test_it_follows_a_function(self) -> None:
        spline = Spline(128)
        spline.follow(torch.sqrt)
        values = torch.linspace(0.02, 1, 50)
        assert torch.allclose(spline(values), values.sqrt(), atol=2e-3)

    def test_gradients_reach_the_knots_on_both_ways(self) -> None:
        for way in ("forward", "inverse"):
            spline = random_spline()
            getattr(spline, way)(torch.rand(500)).sum().backward()
            assert (spline.steps.grad != 0).sum() > 3
            assert spline.first.grad.item() != 0

    def test_a_function_needs_two_knots(self) -> None:
        with pytest.raises(ValueError, match="2 knots"):
            Spline(1)


class TestMethod:
    def test_the_start_is_the_anscombe_transform(self) -> None:
        method = Noise2VST(ResidualUNet(**TINY_UNET), gain=PHOTONS.gain, offset=PHOTONS.offset, read=PHOTONS.read)
        values = torch.linspace(PHOTONS.offset, 1, 100)
        curve, expected = method.transformed.spline(values), Anscombe(PHOTONS).forward(values)
        assert np.corrcoef(curve.detach(), expected)[0, 1] > 0.999
        noise = curve.diff() / values.diff() * PHOTONS.variance(values[1:]).sqrt()
        assert noise[30:].mean().item() * 255 == pytest.approx(25, rel=0.1)
        assert float(stabilising(PhotonNoise(1e-4))(torch.tensor(1.0))) == pytest.approx(1)  # black to white fits

    def test_only_the_transform_is_trained_and_its_loss_falls(self) -> None:
        transformed = smooth()
        with torch.no_grad():
            transformed.affine.copy_(torch.tensor([0.0, 0.3]))
        method = Noise2VST(transformed)
        trained = [parameter for parameter in transformed.parameters() if parameter.requires_grad]
        assert sum(map(torch.Tensor.numel, trained)) == 160 + 2
        optimizer = torch.optim.Adam(trained, 0.01)
        losses = []
        for _ in range(15):
            (loss,) = method.terms(batch()).values()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        assert transformed.denoiser.weight.item() == 1

    def test_hidden_pixels_do_not_know_their_noise(self) -> None:
        """A change of the hidden pixels alone changes the target, not the guess."""
        method, first = Noise2VST(smooth()), batch()
        phases = [method._phase(generator) for generator in first.generators()]
        changed = first.noisy.clone()
        for image, (top, left) in zip(changed, phases, strict=True):
            image[:, top :: method.spacing, left :: method.spacing] += 0.3
        guesses = [
            method.grid(method.transformed.restored(method.hidden(method.transformed.spline(noisy), phases)), phases)
            for noisy in (first.noisy, changed)
        ]
        assert torch.allclose(*guesses, atol=1e-6)
        assert isinstance(method, Noise2Self)

    def test_a_transformed_network_is_trained_further(self) -> None:
        transformed = around(ResidualUNet(**TINY_UNET))
        with torch.no_grad():
            transformed.spline.first.add_(0.2)
        assert Noise2VST(transformed, gain=1.0).transformed.spline.first.item() == pytest.approx(0.075)

    @pytest.mark.parametrize(
        ("application", "images"),
        [
            (Application("masks", {}), NoisyImages(1, True, PHOTONS)),
            (PLAIN, NoisyImages(1, False, PHOTONS)),
            (PLAIN, NoisyImages(1, True, None)),
        ],
    )
    def test_it_is_for_gray_images_with_measured_noise(self, application: Application, images: NoisyImages) -> None:
        assert Noise2VST.adaptation(application, ResidualUNet(**TINY_UNET), images) is None

    def test_its_plan(self) -> None:
        plan = Noise2VST.adaptation(PLAIN, ResidualUNet(**TINY_UNET), NoisyImages(1, True, PHOTONS))
        assert plan is not None
        assert plan.options == {"spacing": 4, "gain": PHOTONS.gain, "offset": 0.1, "read": 0.01}
        assert (plan.patch, plan.batch, plan.most_stride, plan.steps) == (64, 4, 1, STEPS)
        Noise2VST(ResidualUNet(**TINY_UNET), **plan.options)

    def test_the_rate_falls_after_each_third(self) -> None:
        assert [thirds(each) for each in (0, 0.3, 0.4, 0.7, 1.0)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_the_file_holds_network_and_transform(tmp_path: Path) -> None:
    transformed = around(ResidualUNet(**TINY_UNET))
    transformed.spline.follow(torch.arcsinh)
    card = weights.Card("mine", "noise2vst", transformed.config)
    weights.save(tmp_path / "mine.safetensors", transformed, card)
    loaded, _ = weights.load_network(tmp_path / "mine.safetensors")
    noisy = torch.rand(1, 3, 16, 16)
    assert torch.allclose(loaded(noisy), transformed(noisy), atol=0.01)


def test_a_transform_must_be_better_as_used_and_not_worse_at_hidden_pixels() -> None:
    for gains, guesses, better in (
        ((0.02, 0.3, 0.5), False, True),
        ((0.02, 0.3, 0.5), True, False),
        ((0.02, 0.05, 0.5), False, False),
        ((-0.2, 0.3, 0.5), False, False),
    ):
        assert Comparison(1.0, 1.0, gains, (0.04, 0.1, 0.2), guesses).better is better
