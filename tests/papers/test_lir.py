"""What a faithful LIR must show, in miniature: sizes, loss terms, rhythm, and a model that needs no clean image."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_UNET
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import medcli
from medcli.archs.lir import ImageNorm, LIRNet
from medcli.archs.split import SplitUNet
from medcli.data.cache import open_cache
from medcli.data.crops import CropSampler, RecordedImages
from medcli.errors import RecipeError
from medcli.methods.base import Batch, Needs, WeightsFrom
from medcli.methods.lir import ADVERSARIES, BLURS, FLAT, LIR, Background, bell, blurred
from medcli.methods.semantic import StructuralFilters, distance
from medcli.train.adapt.sure import noise_statistics
from medcli.train.hardware import Hardware
from medcli.train.loop import Limits, Trainer
from medcli.train.recipe import Recipe
from medcli.train.run import TrainOptions, build_method, train
from medcli.train.stein import SteinValidation
from medcli.train.validation import Validation
from medcli.zoo import weights

CPU = Hardware(torch.device("cpu"), torch.float32, workers=0)
PAPER = {"width": 64, "norm": "batch", "up_norm": "layer", "output": "tanh", "carried": False}
RECIPE = Recipe(id="x", title="", steps=2, patch=64, batch=2, warmup=1, learning_rate=0.01)


def tiny(**config: Any) -> LIRNet:
    torch.manual_seed(0)
    return LIRNet(**{"width": 16, "blocks": 1} | config)


def scenes(count: int, side: int = 64, seed: int = 0) -> Tensor:
    """Slopes with an edge and two channels in common, (B, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, side)
    a, b, c = torch.randn(3, count, 3, 1, 1, generator=generator)
    return (0.5 + 0.2 * a * line + 0.2 * b * line[:, None] + 0.2 * ((line > c[:, :1]).float() - 0.5)).clamp(0, 1)


def unpaired(count: int = 2, side: int = 64) -> Batch:
    noisy = scenes(count, side) + 0.1 * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(9))
    return Batch([noisy], scenes(count, side, seed=1), torch.arange(count))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestSizes:
    """Property 1 and 2: those of the published configuration."""

    def test_parameters_of_the_paper(self) -> None:
        with torch.device("meta"):
            network = LIRNet(**PAPER)
            method = LIR(network, noise_code_channels=256)
        found = {name: count(part) for name, part in method.networks["translators"].items()}
        assert count(network) == 11_149_571
        assert count(network.encoder) == 5_390_848
        assert count(network.decoder) == 5_758_723
        assert found == {"model": 11_149_571, "E_Y": 5_390_848, "E_N": 731_904, "G_X": 23_002_627}
        assert count(method.networks["D_X"]) == count(method.networks["D_Y"]) == 8_271_171 == 3 * 2_757_057
        assert count(method.networks["D_R"]) == 2_360_577

    def test_the_shipped_size(self) -> None:
        with torch.device("meta"):
            assert count(LIRNet(norm="batch", up_norm="layer", carried=False)) == 2_795_651
            assert 2.7e6 < count(LIRNet()) < 2.9e6

    def test_shapes(self) -> None:
        method = LIR(LIRNet(**{**PAPER, "width": 8}), noise_code_channels=32)
        image = torch.rand(2, 3, 64, 64)
        assert method.split.encode(image)[0].shape == method.noise_encoder(image)[0].shape == (2, 32, 16, 16)
        assert [score.shape[2:] for score in method.clean_critic(image)] == [(4, 4), (2, 2), (1, 1)]
        assert [score.shape for score in method.code_critic(method.split.encode(image))] == [(2, 1, 1, 1)]

    def test_layer_norm_is_of_the_image_and_unbiased(self) -> None:
        layer = ImageNorm(4)
        nn.init.ones_(layer.weight)
        image = torch.randn(2, 4, 6, 6) * torch.tensor([1.0, 5.0])[:, None, None, None]
        normed = layer(image)
        assert torch.allclose(normed.std((1, 2, 3)), torch.ones(2), atol=1e-4)
        assert torch.allclose(normed[0], (image[0] - image[0].mean()) / (image[0].std() + 1e-5), atol=1e-5)


