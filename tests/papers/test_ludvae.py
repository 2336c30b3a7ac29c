"""What a faithful LUD-VAE must show, in miniature; and pairs that a model makes, with no seam between tiles.

The two official denoisers, with the trap in their batch normalisation, are in test_convert.py.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor, nn

from medcli.archs.dncnn import DnCNN
from medcli.archs.ludvae import LUDVAE, Gaussian
from medcli.batch.synth.learned_noise import Field, open_model
from medcli.cli.synth_pairs import command
from medcli.data.crops import as_unit
from medcli.data.noise_level import NoiseSample, flat_noise, known_noise, matching, propose
from medcli.data.pairs import MANIFEST
from medcli.engine.tiling import Span
from medcli.errors import InputError, ModelError, OptionError, RecipeError
from medcli.images import read
from medcli.methods.base import Batch
from medcli.methods.ludvae import Posterior, UnpairedNoise, divergence
from medcli.train import noise_plot
from medcli.zoo import catalog, weights
from medcli.zoo.model import find_model

SLOPE, FLOOR = 0.01, 0.0004  # of the variance of the noise over brightness
WRONG = 5 / 255  # of a denoiser that was given a wrong level
X, Y = 45.0, 22.0
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "real"


def tiny(**config: Any) -> LUDVAE:
    torch.manual_seed(0)
    return LUDVAE(**{"width": 8} | config)


def shaken(network: LUDVAE) -> LUDVAE:
    """A fresh network passes on little of what lies beside a pixel; this one does."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def normal(like: Tensor, generator: Generator) -> Callable[[int, int], Tensor]:
    return lambda level, channels: torch.randn(len(like), channels, *like.shape[2:], generator=generator)


def scenes(count: int, side: int, generator: Generator, channels: int = 1) -> Tensor:
    """Slopes with two edges, from dark to light."""
    line = torch.linspace(-1, 1, side)
    levels = partial(torch.rand, count, channels, 1, 1, generator=generator)
    slopes = 0.15 * torch.randn(2, count, channels, 1, 1, generator=generator)
    image = 0.1 + 0.8 * levels() + slopes[0] * line[:, None] + slopes[1] * line
    for _ in range(2):
        way, offset = (
            torch.randn(2, count, 1, 1, 1, generator=generator),
            torch.randn(count, 1, 1, 1, generator=generator),
        )
        beyond = way[0] * line[:, None] + way[1] * line + 0.5 * offset > 0
        image = torch.where(beyond, image, 0.5 * image + 0.5 * levels())
    return image.clamp(0.05, 0.95)


def deviation(clean: Tensor) -> Tensor:
    return (SLOPE * clean + FLOOR).sqrt()


def noised(clean: Tensor, generator: Generator) -> Tensor:
    return clean + deviation(clean) * torch.randn(clean.shape, generator=generator)


def unpaired(step: int, count: int = 4, side: int = 16, channels: int = 1) -> Batch:
    generator = seeded(1000 + step)
    noisy = noised(scenes(count, side, generator, channels), generator)
    return Batch([noisy], scenes(count, side, generator, channels), torch.arange(count) + 100 * step)


