"""LIR: a denoiser from noisy and clean images of different scenes, by translation between the two domains.

Du, Chen and Yang, Learning Invariant Representation for Unsupervised Image Restoration (CVPR 2020), section 3.

In the paper's notation: X are noisy images and Y clean ones. E_X and E_Y encode an image as z, its content; E_N encodes
the noise of a noisy image as z^N. G_Y makes a clean image of z, G_X a noisy one of z and z^N. D_X and D_Y tell real
images from generated ones, D_R codes of noisy images from those of clean ones. E_X and G_Y are the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from medcli.archs import lir
from medcli.archs.lir import LIRNet
from medcli.errors import RecipeError
from medcli.losses import l1
from medcli.methods.base import Batch, Needs, Terms, Update, WeightsFrom
from medcli.methods.med import Latent, SplitNetwork
from medcli.methods.semantic import EncoderFeatures, StructuralFilters, VGG19Features, distance
from medcli.registry import nearest
from medcli.seeding import derived_seed

SCALES = 3  # of an image's discriminator
SMALLEST = 16  # pixels: side of what a discriminator sees
BLURS = ((5, 0.25), (9, 0.5), (15, 1.0))  # equation 10: side of a kernel (as printed: its sigma) and weight
FLAT = 25.0  # pixels: sigma of the kernels in the published code, where 5, 9 and 15 are their sides
BETAS = (0.0, 0.9)
DECAY = 1e-4  # of all weights


class NoiseEncoder(nn.Module):
    """E_N: noisy images -> z^N, (B, code_channels, H / 4, W / 4).

    Carries, as the network does, what the network's own filter removes at first, if `code_channels` have room for it.
    """

    def __init__(self, network: LIRNet, code_channels: int) -> None:
        super().__init__()
        self.down = lir.down(network.channels, network.width, network.config["norm"])
        self.code = nn.Conv2d(4 * network.width, code_channels, 1)
        has_room = code_channels >= network.channels * lir.STEP**2
        self.carry = lir.Carry(network.channels, code_channels) if network.encoder.carry and has_room else None
        if self.carry:
            self.carry.passes("rest")

    def forward(self, noisy: Tensor) -> Latent:
        code: Tensor = self.code(self.down(noisy))
        return (code if self.carry is None else self.carry(code, noisy),)


class WithoutNoise(nn.Module):
    """In the place of E_N where noise has no code: latents without channels."""

    def __init__(self, content: nn.Module) -> None:
        super().__init__()
        self.content = [content]  # in a list: its parameters are not this module's

    def forward(self, noisy: Tensor) -> Latent:
        with torch.no_grad():
            return tuple(level[:, :0] for level in self.content[0](noisy))


class Joined(nn.Module):
    """z and z^N, concatenated."""

    def forward(self, content: Latent, noise: Latent) -> Latent:
        return tuple(torch.cat(pair, 1) for pair in zip(content, noise, strict=True))


class Fused(nn.Module):
    """z and z^N, concatenated and projected to the width of z by 1x1 convolutions.

    At first that is z, plus the first `carried` channels of z^N, where both carry pixels.
    """

    def __init__(self, widths: Sequence[int], noise_widths: Sequence[int], carried: int = 0) -> None:
        super().__init__()
        pairs = zip(widths, noise_widths, strict=True)
        self.reduce = nn.ModuleList(nn.Conv2d(width + noise, width, 1) for width, noise in pairs)
        with torch.no_grad():
            for layer in self.reduce:
                assert isinstance(layer, nn.Conv2d)
                layer.weight.mul_(0.1)
                both, width = layer.weight[..., 0, 0], layer.out_channels
                both[:, :width] = torch.eye(width)
                both[:, width : width + carried] = torch.eye(width)[:, :carried]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, content: Latent, noise: Latent) -> Latent:
        pairs = zip(self.reduce, content, noise[: len(content)], strict=True)
        return tuple(reduce(torch.cat((one, other), 1)) for reduce, one, other in pairs)


class NoisyGenerator(nn.Module):
    """G_X: z and z^N -> a noisy image, (B, C, H, W), about [0, 1]."""

    def __init__(self, fusion: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.fusion, self.decoder = fusion, decoder

    def forward(self, content: Latent, noise: Latent) -> Tensor:
        image: Tensor = self.decoder(self.fusion(content, noise))
        return image


class ImageCritic(nn.Module):
    """D_X or D_Y: images -> a map of scores at each of three scales, each half the size of the one before.

    Patches of less than 64 pixels have fewer scales, those of less than 16 none.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(self._of_one_scale(channels, width) for _ in range(SCALES))
        self.apply(_as_critic)

    def forward(self, images: Tensor) -> list[Tensor]:
        scores = []
        for critic in self.scales:
            if min(images.shape[2:]) < SMALLEST:
                break
            scores.append(critic(images - 0.5).float())
            images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
        return scores

    @staticmethod
    def _of_one_scale(channels: int, width: int) -> nn.Sequential:
        widths = (channels, width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


class CodeCritic(nn.Module):
    """D_R: latents -> one score (B, 1, 1, 1) for each level."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        levels = [nn.ModuleList(nn.Conv2d(width, width, 3, 2) for _ in range(4)) for width in widths]
        self.levels = nn.ModuleList(levels)
        self.last = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)
        self.apply(_as_critic)

    def forward(self, latent: Latent) -> list[Tensor]:
        return [self._score(*level) for level in zip(self.levels, self.last, latent, strict=True)]

    @staticmethod
    def _score(layers: Any, last: nn.Module, code: Tensor) -> Tensor:
        for layer in layers:
            mode = "reflect" if min(code.shape[2:]) > 1 else "replicate"
            code = F.leaky_relu(layer(F.pad(code, [1] * 4, mode=mode)), 0.01)
        score: Tensor = last(code.mean((2, 3), keepdim=True))
        return score.float()


def _as_critic(layer: nn.Module) -> None:
    """Departs: Kaiming's initialisation, as a deviation of 0.02 lets signals vanish in layers of few channels."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, 0.2)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Adversary(NamedTuple):
    """Losses of scores. real, fake: of a critic for such inputs; passes: for fakes that should pass as real; even: for
    codes that should not be recognised as either."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    passes: Callable[[Tensor], Tensor]
    even: Callable[[Tensor], Tensor]


def _even_in_log(score: Tensor) -> Tensor:
    return 0.5 * (F.softplus(score) + F.softplus(-score)).mean() - math.log(2)


ADVERSARIES: Mapping[str, Adversary] = {
    "squares": Adversary(
        real=lambda score: (score - 1).square().mean(),
        fake=lambda score: score.square().mean(),
        passes=lambda score: (score - 1).square().mean(),
        even=lambda score: (score - 0.5).square().mean(),
    ),
    "log": Adversary(
        real=lambda score: F.softplus(-score).mean(),
        fake=lambda score: F.softplus(score).mean(),
        passes=lambda score: F.softplus(-score).mean(),
        even=_even_in_log,
    ),
}
"""Least squares as in the published code, and logarithms as in equations 9, 12 and 13 (generators maximize log D)."""


class Background(nn.Module):
    """Equation 10: weighted L1 distance of two blurred images, summed over the blurs; a mean over pixels.

    literal: kernels of sigma 5, 9 and 15, as printed; otherwise of these sides, with sigma 25.
    """

    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self.lines = [bell(6 * n + 1, float(n)) if literal else bell(n, FLAT) for n, _ in BLURS]

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        difference = (one - other).float()  # blurring is linear
        parts = [weight * blurred(difference, line) for line, (_, weight) in zip(self.lines, BLURS, strict=True)]
        return torch.stack([part.abs().mean() for part in parts]).sum()


def bell(side: int, sigma: float) -> Tensor:
    """(side,) of a Gaussian, with sum 1."""
    bell = torch.exp(-((torch.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    return bell / bell.sum()


def blurred(image: Tensor, line: Tensor) -> Tensor:
    """Rows and columns of (B, C, H, W) float32 filtered with (side,); same shape, borders are reflected.

    As products with matrices, which is many times faster on a CPU than filtering each channel.
    """
    rows, columns = (_filtering(side, line).to(image) for side in image.shape[2:])
    with torch.autocast(image.device.type, enabled=False):
        return rows.T @ image @ columns


def _filtering(side: int, line: Tensor) -> Tensor:
    """(side, side): its product with a row of pixels is the filtered row; where the filter is wider than the row, the
    border is repeated."""
    radius = len(line) // 2
    mode = "reflect" if radius < side else "replicate"
    return F.pad(torch.eye(side)[None], (radius, radius), mode=mode)[0].unfold(1, len(line), 1) @ line


class Codes(NamedTuple):
    """z of noisy and clean images, and z^N of the noisy ones."""

    noisy: Latent
    clean: Latent
    noise: Latent


class Translations(NamedTuple):
    """Equations 3 and 4: noisy images without noise, clean ones with noise; and the codes that they are made of."""

    codes: Codes
    restored: Tensor
    degraded: Tensor


class LIR:
    """Four steps of D_R for one of D_X and D_Y, and one of all encoders and generators.

    network: E_X and G_Y: `lir`, or another network in two halves (`SplitNetwork`), of which the others are copies.
    noise_code_channels: width of z^N; for `lir`, 4 * width joins it to z as in the paper, and less is projected; 0 is
    without E_N. codes, adversarial, cycle, reconstruction, background, semantic_weight, kl: weights of the terms; those
    of weight 0 are not computed. semantic: features compared: "filters" (a structural surrogate), "encoder:MODEL" (a
    model trained by 'med' or 'lir'), "vgg19:FILE" (torchvision's weights; semantic_layer: which layer) or "none".
    adversary: "squares" or "log". literal_blur: see `Background`. code_noise: deviation of the noise on codes in
    training, 1 in the published code, 0 in the paper. stop: whether the gradient of the translation back ends at the
    translated images. critic_rate: peak learning rate of D_X and D_Y; D_R has half.
    Raises RecipeError for invalid options or a network that is not split.

    From the published code: least squares, the blurs, the KL weight on six codes, the rhythm, the clipping of D_R.
    Departs: the published generator step also moves D_R, towards the encoders' aim; here it does not.
    Departs: `stop`. Otherwise the easiest way to translate back is to translate nothing, which ends the learning.
    Departs: no noise on the codes by default, as it drowns the pixels that `lir` carries in them.
    """

    needs = Needs(clean="unpaired")
    usual_network = "lir"

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool:
        """Networks in two halves."""
        return hasattr(architecture, "make_noise_network")

    def __init__(
        self,
        network: nn.Module,
        *,
        noise_code_channels: int = 48,
        codes: float = 1.0,
        adversarial: float = 1.0,
        cycle: float = 10.0,
        reconstruction: float = 10.0,
        background: float = 5.0,
        semantic: str = "filters",
        semantic_layer: str = "conv5_1",
        semantic_weight: float = 1.0,
        kl: float = 0.01,
        adversary: str = "squares",
        literal_blur: bool = False,
        code_noise: float = 0.0,
        stop: bool = True,
        critic_optimizer: str = "muon",
        critic_rate: float = 5e-3,
    ) -> None:
        split = _split(network)
        self.weights = {
            "codes": codes,
            "adversarial": adversarial,
            "cycle": cycle,
            "reconstruction": reconstruction,
            "background": background,
            "semantic": 0.0 if semantic == "none" else semantic_weight,
            "kl": kl,
        }
        _check(self.weights | {"code_noise": code_noise}, adversary)
        self.model, self.split, self.code_noise, self.stop = network, split, code_noise, stop
        self.adversary, self.background = ADVERSARIES[adversary], Background(literal=literal_blur)
        self.weights_from, self._layer = _weights_from(semantic), semantic_layer
        parts = _translators(network, split, noise_code_channels)
        self.clean_encoder, self.noise_encoder, self.noisy_generator = (parts[name] for name in ("E_Y", "E_N", "G_X"))
        width = network.width if isinstance(network, LIRNet) else split.latent_widths[0]
        self.noisy_critic, self.clean_critic = (ImageCritic(split.config["channels"], width) for _ in range(2))
        self.code_critic = CodeCritic(split.latent_widths)
        self.networks: dict[str, nn.Module] = {
            "translators": parts,
            "D_R": self.code_critic,
            "D_X": self.noisy_critic,
            "D_Y": self.clean_critic,
            "features": StructuralFilters(),
        }
        self.critic_optimizer = critic_optimizer
        self.updates = list(self._updates(critic_rate))
        self._kept: tuple[Batch, Translations] | None = None

    def take_weights(self, weights: nn.Module | Mapping[str, Tensor]) -> None:
        """The network, or VGG-19's tensors, whose features are compared."""
        if isinstance(weights, nn.Module):
            self.networks["features"] = EncoderFeatures(weights)
        else:
            self.networks["features"] = VGG19Features(weights, self._layer)

    def shown(self, batch: Batch) -> Mapping[str, Tensor]:
        """Clean images with the noise of noisy ones, and both translated back."""
        made = self._translated(batch)
        content, noise = self.clean_encoder(made.restored), self.noise_encoder(made.degraded)
        return {
            "other, clean": _clean(batch),
            "other with this noise": made.degraded,
            "noisy, there and back": self._noisy(content, noise, batch),
            "other, there and back": self._restored(self.split.encoder(made.degraded), batch),
        }

    def _updates(self, rate: float) -> Iterator[Update]:
        """In the published order: three steps of D_R, one of all critics, one of the translators.

        D_R's losses share no parameter with those of D_X and D_Y, so its part of the joint step is a fourth of its own.
        """
        if self.weights["codes"]:
            yield self._of_critics("D_R", self.judge_codes, 0.5 * rate, repeat=4, clip=5.0)
        if self.weights["adversarial"]:
            yield self._of_critics(("D_X", "D_Y"), self.judge_images, rate, name="D")
        yield Update("translators", self.terms, after=self._forget)

    def _of_critics(self, networks: Any, terms: Callable[[Batch], Terms], rate: float, **others: Any) -> Update:
        usual = {"optimizer": self.critic_optimizer, "weight_decay": DECAY, "clip": math.inf}
        if self.critic_optimizer != "muon":
            usual["betas"] = BETAS
        return Update(networks, terms, learning_rate=rate, **{**usual, **others})

    def judge_codes(self, batch: Batch) -> Terms:
        """Equation 9 for D_R: codes of noisy images are fakes, those of clean ones real."""
        codes = self._fixed(batch).codes
        return {"code_critic": self._judged(self.code_critic(codes.clean), self.code_critic(codes.noisy))}

    def judge_images(self, batch: Batch) -> Terms:
        """Equations 12 and 13 for D_X and D_Y."""
        made = self._fixed(batch)
        return {
            "noisy_critic": self._judged(self.noisy_critic(batch.noisy), self.noisy_critic(made.degraded)),
            "clean_critic": self._judged(self.clean_critic(_clean(batch)), self.clean_critic(made.restored)),
        }

    def terms(self, batch: Batch) -> Terms:
        """Equation 14 for encoders and generators: translation (3, 4) and translation back (5, 6) with all losses."""
        noisy, clean = batch.noisy, _clean(batch)
        made = self._translated(batch)
        restored, degraded = made.restored, made.degraded
        if self.stop:
            restored, degraded = restored.detach(), degraded.detach()
        back = Codes(self.clean_encoder(restored), self.split.encoder(degraded), self.noise_encoder(degraded))
        terms: dict[str, Callable[[], Tensor]] = {
            "codes": lambda: self._alike(made.codes),
            "adversarial": lambda: self._passing(made),
            "cycle": lambda: self._rebuilt(back, batch),
            "reconstruction": lambda: self._rebuilt(made.codes, batch),
            "background": lambda: self.background(made.restored, noisy) + self.background(made.degraded, clean),
            "semantic": lambda: self._semantic(made.restored, noisy) + self._semantic(made.degraded, clean),
            "kl": lambda: torch.stack([_mean_square(code) for codes in (made.codes, back) for code in codes]).sum(),
        }
        return {name: self.weights[name] * term() for name, term in terms.items() if self.weights[name]}

    def _translated(self, batch: Batch) -> Translations:
        codes = Codes(
            self.split.encoder(batch.noisy), self.clean_encoder(_clean(batch)), self.noise_encoder(batch.noisy)
        )
        degraded = self._noisy(codes.clean, codes.noise, batch)
        return Translations(codes, self._restored(codes.noisy, batch), degraded)

    def _restored(self, content: Latent, batch: Batch) -> Tensor:
        """G_Y, with noise on its code."""
        return self.split.decode(self._shaken(content, batch, 0)).float()

    def _noisy(self, content: Latent, noise: Latent, batch: Batch) -> Tensor:
        """G_X, with noise on its codes."""
        image: Tensor = self.noisy_generator(self._shaken(content, batch, 1), self._shaken(noise, batch, 2))
        return image.float()

    def _shaken(self, latent: Latent, batch: Batch, stream: int) -> Latent:
        """With white noise, the same for all latents of one stream: each generator's codes share theirs in a step."""
        if not self.code_noise:
            return latent
        generators = [Generator().manual_seed(derived_seed(int(key), stream)) for key in batch.keys]
        return tuple(level + self.code_noise * _normal(level, generators) for level in latent)

    def _alike(self, codes: Codes) -> Tensor:
        """Equation 9 for the encoders: D_R cannot tell their codes apart."""
        scores = [*self.code_critic(codes.noisy), *self.code_critic(codes.clean)]
        return torch.stack([self.adversary.even(score) for score in scores]).sum()

    def _passing(self, made: Translations) -> Tensor:
        """Equations 12 and 13 for the generators: what they generate passes as real."""
        scores = [*self.noisy_critic(made.degraded), *self.clean_critic(made.restored)]
        return torch.stack([self.adversary.passes(score) for score in scores]).sum()

    def _rebuilt(self, codes: Codes, batch: Batch) -> Tensor:
        """L1 distance to the images that the codes come from, at once or by way of the other domain (7, 8)."""
        noisy = self._noisy(codes.noisy, codes.noise, batch)
        return l1(noisy, batch.noisy) + l1(self._restored(codes.clean, batch), _clean(batch))

    def _semantic(self, made: Tensor, source: Tensor) -> Tensor:
        """Equation 11."""
        features = self.networks["features"]
        return distance(features(made), features(source))

    def _judged(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """A critic's loss, summed over its scales."""
        losses = [self.adversary.real(score) for score in real] + [self.adversary.fake(score) for score in fake]
        return torch.stack(losses).sum()

    def _fixed(self, batch: Batch) -> Translations:
        """Translations for the critics, made once in a step: no critic changes what they see."""
        if self._kept is None or self._kept[0] is not batch:
            with torch.no_grad():
                self._kept = batch, self._translated(batch)
        return self._kept[1]

    def _forget(self) -> None:
        self._kept = None


def _clean(batch: Batch) -> Tensor:
    assert batch.clean is not None
    return batch.clean


def _mean_square(latent: Latent) -> Tensor:
    """Divergence from a standard normal distribution, of codes that are means of unit variance, up to a constant."""
    return torch.stack([level.float().square().mean() for level in latent if level.numel()] or [torch.zeros(())]).sum()


def _normal(like: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Standard normal numbers of this shape, those of each sample from its own generator on the CPU."""
    drawn = [torch.randn(like.shape[1:], generator=one) for one in generators]
    return torch.stack(drawn).to(like)


def _translators(network: nn.Module, split: SplitNetwork, width: int) -> nn.ModuleDict:
    """Encoders and generators. E_Y is a copy of E_X, which passes all of a clean image."""
    clean_encoder = deepcopy(split.encoder)
    if isinstance(clean_encoder, lir.Encoder) and clean_encoder.carry:
        clean_encoder.carry.passes("all")
    for_noise = _for_lir(network, width) if isinstance(network, LIRNet) else _for_any(split, width)
    return nn.ModuleDict({"model": network, "E_Y": clean_encoder, "E_N": for_noise[0], "G_X": for_noise[1]})


def _for_any(network: SplitNetwork, width: int) -> tuple[nn.Module, nn.Module]:
    """E_N and G_X for networks in two halves; z^N is as wide as z, or 0."""
    encoder = network.make_noise_network().encoder if width else WithoutNoise(network.encoder)
    widths = [each if width else 0 for each in network.latent_widths]
    return encoder, NoisyGenerator(Fused(network.latent_widths, widths), deepcopy(network.decoder))


def _for_lir(network: LIRNet, width: int) -> tuple[nn.Module, nn.Module]:
    """E_N and G_X of the paper, with z^N of this width."""
    content = network.latent_widths[0]
    noise_encoder = NoiseEncoder(network, width) if width else WithoutNoise(network.encoder)
    carries = isinstance(noise_encoder, NoiseEncoder) and noise_encoder.carry is not None
    if width == content:
        places = [place for place, does in ((0, network.encoder.carry), (content, carries)) if does]
        return noise_encoder, NoisyGenerator(Joined(), network.generator(2 * width, places))
    fused = Fused(network.latent_widths, [width], network.channels * lir.STEP**2 if carries else 0)
    return noise_encoder, NoisyGenerator(fused, deepcopy(network.decoder))


def _split(network: nn.Module) -> SplitNetwork:
    if not isinstance(network, SplitNetwork):
        raise RecipeError(
            f"The method 'lir' needs a network of two halves with a latent; {type(network).__name__} has none.",
            "Choose the architecture 'lir', 'split' or 'swin'.",
        )
    return network


def _weights_from(semantic: str) -> WeightsFrom | None:
    kind, _, name = semantic.partition(":")
    if semantic in ("filters", "none"):
        return None
    if not name or kind not in ("encoder", "vgg19"):
        hint = "Give filters, none, encoder:MODEL or vgg19:FILE."
        raise RecipeError(f"There are no features '{semantic}'.", hint)
    return WeightsFrom("model" if kind == "encoder" else "tensors", name)


def _check(weights: Mapping[str, float], adversary: str) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"'{name}' of the method 'lir' cannot be {weight:g}.", "Give 0 or more.")
    if adversary not in ADVERSARIES:
        raise RecipeError(f"There is no adversary '{adversary}'.", nearest(adversary, ADVERSARIES))
