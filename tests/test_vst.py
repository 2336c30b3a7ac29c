"""Claims about the transform of photon noise: unit deviation, unbiased inverse, and how a network is run inside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.stabilised import Stabilised
from medcli.engine.strategies import Flips, Plain, parse
from medcli.errors import ModelError
from medcli.vst import Anscombe, PhotonNoise

NOISES = [PhotonNoise(gain, offset, read) for gain in (1.0, 4.0, 16.0) for read, offset in ((0, 0), (5, 0), (5, 100))]
each_noise = pytest.mark.parametrize("noise", NOISES, ids=str)


def exposed(noise: PhotonNoise, electrons: Tensor | float, count: int = 400_000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    light = torch.as_tensor(electrons, dtype=torch.float64).expand(count)
    counts = noise.gain * torch.poisson(light, generator=generator)
    return counts + noise.offset + noise.read * torch.randn(count, generator=generator, dtype=torch.float64)


@each_noise
def test_deviation_is_one_from_four_electrons_on(noise: PhotonNoise) -> None:
    for electrons in (4, 10, 100, 2000):
        deviation = Anscombe(noise).forward(exposed(noise, electrons, 100_000)).std().item()
        assert deviation == pytest.approx(1, abs=0.03)


@each_noise
def test_the_inverse_is_unbiased_down_to_one_electron(noise: PhotonNoise) -> None:
    for electrons in (1, 2, 4, 20, 39, 41, 500):
        values = exposed(noise, electrons)
        transform = Anscombe(noise, black=noise.offset + 3)
        restored = transform.inverse(transform.forward(values.float()).double().mean().float()).item()
        least = 3 * values.std().item() / 400_000**0.5
        assert restored - noise.offset == pytest.approx(noise.gain * electrons, abs=max(least, 0.005 * noise.gain))


def test_the_algebraic_inverse_would_be_biased() -> None:
    noise = PhotonNoise(1.0)
    mean = Anscombe(noise).forward(exposed(noise, 2)).mean().item() + 2 * (3 / 8) ** 0.5
    assert mean**2 / 4 - 3 / 8 < 0.95 * 2


def test_weak_photon_noise_does_not_lose_digits() -> None:
    noise = PhotonNoise(1e-3, 0.0, 5.0)
    values = torch.linspace(0, 1000, 101)
    transform = Anscombe(noise)
    assert torch.allclose(transform.inverse(transform.forward(values)), values, atol=0.01)
    slopes = transform.forward(values).diff() / values.diff()
    assert torch.allclose(slopes, torch.tensor(1 / 5), rtol=0.05)


def test_dark_means_go_on_below_zero() -> None:
    transform = Anscombe(PhotonNoise(2.0, 100.0, 3.0), black=100.0)
    below, at, above = transform.inverse(transform.forward(torch.tensor([100.0, 104.0, 108.0])) - 1.0).tolist()
    assert below < at < above
    assert below < 100


class Spy(nn.Module):
    """Gives back the local mean, and remembers what it was given."""

    channels, multiple, receptive_field = 1, 1, 4

    def forward(self, noisy: Tensor) -> Tensor:
        self.seen = noisy
        return nn.functional.avg_pool2d(noisy, 9, 1, 4, count_include_pad=False)


class ColourSpy(Spy):
    channels = 3


def specimen(side: int = 192) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    return 2 + 40 * np.sin(3 * rows) ** 2 * (0.5 + 0.5 * np.cos(5 * columns))


def counts(gain: float = 4.0, offset: float = 100.0, read: float = 2.0, side: int = 192) -> np.ndarray:
    rng = np.random.default_rng(0)
    light = specimen(side)
    return gain * rng.poisson(light) + offset + rng.normal(0, read, light.shape)


class TestStrategy:
    def test_notation_nests(self) -> None:
        strategy = parse("vst:sigma=20+masks:k=3,pd=1")
        assert isinstance(strategy, Stabilised)
        assert (strategy.sigma, strategy.inner, strategy.passes) == (20, parse("masks:k=3,pd=1"), 3)
        assert isinstance(parse("flips+vst"), Flips)
        assert parse("vst:gain=1e+2").gain == 100

    @pytest.mark.parametrize(
        ("notation", "words"),
        [
            ("vst:gain=0", "gain of 0"),
            ("vst:read=-1", "read=-1"),
            ("vst:inner=plain", "no argument 'inner'"),
            ("plain+vst", "no other in it"),
        ],
    )
    def test_mistakes_are_named(self, notation: str, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            parse(notation)

    def test_the_network_sees_noise_of_one_strength(self) -> None:
        spy = Spy()
        Denoiser(TorchRuntime(spy, Stabilised(sigma=10), precision="fp32"), keep_brightness=False)(counts())
        blocks = spy.seen[0, 0].unfold(0, 8, 8).unfold(1, 8, 8)
        noise = (blocks - blocks.mean((2, 3), keepdim=True)).flatten(2).std(2).flatten()
        order = spy.seen[0, 0].unfold(0, 8, 8).unfold(1, 8, 8).mean((2, 3)).flatten().argsort()
        dark, bright = noise[order[:140]].mean() * 255, noise[order[-140:]].mean() * 255
        assert dark == pytest.approx(10, rel=0.15)
        assert bright == pytest.approx(10, rel=0.15)

    def test_what_is_given_is_not_measured(self) -> None:
        denoiser = Denoiser(TorchRuntime(Spy(), Stabilised(gain=7.0, offset=50.0, read=1.0), precision="fp32"))
        denoiser(counts())
        strategy = denoiser.runtime.strategy_in_force
        assert isinstance(strategy, Stabilised)
        assert "gain 7 per electron, offset 50, read noise 1 " in strategy.remark
        denoiser = Denoiser(TorchRuntime(Spy(), Stabilised(offset=90.0), precision="fp32"))
        denoiser(counts())
        assert "offset 90," in denoiser.remark

    def test_colour_and_images_without_noise_are_run_plainly(self) -> None:
        for network, pixels in (
            (ColourSpy(), np.random.default_rng(0).random((64, 64, 3))),
            (Spy(), np.zeros((64, 64), np.uint8)),
            (Spy(), counts()[:8, :8]),
        ):
            denoiser = Denoiser(TorchRuntime(network, Stabilised(), precision="fp32"))
            assert denoiser(pixels).shape == pixels.shape
            assert isinstance(denoiser.runtime.strategy_in_force, Plain)

    def test_flips_and_tiles_agree_with_the_whole(self) -> None:
        image = counts().astype(np.float32)
        whole = Denoiser(TorchRuntime(Spy(), Stabilised(), precision="fp32"), tile=0)(image)
        tiled = Denoiser(TorchRuntime(Spy(), Stabilised(), precision="fp32"), tile=64, overlap=16)(image)
        assert np.allclose(whole, tiled, atol=0.05)
        flipped = Denoiser(TorchRuntime(Spy(), Flips(Stabilised()), precision="fp32"), tile=0)(image)
        assert np.allclose(whole, flipped, atol=0.05)

    def test_all_depths_give_the_same_result(self) -> None:
        """The same counts as 8 and 16 bits, stretched, and as floats: within 1 % of the noise."""
        image = np.clip(np.rint(counts(1.0, 10.0, 1.0)), 0, 255)
        deviation = np.sqrt(specimen().mean() + 1)

        def restored(stored: np.ndarray, factor: float) -> np.ndarray:
            return Denoiser(TorchRuntime(Spy(), Stabilised(), precision="fp32"))(stored).astype(np.float64) / factor

        first = restored(image, 1)
        for factor, kind in ((16, np.uint16), (255, np.uint16), (1 / 255, np.float32)):
            assert np.abs(restored((image * factor).astype(kind), factor) - first).max() < 0.01 * deviation
        assert np.abs(restored(image.astype(np.uint8), 1) - first).max() < 0.51

    @pytest.mark.parametrize("electrons", [1.0, 5.0, 50.0])
    def test_a_flat_field_keeps_its_mean(self, electrons: float) -> None:
        noise = PhotonNoise(4.0, 100.0, 2.0)
        image = exposed(noise, electrons, 256 * 256).reshape(256, 256).numpy()
        strategy = Stabilised(noise.gain, noise.offset, noise.read)
        restored = Denoiser(TorchRuntime(Spy(), strategy, precision="fp32"), keep_brightness=False)(image)
        deviation = float(noise.variance(torch.tensor(noise.offset + noise.gain * electrons))) ** 0.5
        assert abs(restored.mean() - (noise.offset + noise.gain * electrons)) < 0.1 * deviation
        assert abs(restored.mean() - (noise.offset + noise.gain * electrons)) < 0.01 * noise.gain * electrons + 0.05