class TestBackground:
    """Property 3."""

    def test_kernels_are_nearly_flat(self) -> None:
        lines = [bell(side, FLAT) for side, _ in BLURS]
        assert [round(float(line[0] / line[len(line) // 2]), 3) for line in lines] == [0.997, 0.987, 0.962]
        assert all(float(line.sum()) == pytest.approx(1) for line in lines)

    @pytest.mark.parametrize("literal", [False, True])
    def test_distance_of_equal_images_and_of_a_constant(self, literal: bool) -> None:
        image, background = torch.rand(2, 3, 24, 32), Background(literal=literal)
        assert background(image, image).item() == 0
        assert background(image - 0.2, image).item() == pytest.approx(1.75 * 0.2, rel=1e-5)

    def test_blur_is_a_convolution_with_reflected_borders(self) -> None:
        image, line = torch.rand(1, 2, 20, 24), bell(9, 1.5)
        padded = nn.functional.pad(image, [4] * 4, mode="reflect")
        kernel = (line[:, None] * line).expand(2, 1, -1, -1)
        assert torch.allclose(blurred(image, line), nn.functional.conv2d(padded, kernel, groups=2), atol=1e-6)

    def test_noise_is_hardly_seen(self) -> None:
        noise = 0.1 * torch.randn(4, 3, 64, 64)
        assert Background()(noise, torch.zeros_like(noise)) < 0.2 * 1.75 * noise.abs().mean()


class TestTerms:
    """Property 4 and 5."""

    def test_weights_of_the_paper(self) -> None:
        method, batch = LIR(tiny()), unpaired()
        assert list(method.weights.values()) == [1, 1, 10, 10, 5, 1, 0.01]
        terms = method.terms(batch)
        for name, weight in method.weights.items():
            method.weights[name] = 2 * weight
        doubled = method.terms(batch)
        assert all(doubled[name].item() == pytest.approx(2 * term.item(), rel=1e-5) for name, term in terms.items())
        assert set(terms) == set(method.weights)

    def test_each_term_by_hand(self) -> None:
        method, batch = LIR(tiny()), unpaired()
        x, y, net = batch.noisy, batch.clean, method.split
        zx, zy, n = net.encoder(x), method.clean_encoder(y), method.noise_encoder(x)
        x2y, y2x = net.decoder(zx), method.noisy_generator(zy, n)
        back = method.clean_encoder(x2y), net.encoder(y2x), method.noise_encoder(y2x)
        x_cyc, y_cyc = method.noisy_generator(back[0], back[2]), net.decoder(back[1])
        d = {"codes": [*method.code_critic(zx), *method.code_critic(zy)]}
        d["images"] = [*method.noisy_critic(y2x), *method.clean_critic(x2y)]
        expected = {
            "codes": sum((score - 0.5).square().mean() for score in d["codes"]),
            "adversarial": sum((score - 1).square().mean() for score in d["images"]),
            "cycle": 10 * ((x_cyc - x).abs().mean() + (y_cyc - y).abs().mean()),
            "reconstruction": 10
            * ((method.noisy_generator(zx, n) - x).abs().mean() + (net.decoder(zy) - y).abs().mean()),
            "background": 5 * (method.background(x2y, x) + method.background(y2x, y)),
            "semantic": distance(method.networks["features"](x2y), method.networks["features"](x))
            + distance(method.networks["features"](y2x), method.networks["features"](y)),
            "kl": 0.01 * sum(code[0].square().mean() for code in (zx, zy, n, *back)),
        }
        terms = method.terms(batch)
        assert all(terms[name].item() == pytest.approx(float(value), rel=1e-4) for name, value in expected.items())

    def test_perfect_translations_leave_adversaries_and_codes(self) -> None:
        """Where nothing is filtered and no noise added, translations are the images."""
        method = LIR(tiny())
        method.split.encoder.carry.passes("all")
        nn.init.zeros_(method.noisy_generator.fusion.reduce[0].weight[:, 64:])
        terms = {name: term.item() for name, term in method.terms(unpaired()).items()}
        assert all(terms[name] < 1e-5 for name in ("cycle", "reconstruction", "background", "semantic"))
        assert terms["adversarial"] > 0.1
        assert terms["kl"] > 0

    def test_undecided_critics(self) -> None:
        method, batch = LIR(tiny()), unpaired()
        for critic in (method.noisy_critic, method.clean_critic, method.code_critic):
            lasts = critic.last if critic is method.code_critic else [scale[-1] for scale in critic.scales]
            for last in lasts:
                nn.init.zeros_(last.weight)
                nn.init.constant_(last.bias, 0.5)
        judged = method.judge_images(batch)
        assert judged["noisy_critic"].item() == judged["clean_critic"].item() == pytest.approx(3 * 0.5)
        assert method.judge_codes(batch)["code_critic"].item() == pytest.approx(0.5)
        terms = method.terms(batch)
        assert terms["adversarial"].item() == pytest.approx(2 * 3 * 0.25)
        assert terms["codes"].item() == 0

    @pytest.mark.parametrize("kind", ADVERSARIES)
    def test_adversaries_point_the_right_way(self, kind: str) -> None:
        adversary, low, high = ADVERSARIES[kind], torch.tensor([-1.0]), torch.tensor([2.0])
        assert adversary.real(high) < adversary.real(low)
        assert adversary.fake(low) < adversary.fake(high)
        assert adversary.passes(high) < adversary.passes(low)
        middle = torch.tensor([0.5 if kind == "squares" else 0.0])
        assert adversary.even(middle) == pytest.approx(0, abs=1e-6)
        assert min(adversary.even(low), adversary.even(high)) > 0

    def test_code_noise_is_the_same_in_all_decodings_of_a_step(self) -> None:
        method, batch = LIR(tiny(), code_noise=1.0), unpaired()
        codes = method.split.encode(batch.noisy)
        first, again = method._shaken(codes, batch, 0)[0], method._shaken(codes, batch, 0)[0]
        assert torch.equal(first, again)
        assert not torch.equal(first, method._shaken(codes, batch, 1)[0])
        assert (first - codes[0]).std().item() == pytest.approx(1, abs=0.05)
        terms = [LIR(tiny(), code_noise=value).terms(batch)["cycle"].item() for value in (0.0, 1.0)]
        assert terms[1] > terms[0] + 0.1

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"cycle": -1.0}, "cannot be -1"),
            ({"adversary": "hinge"}, "no adversary"),
            ({"semantic": "vgg"}, "no features"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(RecipeError, match=words):
            LIR(tiny(), **options)

    def test_needs_two_halves(self) -> None:
        with pytest.raises(RecipeError, match="two halves"):
            LIR(weights.build(weights.Card("x", "unet", TINY_UNET)))


class TestSemantic:
    def test_sees_content_and_not_noise(self) -> None:
        features = StructuralFilters()
        images = scenes(6, 64)
        noisy = images + 25 / 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        same = distance(features(images), features(noisy))
        assert same < distance(features(images), features(images.flip(0))) / 3
        assert distance(features(images), features(0.8 * images + 0.1)) < same

    def test_features_of_vgg(self) -> None:
        """Random weights of the right names and shapes; conv4_1 has 512 channels at an eighth of the size."""
        shapes = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), *[(256, 256)] * 3, (512, 256)]
        places = [0, 2, 5, 7, 10, 12, 14, 16, 19]
        tensors = {
            f"features.{place}.weight": 0.05 * torch.randn(*shape, 3, 3)
            for place, shape in zip(places, shapes, strict=True)
        }
        tensors |= {
            f"features.{place}.bias": torch.zeros(shape[0]) for place, shape in zip(places, shapes, strict=True)
        }
        method = LIR(tiny(), semantic="vgg19:vgg.pth", semantic_layer="conv4_1")
        assert method.weights_from == WeightsFrom("tensors", "vgg.pth")
        method.take_weights(tensors)
        (features,) = method.networks["features"](torch.rand(1, 3, 64, 64))
        assert features.shape == (1, 512, 8, 8)
        assert features.mean((2, 3)).abs().max() < 1e-4
        assert method.terms(unpaired())["semantic"].item() > 0
        assert not any(p.requires_grad for p in method.networks["features"].parameters())
        with pytest.raises(RecipeError, match="does not hold VGG-19 up to conv5_1"):
            LIR(tiny(), semantic="vgg19:vgg.pth").take_weights(tensors)
        with pytest.raises(RecipeError, match="no layer 'conv6_1'"):
            LIR(tiny(), semantic="vgg19:vgg.pth", semantic_layer="conv6_1").take_weights(tensors)

    def test_features_of_an_encoder(self, tmp_path: Path) -> None:
        start, path = tiny(), tmp_path / "start.safetensors"
        weights.save(path, start, weights.Card("start", "lir", start.config, licence="MIT"))
        recipe = replace(RECIPE, method="lir", architecture="lir", config=start.config)
        method = build_method(replace(recipe, options={"semantic": f"encoder:{path}"}), CPU)
        (features,) = method.networks["features"](torch.rand(1, 3, 32, 32))
        assert features.shape == (1, 64, 8, 8)
        with pytest.raises(RecipeError, match="no encoder"):
            LIR(tiny()).take_weights(nn.Identity())
        with pytest.raises(RecipeError, match="no file"):
            build_method(replace(recipe, options={"semantic": f"vgg19:{tmp_path / 'none.pth'}"}), CPU)


class TestRhythm:
    """Property 6 and 8."""

    def test_updates_move_their_own_networks(self, tmp_path: Path) -> None:
        method, batch = LIR(tiny()), unpaired()
        trainer = Trainer(method, RECIPE, CPU, tmp_path, lambda _: None)
        moves = {"D_R": {"D_R"}, "D": {"D_X", "D_Y"}, "translators": {"translators"}}
        for title, update in trainer.updates.items():
            before = {name: [p.clone() for p in net.parameters()] for name, net in method.networks.items()}
            trainer._make(update, batch, 0.01)
            moved = {
                name
                for name, net in method.networks.items()
                if any(not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True))
            }
            assert moved == moves[title]

    def test_four_steps_of_codes_for_one_of_the_others(self, tmp_path: Path) -> None:
        method = LIR(tiny())
        trainer = Trainer(method, RECIPE, CPU, tmp_path, lambda _: None)
        calls: Counter[str] = Counter()
        method.code_critic.register_forward_pre_hook(lambda *_: calls.update(["D_R"]))
        method.clean_critic.register_forward_pre_hook(lambda *_: calls.update(["D_Y"]))
        method.noise_encoder.register_forward_pre_hook(lambda *_: calls.update(["E_N"]))
        trainer._train_step(unpaired(), 0.0)
        # twice in each step of a critic, and for the translators twice (codes) and once (images)
        assert calls == {"D_R": 2 * 4 + 2, "D_Y": 2 + 1, "E_N": 1 + 2}
        assert [float(update.update.clip or 0) for update in trainer.updates.values()] == [5.0, math.inf, 0.0]
        rates = [update.update.learning_rate for update in trainer.updates.values()]
        assert rates[0] == 0.5 * rates[1]

    def test_noise_branch_learns_from_reconstruction(self) -> None:
        method = LIR(tiny(), codes=0, adversarial=0, cycle=0, background=0, semantic="none", kl=0)
        method.terms(unpaired())["reconstruction"].backward()
        for part in (method.noise_encoder, method.noisy_generator):
            assert any(p.grad is not None and p.grad.any() for p in part.parameters())
        kept = {id(p) for p in method.model.parameters()}
        assert kept.isdisjoint(
            id(p) for part in (method.noise_encoder, method.noisy_generator) for p in part.parameters()
        )

    def test_never_needs_the_clean_version(self) -> None:
        assert LIR.needs == Needs(clean="unpaired")

    def test_without_noise_encoder_the_code_has_no_channels(self) -> None:
        method = LIR(tiny(), noise_code_channels=0)
        assert method.noise_encoder(torch.rand(1, 3, 16, 16))[0].shape == (1, 0, 4, 4)
        assert count(method.noise_encoder) == 0
        assert all(torch.isfinite(term) for term in method.terms(unpaired()).values())

    def test_terms_of_weight_zero_are_left_out(self) -> None:
        method = LIR(tiny(), codes=0, semantic="none")
        assert set(method.terms(unpaired())) == {"adversarial", "cycle", "reconstruction", "background", "kl"}
        assert [update.title for update in method.updates] == ["D", "translators"]

    def test_trains_other_networks_of_two_halves(self) -> None:
        method = LIR(SplitUNet(widths=[12, 16], encoders=[1, 1], decoders=[1, 1]))
        terms = method.terms(unpaired())
        torch.stack(list(terms.values())).sum().backward()
        assert all(math.isfinite(term.item()) for term in terms.values())
        assert method.split.encode(unpaired().noisy)[0].shape[1] == 12