def descend(parameters: Any, loss: Callable[[int], Tensor], steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(parameters, lr=rate, foreach=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimizer.zero_grad()
        loss(step).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def learned(steps: int, sigma_x: float, sigma_y: float) -> LUDVAE:
    """A sampler of noise whose variance is SLOPE * brightness + FLOOR, from scenes that are not its clean ones."""
    torch.set_num_threads(1)
    sampler = tiny(channels=1, sigma_x=sigma_x, sigma_y=sigma_y)
    method = UnpairedNoise(sampler, rise=100)

    def loss(step: int) -> Tensor:
        terms = method.terms(unpaired(step))
        method.steps.count()
        return torch.stack(list(terms.values())).sum()

    descend(list(method.networks["ludvae"].parameters()), loss, steps, 0.006)
    return sampler.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def sampler() -> LUDVAE:
    return learned(240, X, Y)


# --- 1: size and names


def test_the_size_and_the_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        sampler, posterior = LUDVAE(width=128).state_dict(), Posterior(3, 128).state_dict()
    blocks = [
        f"{part}_{n}.net.{place}" for part in ("enc", "enc_n", "dec") for n in (1, 2, 3) for place in (0, 2, 4, 6)
    ]
    gauss = [f"Gauconv_{one}.{part}" for one in ("q_1", "q_2", "q_3", "p_1", "p_2") for part in "mv"]
    joints = [f"proj_{one}.proj" for one in ("1", "2", "3", "c_1", "c_2", "n_1", "n_2")]
    layers = ["inconv", "inconv_n", "outconv", *blocks, *gauss, *joints]
    assert {*sampler, *posterior} == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert len(sampler) + len(posterior) == 112
    assert sum(each.numel() for each in (*sampler.values(), *posterior.values())) == 5_709_827
    assert sum(each.numel() for each in sampler.values()) == 3_773_443


# --- 2: what is drawn, and from what


def test_restoring_draws_nothing_and_sampling_does() -> None:
    network, image = tiny(), torch.rand(1, 3, 20, 20, generator=seeded())
    assert torch.equal(network(image), network(image))
    first, again, other = (network.sample(image, normal(image, seeded(seed)), sigma=10) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_temperature_sampling_is_restoring() -> None:
    network, image = tiny(), torch.rand(1, 3, 20, 20, generator=seeded())
    cold = network.sample(image, normal(image, seeded(1)), sigma=10, temperature=0)
    assert torch.equal(cold, network.restore(image, normal(image, seeded(1)), sigma=10))


def test_temperature_multiplies_means_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = tiny(), []
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda content, latents: decode(content, noted(latents, seen)))
    for temperature in (1.0, 2.0):
        network.sample(torch.full((1, 3, 9, 9), 0.5), lambda _, count: torch.zeros(1, count, 9, 9), sigma=0,
                       temperature=temperature)  # fmt: skip
    assert not seen[0].any()
    assert seen[1].any()
    assert torch.equal(seen[4], 2 * seen[1])


def noted(latents: Callable[..., Tensor], seen: list[Tensor]) -> Callable[..., Tensor]:
    def draw(*given: Any) -> Tensor:
        seen.append(latents(*given))
        return seen[-1]

    return draw


def test_clean_images_know_nothing_of_the_noise_encoder() -> None:
    method = UnpairedNoise(tiny(channels=1))
    before = method.terms(unpaired(0))
    with torch.no_grad():
        for parameter in method.posterior.parameters():
            parameter.mul_(1.5)
    after = method.terms(unpaired(0))
    assert torch.equal(before["clean"], after["clean"])
    assert not torch.equal(before["noisy"], after["noisy"])


def test_every_parameter_is_reached_in_the_first_step() -> None:
    method = UnpairedNoise(tiny())
    sum(method.terms(unpaired(0, channels=3)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in method.networks["ludvae"].parameters())


# --- 3 and 4: the divergence and its weight


def test_the_divergence_is_zero_only_between_equals() -> None:
    mean, spread = torch.randn(2, 4, 8, 9, 9, generator=seeded())
    one, other = Gaussian(mean, spread), Gaussian(spread, mean)
    assert (divergence(one, one) == 0).all()
    assert (divergence(one, other) >= 0).all()
    apart = torch.distributions.kl_divergence(*(torch.distributions.Normal(m, s.exp()) for m, s in (one, other)))
    assert torch.allclose(divergence(one, other), apart, rtol=1e-4, atol=1e-4)


def test_the_divergence_counts_noisy_images_alone() -> None:
    method, batch = UnpairedNoise(tiny(channels=1)), unpaired(0)
    terms, other = method.terms(batch), method.terms(Batch([batch.noisy], torch.ones(4, 1, 16, 16), batch.keys))
    assert terms["clean"] != other["clean"]
    assert terms["kl"] == other["kl"] > 0
    assert terms["noisy"] == other["noisy"]


def test_terms_do_not_depend_on_how_a_batch_is_shared_out() -> None:
    method, batch = UnpairedNoise(tiny(channels=1)), unpaired(0)
    assert batch.clean is not None
    halves = [Batch([batch.noisy[part]], batch.clean[part], batch.keys[part]) for part in (slice(2), slice(2, 4))]
    whole, parts = method.terms(batch), [method.terms(half) for half in halves]
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) / 2 == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize(("step", "weight"), [(1, 1e-8), (5_000, 5e-5), (10_000, 1e-4), (200_000, 1e-4)])
def test_the_weight_of_the_divergence_rises_and_stays(step: int, weight: float) -> None:
    method = UnpairedNoise(tiny())
    method.steps.taken.fill_(step - 1)
    assert float(method.weight(method.steps.taken + 1)) == pytest.approx(weight)
    terms = {mode: method.sampler.train(mode) and method.terms(unpaired(0, channels=3))["kl"] for mode in (True, False)}
    assert terms[True].item() / terms[False].item() == pytest.approx(weight / 1e-4, rel=1e-4)


def test_the_steps_are_kept_in_checkpoints() -> None:
    method = UnpairedNoise(tiny())
    assert method.updates[0].after is not None
    method.updates[0].after()
    assert method.networks["steps"].state_dict() == {"taken": torch.tensor(1)}


# --- 5: sizes and reach


def test_odd_sizes_and_a_reach_of_24_pixels() -> None:
    network, image = shaken(tiny()), torch.rand(1, 3, 65, 97, generator=seeded())
    other = image.clone()
    other[..., 30, 50] += 1
    with torch.no_grad():
        restored = network(image)
        rows, columns = (network(other) - restored).abs().amax((0, 1)).nonzero(as_tuple=True)
    assert restored.shape == image.shape
    assert max((rows - 30).abs().max(), (columns - 50).abs().max()) == network.receptive_field == 24


def test_a_fresh_network_nearly_is_the_identity() -> None:
    image = torch.rand(1, 3, 32, 32, generator=seeded())
    with torch.no_grad():
        restored = tiny(width=32)(image)
    assert np.corrcoef(restored.flatten(), image.flatten())[0, 1] > 0.9


# --- 8 to 10: what is learned


def made(sampler: LUDVAE, clean: Tensor, seed: int, sigma: float = Y) -> Tensor:
    return sampler.sample(clean, normal(clean, seeded(seed)), sigma=sigma)


def test_the_noise_is_recovered(sampler: LUDVAE) -> None:
    """Tuned on the first run: 3 levels, 40 %, in 240 steps; 15 % at each decile is for a model of real size."""
    clean = scenes(16, 48, seeded(7))
    first, second = (made(sampler, clean, seed) - clean for seed in (1, 2))
    thirds = clean.flatten().sort().indices.split(clean.numel() // 3 + 1)
    for part in thirds:
        truth = deviation(clean.flatten()[part]).square().mean().sqrt()
        assert float(first.flatten()[part].std() / truth) == pytest.approx(1, abs=0.4)
    assert abs(float(first.mean())) < 3 / 255
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.2


def test_more_sigma_is_more_noise_and_no_temperature_is_none(sampler: LUDVAE) -> None:
    clean = scenes(8, 32, seeded(7))
    deviations = [float((made(sampler, clean, 1, sigma) - clean).std()) for sigma in (Y, X, 1.5 * X)]
    assert deviations == sorted(deviations)
    cold = sampler.sample(clean, normal(clean, seeded(1)), sigma=Y, temperature=0) - clean
    assert float(cold.std()) < 0.6 * deviations[0]


def test_without_h_no_noise_is_learned() -> None:
    sampler, clean = learned(90, 0, 0), scenes(16, 48, seeded(7))
    residual = made(sampler, clean, 1, sigma=0) - clean
    assert float(residual.std() / deviation(clean).square().mean().sqrt()) < 0.2


def denoiser(noisy: Callable[[Tensor, Generator], Tensor]) -> nn.Module:
    torch.manual_seed(1)
    network = DnCNN(channels=1, width=8, depth=5, batch_norm=False)

    def loss(step: int) -> Tensor:
        generator = seeded(5000 + step)
        clean = scenes(8, 16, generator)
        return (network(noisy(clean, generator)) - clean).abs().mean()

    descend(list(network.parameters()), loss, 150, 0.01)
    return network.requires_grad_(False)


def test_pairs_of_learned_noise_train_a_better_denoiser_than_a_wrong_level(sampler: LUDVAE) -> None:
    """Between the wrong level and true pairs, as in table 2 of the paper."""
    ways: dict[str, Callable[[Tensor, Generator], Tensor]] = {
        "true": noised,
        "learned": lambda clean, generator: sampler.sample(clean, normal(clean, generator), sigma=Y),
        "wrong": lambda clean, generator: clean + WRONG * torch.randn(clean.shape, generator=generator),
    }
    clean = scenes(32, 32, seeded(8))
    noisy = noised(clean, seeded(9))
    errors = {name: float((denoiser(way)(noisy) - clean).square().mean()) for name, way in ways.items()}
    psnr = {name: -10 * np.log10(error) for name, error in errors.items()}
    assert psnr["wrong"] + 2 < psnr["learned"] < psnr["true"]


@pytest.fixture
def shipped() -> LUDVAE:
    """The sampler of the zoo for the noise of cameras."""
    if "ludvae-camera" not in catalog.entries():
        pytest.skip("the zoo has no noise sampler yet")
    network = find_model("ludvae-camera").network()
    assert isinstance(network, LUDVAE)
    return network


def test_the_shipped_sampler_makes_the_noise_of_cameras(shipped: LUDVAE) -> None:
    """On scenes it was not trained on; of few images, hence more room than docs/benchmarks.md takes for all."""
    pairs = held_out_pairs()
    clean, noisy = ([noise_plot.middle(as_unit(pair[place]), 128) for pair in pairs] for place in (0, 1))
    real = known_noise(noisy, clean)
    made = known_noise(noise_plot.sampled(shipped, clean, sigma=shipped.sigma_y), clean)
    edges = real.edges()
    assert made.sigma == pytest.approx(real.sigma, rel=0.1)
    assert made.by_tone(edges) == pytest.approx(real.by_tone(edges), rel=0.25)
    assert made.correlation(1)[:, 1] == pytest.approx(real.correlation(1)[:, 1], abs=0.08)


def held_out_pairs() -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """(clean, noisy) of PolyU, one of each held-out scene's first eight."""
    folder = SHARED / "polyu"
    if not folder.is_dir():
        pytest.skip("the PolyU crops are not beside this checkout")
    names = [Path(name).stem for name in json.loads((folder / "splits.json").read_text())["holdout"]][::6]
    sides = [[next((folder / side).glob(f"{name}.*")) for name in names] for side in ("clean", "noisy")]
    return [(read(clean).pages[0].pixels, read(noisy).pages[0].pixels) for clean, noisy in zip(*sides, strict=True)]


# --- what a recipe can ask for


def test_other_networks_and_weights_that_make_no_sense_are_errors() -> None:
    with pytest.raises(RecipeError, match="DnCNN does not"):
        UnpairedNoise(DnCNN(width=8, depth=3))
    for options in ({"kl": -1.0}, {"kl": float("nan")}, {"rise": 0}):
        with pytest.raises(RecipeError, match="kl cannot be"):
            UnpairedNoise(tiny(), **options)


@pytest.mark.parametrize(
    "config", [{"sigma_x": -1}, {"gain": [1.0], "offset": [0.0]}, {"gain": [1, 1, 0], "offset": [0, 0, 0]}]
)
def test_configurations_that_make_no_sense_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        tiny(**config)


def test_matched_statistics_are_taken_back() -> None:
    network, plain = tiny(gain=[1.2, 0.8, 1.0], offset=[0.0, 0.1, -0.1]), tiny()
    image = torch.rand(1, 3, 12, 12, generator=seeded())
    assert torch.allclose(network.unmatched(network.matched(image)), image, atol=1e-6)
    assert torch.equal(plain.matched(image), image)
    assert torch.allclose(network(image), plain(network.matched(image)))
    one, other = (each.sample(image, normal(image, seeded(1)), sigma=5) for each in (network, plain))
    assert torch.allclose(one, network.unmatched(other), atol=1e-6)


# --- the level of noise, from noisy images alone


def photograph(seed: int, side: int = 192) -> NDArray[np.float32]:
    """(side, side, 3): shapes and slopes, with a texture in one corner."""
    image = scenes(1, side, seeded(seed), channels=3)[0].permute(1, 2, 0).numpy().copy()
    image[: side // 3, : side // 3] += 0.1 * np.random.default_rng(seed).random((side // 3, side // 3, 1))
    return image.clip(0, 1).astype(np.float32)


def in_eight_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    return (image * 255).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [3, 12, 30])
def test_the_level_is_measured_without_a_clean_image(sigma: float) -> None:
    draw = np.random.default_rng(0)
    noisy = [in_eight_bits(photograph(seed) + sigma / 255 * draw.normal(size=(192, 192, 3))) for seed in range(3)]
    assert flat_noise(noisy).sigma == pytest.approx(sigma, rel=0.12)
    assert flat_noise(noisy).correlation()[:, 1:] == pytest.approx(0, abs=0.05)
    proposal = propose(noisy)
    assert (proposal.sigma_x, proposal.sigma_y) == pytest.approx((2.4 * sigma, 1.2 * sigma), rel=0.15)
    assert 1 <= proposal.coarseness < 1.1
    assert LUDVAE(width=8, **proposal.config()).sigma_x == proposal.sigma_x


def test_coarse_noise_is_hidden_by_more_than_its_own_deviation() -> None:
    """Noise that four pixels share has four times the density of white noise at frequency 0; the surface takes some."""
    draw = np.random.default_rng(0)
    grain = [2 * 12 / 255 * cv2.blur(draw.normal(size=(192, 192, 3)), (2, 2)) for _ in range(3)]
    proposal = propose([in_eight_bits(photograph(seed) + each) for seed, each in enumerate(grain)])
    assert proposal.noise == pytest.approx(12, rel=0.12)
    assert 1.6 < proposal.coarseness < 2.1
    assert proposal.sigma_y == pytest.approx(proposal.coarseness * 1.2 * proposal.noise, rel=0.01)


def test_noise_is_distinguished_by_brightness_and_by_correlation() -> None:
    draw = np.random.default_rng(0)
    clean = [photograph(seed) for seed in range(4)]
    noisy = [each + np.sqrt(SLOPE * each) * cv2.blur(draw.normal(size=each.shape), (1, 2)) for each in clean]
    for sample in (flat_noise(noisy), known_noise(noisy, clean)):
        edges = np.array([0.1, 0.3, 0.5, 0.7])
        expected = 255 * np.sqrt(SLOPE * (edges[1:] + edges[:-1]) / 2 / 2)
        assert sample.by_tone(edges) == pytest.approx(expected, rel=0.2)
        assert sample.correlation(1)[:, 1] == pytest.approx([0.5, 0], abs=0.08)


def test_what_is_darker_or_brighter_than_the_edges_belongs_to_no_part() -> None:
    tones = np.linspace(0, 1, 5)[:, None, None] * np.ones((5, 16, 16))
    sample = NoiseSample(tones, (tones + 1) * np.random.default_rng(0).normal(size=tones.shape))
    found = sample.by_tone(np.array([0.25, 0.5, 0.75])) / 255
    assert found[0] == pytest.approx(sample.noise[1].std())
    assert found[1] == pytest.approx(sample.noise[2:4].std())


def test_images_without_a_flat_noisy_place_are_errors() -> None:
    with pytest.raises(InputError, match="no image has a flat part"):
        flat_noise([np.full((64, 64, 3), 90, np.uint8), np.zeros((8, 8), np.uint8)])


def test_matching_gives_the_moments_of_clean_images() -> None:
    noisy, clean = [0.3 + 0.4 * photograph(1), 0.2 + 0.4 * photograph(2)], [photograph(seed) for seed in (3, 4)]
    gain, offset = matching(noisy, clean)
    matched = np.stack(noisy) * gain + offset
    assert matched.mean((0, 1, 2)) == pytest.approx(np.stack(clean).mean((0, 1, 2)), abs=1e-3)
    assert matched.std((0, 1, 2)) == pytest.approx(np.stack(clean).std((0, 1, 2)), abs=1e-3)
    with pytest.raises(InputError, match="the same everywhere"):
        matching([np.zeros((9, 9, 3))], clean)


# --- the image of the noise


def test_the_look_of_the_noise_is_a_image(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    samples = [NoiseSample(draw.random((40, 16, 16)), s * draw.normal(size=(40, 16, 16))) for s in (0.02, 0.05)]
    noise_plot.draw(*samples, tmp_path / "run" / "noise.png")
    noise_plot.draw(samples[0], samples[0], tmp_path / "same.png")
    with Image.open(tmp_path / "run" / "noise.png") as one, Image.open(tmp_path / "same.png") as other:
        assert one.size == (1200, 450)
        assert one.tobytes() != other.tobytes()


def test_a_sampler_is_looked_at_beside_its_images(sampler: LUDVAE, tmp_path: Path) -> None:
    clean = [photograph(seed)[..., :1] for seed in range(4)]
    noisy = [noised(torch.from_numpy(each), seeded(9)).numpy() for each in clean[:2]]
    noise_plot.plot_noise(sampler, noisy, clean[2:], tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 10_000


def test_the_sigma_that_fits_gives_noise_of_that_strength(sampler: LUDVAE) -> None:
    clean = [photograph(seed)[..., :1] for seed in range(2)]
    for wanted in (15.0, 22.0):
        blocks = NoiseSample(np.zeros((1, 16, 16)), np.full((1, 16, 16), wanted / 255))
        sigma = noise_plot.fitting_sigma(sampler, blocks, clean, side=96)
        found = flat_noise(noise_plot.sampled(sampler, clean, sigma=sigma, side=96)).sigma
        assert found == pytest.approx(wanted, abs=1.5)


# --- pairs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = shaken(tiny(sigma_x=20.0, sigma_y=10.0))
    path = tmp_path / "own-noise.safetensors"
    weights.save(path, network, weights.Card("own-noise", "ludvae", network.config, method="ludvae"))
    return path


def test_a_field_is_the_same_wherever_it_is_cut() -> None:
    field = Field(3)
    whole = field.cut(2, 4, Span(0, 200), Span(0, 150))
    assert torch.equal(field.cut(2, 4, Span(37, 129), Span(60, 150)), whole[..., 37:129, 60:150])
    assert whole.shape == (1, 4, 200, 150)
    assert abs(float(whole.mean())) < 0.01
    assert float(whole.std()) == pytest.approx(1, abs=0.01)
    corner = Span(0, 64), Span(0, 64)
    blocks = [whole[0, :, :64, :64], whole[0, :, 64:128, :64], whole[0, :, :64, 64:128]]
    blocks += [Field(4).cut(2, 4, *corner)[0], field.cut(1, 4, *corner)[0]]
    assert np.abs(np.triu(np.corrcoef([each.flatten() for each in blocks]), 1)).max() < 0.03


@pytest.mark.parametrize("direction", ["clean-to-noisy", "noisy-to-clean"])
def test_tiles_change_nothing(model: Path, direction: str) -> None:
    clean = torch.rand(3, 170, 150, generator=seeded())
    noise_source = open_model(str(model), direction=direction, device="cpu")
    whole, *tiled = (replace(noise_source, tile=tile).draw(clean, seeded(1)) for tile in (0, 96, 130))
    for noisy, words in tiled:
        assert words == whole[1]
        assert torch.allclose(noisy, whole[0], rtol=0, atol=2e-5)


def test_a_draw_is_the_seed_and_the_level(model: Path) -> None:
    clean = torch.rand(3, 40, 30, generator=seeded())
    noise_source = open_model(str(model), device="cpu")
    noisy, words = noise_source.draw(clean, seeded(1))
    assert (noise_source.sigma, noise_source.temperature) == ((10.0, 20.0), (1.0, 1.0))
    assert words.startswith("own-noise:sigma=1")
    assert torch.equal(noise_source.draw(clean, seeded(1))[0], noisy)
    assert not torch.equal(noise_source.draw(clean, seeded(2))[0], noisy)
    again = pickle.loads(pickle.dumps(noise_source))
    assert again == noise_source
    assert torch.equal(again.draw(clean, seeded(1))[0], noisy)
    assert noise_source.fingerprint != open_model(str(model), sigma=(5, 20), device="cpu").fingerprint


def test_other_weights_are_another_noise(model: Path) -> None:
    first = open_model(str(model)).fingerprint
    network = tiny(sigma_x=20.0, sigma_y=10.0)
    network.outconv.bias.data += 1
    weights.save(model, network, weights.Card("own-noise", "ludvae", network.config))
    assert open_model(str(model)).fingerprint != first


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, ["--processes", "1", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_synth_pairs_takes_a_model(model: Path, image_folder: Path, tmp_path: Path) -> None:
    noisy, back = tmp_path / "noisy", tmp_path / "back"
    requested = ("--from", image_folder, "--to", noisy, "--model", model, "--sigma", "12-18", "--device", "cpu")
    assert "5 done in " in run(*requested)
    rows = [json.loads(line) for line in (noisy / MANIFEST).read_text().splitlines()]
    assert {row["noise"] for row in rows} == {"own-noise"}
    assert "sigma=12-18,temperature=1 sha256:" in rows[0]["fingerprint"]
    levels = [float(row["drawn"].split("sigma=")[1].split(",")[0]) for row in rows]
    assert all(12 <= level <= 18 for level in levels)
    assert len(set(levels)) == 5
    assert "5 up to date in " in run(*requested)
    assert "5 done in " in run(*requested, "--temperature", "0.5")
    assert "5 done in " in run("--from", noisy, "--to", back, "-m", model, "--direction", "noisy-to-clean")
    assert "sigma=0,temperature=1" in (back / MANIFEST).read_text()


def test_what_a_model_cannot_do_is_an_error(model: Path, image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="noise for images in colour, not in gray"):
        open_model(str(model), device="cpu").draw(torch.rand(1, 20, 20), seeded())
    with pytest.raises(ModelError, match="cannot generate it"):
        open_model("photo")
    with pytest.raises(RecipeError, match="is reversed"):
        open_model(str(model), sigma=(20, 10))
    places = ("--from", image_folder, "--to", tmp_path / "noisy")
    with pytest.raises(OptionError, match="one of them"):
        run(*places, "-m", model, "--noise", "gaussian:5")
    with pytest.raises(OptionError, match="need a --model"):
        run(*places, "--sigma", 5)
    assert "neither a number" in run(*places, "-m", model, "--sigma", "5..6")
