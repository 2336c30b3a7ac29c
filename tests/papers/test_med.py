"""What a faithful MeD must show, and what each method without clean images owes the loop."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from medcli.archs.split import SplitUNet
from medcli.archs.swin import PositionBias, SwinTx
from medcli.archs.unet import ResidualUNet
from medcli.blind_spot import around
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.errors import RecipeError
from medcli.images import read
from medcli.losses import charbonnier, log_mse
from medcli.methods.base import Batch, Method
from medcli.methods.med import MeD, choices, mix
from medcli.methods.n2n import Noise2Noise
from medcli.methods.n2s import Noise2Self
from medcli.methods.r2r import Recorrupted, estimated_sigma
from medcli.noise.drop import Drop
from medcli.noise.gaussian import Gaussian
from medcli.noise.views import views
from medcli.registry import METHODS, resolve
from medcli.train.muon import Muon
from medcli.zoo import catalog
from medcli.zoo.model import find_model

BENCHMARK = Path(__file__).parents[2] / "docs" / "benchmarks" / "swin.py"
CBSD68 = Path(__file__).parents[3] / "shared" / "data" / "test" / "cbsd68"
SIGMA = 25 / 255
N = TypeVar("N", bound=nn.Module)


def tiny_split() -> SplitUNet:
    return SplitUNet(widths=[16, 24], encoders=[1, 1], decoders=[1, 1])


def tiny_swin(patch: int = 1) -> SwinTx:
    return SwinTx(width=16, depths=[2, 2], heads=2, window=4, patch=patch)


def shaken(network: N) -> N:
    """Every parameter moved off the zero where some start."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def scenes(count: int, side: int, seed: int) -> Tensor:
    """(count, 3, side, side): flat shapes over slopes, from their own generator."""
    generator = Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, side)
    made = []
    for _ in range(count):
        image = torch.rand(3, 1, 1, generator=generator) + 0.2 * line * torch.randn(3, 1, 1, generator=generator)
        for _ in range(4):
            normal, offset = torch.randn(2, generator=generator), 0.5 * torch.randn((), generator=generator)
            beyond = (normal[0] * line[:, None] + normal[1] * line + offset) > 0
            image = torch.where(beyond, image, 0.5 * image + 0.5 * torch.rand(3, 1, 1, generator=generator))
        made.append(image.expand(3, side, side).clamp(0, 1))
    return torch.stack(made)


def batch_of(clean: Tensor, seed: int, count: int = 2, sigma: float = 25) -> Batch:
    """Views of each scene with Gaussian noise, keys from `seed`."""
    keys = torch.arange(len(clean)) + 1000 * seed
    noise = Gaussian(sigma, sigma)
    made = [views(noise, one, Generator().manual_seed(int(key)), count) for one, key in zip(clean, keys, strict=True)]
    return Batch(list(torch.stack(made, 1)), clean, keys)


def psnr(restored: Tensor, clean: Tensor) -> float:
    return float(-10 * (restored - clean).square().mean((1, 2, 3)).log10().mean())