class TestModel:
    """Property 7."""

    @pytest.mark.parametrize("config", [{}, {"norm": "batch", "up_norm": "layer", "output": "tanh", "carried": False}])
    def test_restores_any_size(self, config: dict[str, Any], tmp_path: Path) -> None:
        network = tiny(**config)
        path = tmp_path / "tiny.safetensors"
        weights.save(path, network, weights.Card("tiny", "lir", network.config, licence="MIT"))
        denoise = medcli.load(path, device="cpu")
        for height, width in ((8, 8), (9, 30), (33, 14)):
            noisy = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            restored = denoise(noisy)
            assert restored.shape == noisy.shape
            assert restored.dtype == np.uint8
            assert np.array_equal(restored, denoise(noisy))

    def test_a_new_one_smooths(self) -> None:
        noisy = torch.rand(2, 3, 16, 24)
        line = torch.tensor([1.0, 8, 28, 56, 70, 56, 28, 8, 1]) / 256
        kernel = (line * line[:, None]).expand(3, 1, 9, 9)
        smooth = nn.functional.conv2d(nn.functional.pad(noisy, [4] * 4, mode="reflect"), kernel, groups=3)
        assert torch.allclose(tiny()(noisy), smooth, atol=1e-5)

    @pytest.mark.parametrize("width", [48, 64])
    def test_new_parts_divide_an_image(self, width: int) -> None:
        """G_X of z and z^N is the noisy image at first, G_Y of a clean one's z the clean one."""
        method, batch = LIR(tiny(), noise_code_channels=width), unpaired()
        terms = method.terms(batch)
        assert terms["reconstruction"].item() < (0.2 if width == 48 else 1e-4)
        assert terms["cycle"].item() > 0.1

    def test_no_parameter_is_of_the_training_branches(self) -> None:
        method = LIR(tiny())
        assert set(dict(method.model.named_children())) == {"encoder", "decoder"}

    @pytest.mark.parametrize(
        ("config", "words"),
        [({"norm": "instance"}, "norm must be"), ({"output": "relu"}, "output"), ({"width": 8}, "12")],
    )
    def test_refuses_what_it_cannot_build(self, config: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            tiny(**config)

    def test_tells_whether_tiles_agree(self) -> None:
        assert not tiny().global_context
        assert tiny(up_norm="layer").global_context


class TestUnpairedRun:
    """Folders of noisy and clean images, without a pair."""

    @staticmethod
    def folders(tmp_path: Path, *, same: int = 0) -> tuple[Path, Path]:
        """Ten noisy images and ten clean ones of other scenes; the first `same` have a counterpart."""
        shown = scenes(20, 96), torch.randn(20, 3, 96, 96, generator=torch.Generator().manual_seed(5))
        clean, noise = ((255 * each).permute(0, 2, 3, 1).numpy() for each in (shown[0], 0.08 * shown[1]))
        for name in ("noisy", "clean"):
            (tmp_path / name).mkdir()
        for number in range(10):
            noisy = (clean[number] + noise[number]).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "noisy" / f"{number}.png")
            other = clean[number if number < same else number + 10].astype(np.uint8)
            Image.fromarray(other).save(tmp_path / "clean" / f"{number}.png")
        return tmp_path / "noisy", tmp_path / "clean"

    @staticmethod
    def options(tmp_path: Path, noisy: Path, clean: Path) -> TrainOptions:
        options = TrainOptions(
            tmp_path / "run", noisy=[noisy], clean=[clean], device="cpu", precision="fp32", workers=0
        )
        return replace(options, cache=tmp_path / "cache", limits=Limits(report_every=1))

    def test_is_validated_without_clean_images(self, tmp_path: Path) -> None:
        recipe = replace(RECIPE, method="lir", architecture="lir", config={"width": 16, "blocks": 1}, held_out=0.2)
        said: list[str] = []
        lines: list[dict[str, float]] = []
        train(recipe, self.options(tmp_path, *self.folders(tmp_path, same=1)), lines.append, said.append)
        assert any("1 clean images of the same scenes" in line for line in said)
        (scores,) = (line for line in lines if "val_psnr_estimate" in line)
        assert 15 < scores["val_psnr_estimate"] < 45
        assert 5 < scores["val_removed_sigma"] < 40
        assert 0 <= scores["val_removed_structure"] <= 1
        sheet = Image.open(tmp_path / "run" / "validation.png")
        assert sheet.width > 7 * 64  # noisy, restored, noise, and four translations

    def test_estimate_is_close_to_the_truth(self, tmp_path: Path) -> None:
        noisy, clean = self.folders(tmp_path, same=10)
        method, cache = LIR(tiny()), tmp_path / "cache"
        images = open_cache(sorted(noisy.iterdir()), cache, smallest=64)
        source = RecordedImages([images], CropSampler(64), 0)
        seen = noise_statistics(images)
        estimate = SteinValidation(source, by_psnr=False, seen=seen).score(method, method.model, CPU)
        pairs = RecordedImages(
            [images], CropSampler(64), 0, open_cache(sorted(clean.iterdir()), cache, smallest=64), True
        )
        truth = Validation(pairs, by_psnr=True).score(method, method.model, CPU)
        wrong, right = (10 ** (-figure / 10) for figure in (estimate["val_psnr_estimate"], truth["psnr"]))
        assert wrong == pytest.approx(right, abs=0.1 * 0.08**2)  # a tenth of the noise's variance

    def test_pairs_are_refused(self, tmp_path: Path) -> None:
        recipe = replace(RECIPE, method="lir", architecture="lir", config={"width": 16, "blocks": 1})
        with pytest.raises(RecipeError, match="these are pairs"):
            train(recipe, self.options(tmp_path, *self.folders(tmp_path, same=10)), lambda _: None, lambda _: None)


DATA = Path(__file__).parents[2].parent / "shared" / "data"
KEPT = (
    "cid22/1129482.jpg",
    "cid22/3044702.jpg",
    "photos/artwork_IMG_0597-solus_y104_x0.jpg",
    "photos/deepin_Perito_Moreno_Glacier_y144_x0.jpg",
    "photos/wallpapers_Fabio_Sussarellu_y0_x1408.jpg",
)  # of the images that nothing was trained on


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared test images are not here")
class TestShippedModel:
    """Properties 9 and 10: what the weights are worth on images that they were not trained on."""

    def test_gaussian_noise_clipped_to_8_bits(self) -> None:
        paths = sorted((DATA / "test" / "cbsd68").iterdir())[::6]
        draws, denoise, gains = np.random.default_rng(0), medcli.load("lir", device="cpu"), []
        for clean in (np.asarray(Image.open(path).convert("RGB")) for path in paths):
            noisy = (clean + 25 * draws.standard_normal(clean.shape)).round().clip(0, 255).astype(np.uint8)
            gains.append(psnr(denoise(noisy), clean) - psnr(noisy, clean))
        assert np.mean(gains) > 5
        assert min(gains) > -0.1

    def test_poisson_noise(self) -> None:
        draws, denoise, gains = np.random.default_rng(0), medcli.load("lir", device="cpu"), []
        for path in KEPT:
            clean = np.asarray(Image.open(DATA / "train" / path).convert("RGB"))[:256, :256]
            noisy = draws.poisson(clean).clip(0, 255).astype(np.uint8)
            gains.append(psnr(denoise(noisy), clean) - psnr(noisy, clean))
        assert np.mean(gains) > 1


def psnr(image: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - clean) ** 2)))