def naive() -> ModuleType:
    spec = importlib.util.spec_from_file_location("swin_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestSwin:
    def test_has_the_published_size(self) -> None:
        network = SwinTx(width=180, depths=(6, 6), heads=4)
        counts = [sum(p.numel() for p in part.parameters()) for part in (network, network.encoder, network.decoder)]
        assert counts == [4_061_019, 1_884_708, 2_176_311]

    @pytest.mark.parametrize("patch", [1, 2])
    def test_the_latent_has_the_tokens_of_the_padded_image(self, patch: int) -> None:
        """An odd image of 50x61 is 56x64 to a network in steps of 8."""
        network = SwinTx(width=16, depths=(1, 1), heads=2, window=8 // patch, patch=patch)
        (latent,) = network.encode(torch.rand(2, 3, 56, 64))
        assert latent.flatten(2).mT.shape == (2, 56 * 64 // patch**2, 16)
        image = np.random.default_rng(0).random((50, 61, 3), dtype=np.float32)
        assert Denoiser(TorchRuntime(network, device="cpu"))(image).shape == (50, 61, 3)

    @pytest.mark.parametrize("size", [(12, 20), (4, 4), (4, 12)])
    def test_equals_the_naive_network_with_its_gradients(self, size: tuple[int, int]) -> None:
        network = shaken(tiny_swin())
        twin = naive().naive(network)
        noisy, weight = torch.rand(2, 3, *size), torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(network(noisy), twin(noisy), rtol=1e-4, atol=1e-4)
        for each in (network, twin):
            (each(noisy) * weight).sum().backward()
        for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
            assert (mine.grad - other.grad).norm() <= 1e-3 * other.grad.norm() + 1e-5

    def test_the_position_bias_is_kept_until_a_weight_moves(self) -> None:
        bias = PositionBias(4, 2).eval()
        with torch.inference_mode():
            first = bias()
            assert bias() is first
        with torch.no_grad():
            torch._foreach_lerp_(list(bias.parameters()), [torch.zeros_like(p) for p in bias.parameters()], 0.5)
            moved = bias()
            assert not torch.equal(moved, first)
            bias.load_state_dict(PositionBias(4, 2).state_dict())
            assert not torch.equal(bias(), moved)
        assert bias().requires_grad


@pytest.mark.parametrize("build", [tiny_split, tiny_swin, lambda: tiny_swin(2)], ids=["split", "swin", "swin-2"])
class TestPurity:
    def test_the_decoders_see_nothing_but_latents(self, build: type[SplitUNet]) -> None:
        method = MeD(shaken(build()))
        shaken(method.noise_network)
        first, second = torch.rand(2, 1, 3, 16, 16)
        with torch.no_grad():
            scene, noise = method.scene.encode(first), method.noise_network.encode(first)
            expected = method.scene.decode(scene), method.cross(scene, noise), method.noise_network.decode(noise)
            method.model(second), method.noise(second)
            again = method.scene.decode(scene), method.cross(scene, noise), method.noise_network.decode(noise)
        assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
        assert torch.equal(expected[0], method.model(first))

    def test_fresh_noise_is_nothing_and_not_the_mean_colour(self, build: type[SplitUNet]) -> None:
        method = MeD(build())
        assert not method.noise(torch.rand(1, 3, 16, 16)).any()
        assert method.model(torch.full((1, 3, 16, 16), 0.4)).mean() > 0.3

    def test_the_noise_of_a_trained_twin_follows_no_offset(self, build: type[SplitUNet]) -> None:
        twin = build().make_noise_network()
        zeros = tuple(torch.zeros_like(level) for level in twin.encode(torch.rand(1, 3, 16, 16)))
        assert not twin.decode(zeros).any()


def test_a_fresh_split_network_is_the_identity() -> None:
    noisy = torch.rand(1, 3, 32, 32)
    assert (tiny_split()(noisy) - noisy).abs().max() < 1e-6


class TestMixture:
    def test_coins_are_fair_and_each_element_has_its_own(self) -> None:
        generators = [Generator().manual_seed(key) for key in range(3)]
        choice = choices(torch.empty(3, 16, 64, 64), 2, generators).float()
        assert choice.mean().item() == pytest.approx(0.5, abs=0.01)
        for one, other in [(choice[0], choice[1]), (choice[:, 0], choice[:, 1]), (choice[..., 0], choice[..., 1])]:
            assert (one == other).float().mean().item() == pytest.approx(0.5, abs=0.05)

    def test_four_views_share_evenly(self) -> None:
        choice = choices(torch.empty(1, 8, 128, 128), 4, [Generator().manual_seed(0)])
        assert torch.bincount(choice.flatten().long()).div(choice.numel()).tolist() == pytest.approx(
            [0.25] * 4, abs=0.01
        )

    def test_equal_views_stay_and_one_choice_gives_one_view(self) -> None:
        first, second, third = torch.rand(3, 2, 4, 8, 8)
        choice = choices(first, 3, [Generator().manual_seed(key) for key in range(2)])
        assert torch.equal(mix([first, first, first], choice), first)
        for number, view in enumerate([first, second, third]):
            assert torch.equal(mix([first, second, third], torch.full_like(choice, number)), view)

    def test_latent_and_target_have_masks_of_their_own(self) -> None:
        """A network whose latent is the image itself: with one mask for both, nothing would remain."""
        method = MeD(_Transparent(), noise=0, cross=0, mix=1)
        batch = batch_of(scenes(2, 16, 0), 0)
        difference = (batch.views[0] - batch.views[1]).abs().mean()
        assert method.terms(batch)["mix"].item() == pytest.approx(0.5 * difference.item(), rel=0.15)


class TestNoise:
    def test_views_share_the_level_and_nothing_else(self) -> None:
        clean = torch.full((3, 256, 256), 0.5)
        for seed in range(3):
            first, second = views(Gaussian(5, 50), clean, Generator().manual_seed(seed)) - 0.5
            assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.01
            assert first.std().item() == pytest.approx(second.std().item(), rel=0.01)

    def test_a_perfect_network_pays_what_the_other_view_costs(self) -> None:
        """sigma sqrt(2 / pi) is the least that a network can pay that has not seen its target."""
        clean = scenes(8, 64, 0)
        batch = batch_of(clean, 0)
        floor = SIGMA * (2 / torch.pi) ** 0.5
        assert floor == pytest.approx(0.0782, abs=1e-4)
        perfect = MeD(_Transparent(), noise=0, cross=0, mix=0)
        perfect.scene.encode = lambda _: (clean,)  # type: ignore[method-assign]
        assert perfect.terms(batch)["scene"].item() == pytest.approx(floor, rel=0.01)

    def test_log_mse_finds_the_mean_and_charbonnier_the_median(self) -> None:
        """Of skewed noise with mean 0.1 and median 0.069."""
        skewed = torch.distributions.Exponential(10.0).sample((64, 3, 16, 16))
        answers = torch.linspace(0.05, 0.12, 71)
        for loss, expected in ((log_mse, 0.1), (charbonnier, 0.0693)):
            costs = torch.stack([loss(answer.expand(skewed.shape), skewed) for answer in answers])
            assert answers[costs.argmin()].item() == pytest.approx(expected, abs=0.003)


class _Transparent(nn.Module):
    """Splits, and changes nothing: the latent is the image."""

    latent_widths = (3,)

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        self.encoder, self.decoder = nn.Identity(), nn.Identity()

    def encode(self, noisy: Tensor) -> tuple[Tensor, ...]:
        return (noisy,)

    def decode(self, latent: tuple[Tensor, ...]) -> Tensor:
        return latent[0]

    def make_noise_network(self) -> _Transparent:
        return _Transparent()


@pytest.fixture(scope="module")
def trained() -> MeD:
    """A small MeD after a few seconds on images of flat shapes with Gaussian noise of sigma 25."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    method = MeD(SplitUNet(widths=[32], encoders=[1], decoders=[1]))
    network, steps = method.networks["disentangler"], 200
    optimizer = Muon(network.parameters(), lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        loss = torch.stack(list(method.terms(batch_of(scenes(2, 32, step), step)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return method


@pytest.fixture(scope="module")
def held_out(trained: MeD) -> Batch:
    return batch_of(scenes(64, 32, 10**6), 10**6)


@pytest.mark.usefixtures("trained")
class TestTrained:
    def test_the_scene_is_denoised_and_pays_no_less_than_the_floor(self, trained: MeD, held_out: Batch) -> None:
        with torch.no_grad():
            scene = trained.terms(held_out)["scene"].item()
            restored = trained.model(held_out.noisy)
        assert psnr(restored, held_out.clean) > psnr(held_out.noisy, held_out.clean) + 5
        assert 0.99 * 0.0782 < scene < 0.0782 * 1.25

    def test_the_noise_latent_says_which_view_it_is(self, trained: MeD, held_out: Batch) -> None:
        first, second = held_out.views
        with torch.no_grad():
            crossed = trained.cross(trained.scene.encode(first), trained.noise_network.encode(second))
        nearer = (crossed - second).abs().mean((1, 2, 3)) < (crossed - first).abs().mean((1, 2, 3))
        assert nearer.float().mean() >= 0.99

    def test_views_agree_on_the_scene_and_not_on_the_noise(self, trained: MeD, held_out: Batch) -> None:
        first, second = held_out.views
        with torch.no_grad():
            scene = _apart(trained.scene.encode(first), trained.scene.encode(second))
            noise = _apart(trained.noise_network.encode(first), trained.noise_network.encode(second))
        assert scene < noise

    def test_mixed_latents_are_at_least_as_good(self, trained: MeD, held_out: Batch) -> None:
        _mixed_is_as_good(trained.model, held_out)

    def test_noise_is_found_as_noise(self, trained: MeD, held_out: Batch) -> None:
        with torch.no_grad():
            noise, restored = trained.noise(held_out.noisy), trained.model(held_out.noisy)
        true = held_out.noisy - held_out.clean
        assert torch.corrcoef(torch.stack([noise.flatten(), true.flatten()]))[0, 1] > 0.9
        assert psnr(held_out.noisy - noise, held_out.clean) > psnr(restored, held_out.clean) - 1


def _apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Distance of two latents over the length of the first."""
    first, second = (torch.cat([level.flatten() for level in latent]) for latent in (one, other))
    return ((first - second).norm() / first.norm()).item()


def _mixed_is_as_good(network: SplitUNet | SwinTx, batch: Batch) -> None:
    with torch.no_grad():
        latents = [network.encode(view) for view in batch.views]
        levels = zip(*latents, strict=True)
        mixed = network.decode(tuple(mix(level, choices(level[0], 2, batch.generators())) for level in levels))
        single = [psnr(network.decode(latent), batch.clean) for latent in latents]
    assert psnr(mixed, batch.clean) >= sum(single) / len(single)


def shipped(name: str) -> SplitUNet | SwinTx:
    if name not in catalog.entries():
        pytest.skip(f"'{name}' is not in the catalogue")
    network: SplitUNet | SwinTx = find_model(name).network()
    return network


@pytest.mark.skipif(not CBSD68.is_dir(), reason="the images of CBSD68 are not beside this checkout")
@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_the_shipped_model_is_near_to_one_that_saw_clean_images(sigma: int) -> None:
    """The rows of both in the paper's Table 1 are 0.2 to 0.5 dB apart; these are the middles of eight images."""
    clean = torch.stack([middle(path, 128) for path in sorted(CBSD68.iterdir())[::9]])
    batch, networks = batch_of(clean, 0, sigma=sigma), (shipped("med-gaussian"), shipped("gaussian"))
    with torch.no_grad():
        learned, taught = (psnr(network(batch.noisy).clamp(0, 1), clean) for network in networks)
    assert learned > taught - 0.7


def middle(path: Path, side: int) -> Tensor:
    """(3, side, side) in [0, 1]"""
    pixels = read(path).pages[0].pixels
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("name", ["med-gaussian", "med-pool"])
class TestShipped:
    @pytest.fixture
    def network(self, name: str) -> SplitUNet | SwinTx:
        return shipped(name)

    def test_mixed_latents_are_at_least_as_good(self, network: SplitUNet | SwinTx) -> None:
        _mixed_is_as_good(network, batch_of(scenes(4, 64, 7), 7))

    def test_odd_sizes(self, network: SplitUNet | SwinTx) -> None:
        _odd_sizes(network)


def _odd_sizes(network: nn.Module) -> None:
    denoiser = Denoiser(TorchRuntime(network, device="cpu", precision="fp32"), tile=0)
    for height, width in [(33, 47), (1, 1), (9, 8), (97, 65), (481, 321)]:
        image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
        restored = denoiser(image)
        assert restored.shape == image.shape
        assert np.isfinite(restored).all()
    image = np.random.default_rng(1).random((64, 64, 3), dtype=np.float32)
    with torch.no_grad():
        direct = network.eval()(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(denoiser(image), direct, atol=1e-5)


@pytest.mark.parametrize("build", [tiny_split, tiny_swin], ids=["split", "swin"])
def test_odd_sizes_run_and_whole_multiples_are_left_as_they_are(build: type[SplitUNet]) -> None:
    _odd_sizes(shaken(build()))


LEARNERS = {name: tiny_split if name == "med" else lambda: ResidualUNet(widths=[8, 16], blocks=[1], middle=1)
            for name in ("med", "n2n", "n2s", "r2r", "supervised")}  # fmt: skip


def build(name: str, **options: object) -> Method:
    method: Method = resolve(METHODS, name, kind="method", error=RecipeError)(LEARNERS[name](), **options)
    for network in method.networks.values():
        shaken(network)
    return method


@pytest.mark.parametrize("name", LEARNERS)
class TestContract:
    def batch(self, method: Method, count: int = 4) -> Batch:
        return batch_of(scenes(count, 16, 3), 3, method.needs.views)

    def test_an_update_moves_only_its_network(self, name: str) -> None:
        method = build(name)
        for update in method.updates:
            sum(update.terms(self.batch(method)).values()).backward()
            for name_of_one, network in method.networks.items():
                reached = [p.grad is not None and bool(p.grad.any()) for p in network.parameters()]
                assert all(reached) if name_of_one in update.moves else not any(reached)

    def test_three_steps_with_finite_terms_and_a_model(self, name: str) -> None:
        method = build(name)
        update = method.updates[0]
        optimizer = torch.optim.Adam(method.networks[update.networks].parameters(), 1e-3)
        for _ in range(3):
            terms = update.terms(self.batch(method))
            assert all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
        again = type(method.model)(**method.model.config)
        again.load_state_dict(method.model.state_dict())

    def test_samples_do_not_know_who_shares_their_batch(self, name: str) -> None:
        method = build(name)
        whole = self.batch(method)
        parts = [
            Batch([view[part] for view in whole.views], whole.clean[part], whole.keys[part])
            for part in (slice(0, 1), slice(1, 4))
        ]
        first, rest = (method.updates[0].terms(part) for part in parts)
        for term, value in method.updates[0].terms(whole).items():
            assert value.item() == pytest.approx((first[term] + 3 * rest[term]).item() / 4, rel=1e-4)

    def test_runs_again_to_the_same_number(self, name: str) -> None:
        method = build(name)
        batch = self.batch(method)
        first = {term: value.item() for term, value in method.updates[0].terms(batch).items()}
        assert {term: value.item() for term, value in method.updates[0].terms(batch).items()} == first


class TestMeD:
    def test_three_views_are_compared_in_all_orders(self) -> None:
        method = MeD(_Transparent(), views=3, noise=0, cross=0, mix=0)
        batch = batch_of(scenes(2, 16, 0), 0, 3)
        pairs = [charbonnier(batch.views[i], batch.views[j]).item() for i, j in [(0, 1), (0, 2), (1, 2)]]
        assert method.terms(batch)["scene"].item() == pytest.approx(sum(pairs) / 3)

    def test_encoders_run_once_for_each_view(self) -> None:
        method, seen = MeD(shaken(tiny_split()), views=4), []
        for encoder in (method.scene.encoder, method.noise_network.encoder):
            encoder.register_forward_hook(lambda *_: seen.append(1))
        assert set(method.terms(batch_of(scenes(1, 16, 0), 0, 4))) == {"scene", "noise", "mix", "cross"}
        assert len(seen) == 8

    @pytest.mark.parametrize(("given", "least", "most"), [(2, 0.52, 0.6), (3, 0.76, 0.84)])
    def test_a_mean_of_noisy_views_pays_only_where_the_target_is_mixed_of_them(
        self, given: int, least: float, most: float
    ) -> None:
        """In deviations of the noise: the clean answer is sqrt(2 / pi) = 0.80 away from any view."""
        network = _Transparent()
        method, batch = MeD(network, noise=0, cross=0, mix=1), batch_of(scenes(4, 64, 0), 0, 3)
        costs = []
        for answer in (batch.clean, (batch.views[0] + batch.views[1]) / 2):
            network.decode = lambda latent, value=answer: value  # type: ignore[method-assign]
            costs.append(method.terms(Batch(batch.views[:given], None, batch.keys))["mix"].item() / SIGMA)
        assert costs[0] == pytest.approx(0.80, abs=0.01)
        assert (costs[1] < costs[0]) == (given == 2)
        assert least < min(costs) < most

    def test_a_spare_view_is_only_a_target(self) -> None:
        method = MeD(shaken(tiny_split()))
        assert (method.needs.views, method.needs.spare) == (2, 1)
        batch = batch_of(scenes(2, 16, 0), 0, 3)
        others = Batch([*batch.views[:2], torch.rand_like(batch.noisy)], None, batch.keys)
        changed = {name for name, term in method.terms(batch).items() if term != method.terms(others)[name]}
        assert changed == {"mix"}
        assert MeD(tiny_split(), spare=False).needs.spare == MeD(tiny_split(), mix=0).needs.spare == 0

    def test_the_published_size_of_concatenation(self) -> None:
        extra = MeD(SwinTx(width=180, depths=(1, 1))).cross.fusion.parameters()
        assert sum(p.numel() for p in extra) == 64_980
        assert not list(MeD(tiny_split(), fuse="add").cross.fusion.parameters())

    @pytest.mark.parametrize("options", [{"views": 1}, {"fuse": "sum"}, {"mix": -1.0}, {"cross": float("nan")}])
    def test_refuses_what_makes_no_sense(self, options: dict[str, object]) -> None:
        with pytest.raises(RecipeError):
            MeD(tiny_split(), **options)

    def test_refuses_a_network_that_does_not_split(self) -> None:
        with pytest.raises(RecipeError, match="ResidualUNet has none"):
            MeD(ResidualUNet(widths=[8, 16], blocks=[1], middle=1))


class TestMissingPixels:
    @pytest.mark.parametrize(("missing", "least", "most"), [(True, 0.58, 0.62), (False, 0.2, 0.5)])
    def test_the_best_answer_is_the_image_only_if_black_is_no_target(
        self, missing: bool, least: float, most: float
    ) -> None:
        """Of gray 0.6 under noise, with 40 % of the pixels missing, answered by one value everywhere."""
        noisy = 0.6 + 0.2 * torch.randn(2, 3, 64, 64)
        views = [Drop(0.4, 0.4)(view, Generator().manual_seed(key)) for key, view in enumerate(noisy)]
        batch = Batch([view[None] for view in views], None, torch.zeros(1, dtype=torch.int64))
        network = _Transparent()
        method = MeD(network, missing=missing, cross=0, mix=1)
        answers, costs = torch.linspace(0.2, 0.8, 61), []
        for answer in answers:
            network.decode = lambda latent, value=answer: torch.full_like(latent[0], value)  # type: ignore[method-assign]
            terms = method.terms(batch)
            costs.append(terms["scene"] + terms["mix"])
        assert least < answers[torch.stack(costs).argmin()] < most

    def test_pixels_that_both_views_lack_teach_nothing(self) -> None:
        views = list(torch.rand(2, 1, 3, 16, 16) + 0.1)
        for view in views:
            view[..., :8] = 0
        method = MeD(_Transparent(), missing=True, cross=0, mix=1)
        answer = torch.zeros(1, 3, 16, 16, requires_grad=True)
        method.scene.decode = method.noise_network.decode = lambda latent: answer  # type: ignore[method-assign]
        torch.stack(list(method.terms(Batch(views, None, torch.zeros(1, dtype=torch.int64))).values())).sum().backward()
        assert answer.grad[..., 8:].all()
        assert not answer.grad[..., :8].any()

    def test_views_that_lack_nothing_pay_the_same(self) -> None:
        batch = batch_of(scenes(2, 16, 3), 3)
        network = shaken(tiny_split())
        torch.manual_seed(1)
        plain = MeD(network).terms(batch)
        torch.manual_seed(1)
        assert MeD(network, missing=True).terms(batch) == plain


class TestNoise2Self:
    def test_the_answer_does_not_depend_on_the_pixel_it_is_compared_by(self) -> None:
        method = Noise2Self(shaken(ResidualUNet(widths=[8, 16], blocks=[1], middle=1)))
        noisy = torch.rand(2, 3, 16, 16, requires_grad=True)
        phases = [(1, 2), (3, 0)]
        method.grid(method.model(method.hidden(noisy, phases)), phases).square().sum().backward()
        assert not method.grid(noisy.grad, phases).any()
        assert method.grid(noisy.grad, [(0, 2), (2, 0)]).any()

    def test_places_of_the_grid_are_all_used(self) -> None:
        method = Noise2Self(nn.Identity(), spacing=2)
        places = {method._phase(Generator().manual_seed(key)) for key in range(40)}
        assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}

    def test_neighbours_of_a_slope_average_to_it(self) -> None:
        slope = torch.arange(8.0).expand(1, 1, 8, 8)
        everywhere = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        assert torch.allclose(around(slope, everywhere)[..., 1:-1], slope[..., 1:-1])
        assert around(torch.eye(3)[None, None], everywhere[..., :3, :3])[0, 0, 1, 1].item() == pytest.approx(1 / 6)

    def test_refuses_to_hide_neighbours(self) -> None:
        with pytest.raises(RecipeError, match="hides the neighbours"):
            Noise2Self(nn.Identity(), spacing=1)


class TestRecorrupted:
    @pytest.mark.parametrize("sigma", [25.0, 0.0])
    def test_noises_of_input_and_target_are_uncorrelated(self, sigma: float) -> None:
        clean = torch.full((4, 3, 64, 64), 0.5)
        batch = batch_of(clean, 0, 1)
        noisier, target = (image - clean for image in Recorrupted(nn.Identity(), sigma=sigma).recorrupted(batch))
        assert torch.corrcoef(torch.stack([noisier.flatten(), target.flatten()]))[0, 1].abs() < 0.02
        assert noisier.std().item() == pytest.approx(SIGMA * 1.25**0.5, rel=0.02)
        assert target.std().item() == pytest.approx(SIGMA * 5**0.5, rel=0.02)

    @pytest.mark.parametrize("size", [(64, 64), (63, 65)])
    def test_the_level_of_noise_is_estimated(self, size: tuple[int, int]) -> None:
        noisy = batch_of(scenes(3, 64, 1), 1, 1, sigma=15).noisy[..., : size[0], :]
        noisy = torch.nn.functional.pad(noisy, (0, size[1] - 64, 0, 0), "reflect")
        assert estimated_sigma(noisy).flatten().tolist() == pytest.approx([15 / 255] * 3, rel=0.06)

    @pytest.mark.parametrize("options", [{"sigma": -1.0}, {"alpha": 0.0}])
    def test_rejects_invalid_options(self, options: dict[str, float]) -> None:
        with pytest.raises(RecipeError, match="cannot be"):
            Recorrupted(nn.Identity(), **options)


def test_noise_to_noise_is_in_the_table() -> None:
    assert isinstance(build("n2n"), Noise2Noise)
