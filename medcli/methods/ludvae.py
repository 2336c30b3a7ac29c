"""LUD-VAE: learns the noise of noisy images, with clean images of other scenes.

Zheng et al., Learn from Unpaired Data for Image Restoration: A Variational Bayes Approach (TPAMI 2023), section 3.

A clean image x is rebuilt from h(x), a noisy one y from h(y) and z_n ~ q(z_n | y), which is kept close to a prior. So
the decoder gets noise only through z_n, and samples of the prior add noise to clean images. From the published code,
not the paper: weight and normaliser of the divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn

from medcli.archs.ludvae import LUDVAE, Block, Gauss, Gaussian, Given, Proj, lift, nothing
from medcli.data.noise_level import CLEAN_OVER_NOISY, matching, propose
from medcli.errors import InputError, RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import Batch, MethodSettings, Needs, Patches, Suggestion, Terms, Update

Draw = Callable[[Tensor], Tensor]


class Posterior(nn.Module):
    """q(z_n | y) of equation 13: noisy images, (B, C, H, W) -> a distribution for each level, 3 to 1.

    Together with the sampler it has the 112 tensors of the published weights.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inconv_n = lift(channels, width)
        self.enc_n_1, self.enc_n_2, self.enc_n_3 = Block(width), Block(width), Block(width)
        self.Gauconv_q_1, self.Gauconv_q_2, self.Gauconv_q_3 = Gauss(width), Gauss(width), Gauss(width)
        self.proj_n_1, self.proj_n_2 = Proj(width), Proj(width)

    def forward(self, noisy: Tensor) -> Mapping[int, Given]:
        near = self.enc_n_1(self.inconv_n(noisy))
        middle = self.enc_n_2(near)
        deep = self.enc_n_3(middle)
        return {
            3: lambda decoded: self.Gauconv_q_3(deep),
            2: lambda decoded: self.Gauconv_q_2(self.proj_n_2(decoded, middle)),
            1: lambda decoded: self.Gauconv_q_1(self.proj_n_1(decoded, near)),
        }


class Steps(nn.Module):
    """Counts training steps; stored in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.taken: Tensor

    def count(self) -> None:
        """Adds one."""
        self.taken += 1


def _levels(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """The noise added to both sides, somewhat stronger than that of the images. One of the two determines the other."""
    given = settings.config
    if "sigma_x" in given or "sigma_y" in given:
        both = {
            "sigma_x": CLEAN_OVER_NOISY * given.get("sigma_y", 0),
            "sigma_y": given.get("sigma_x", 0) / CLEAN_OVER_NOISY,
        }
        return Suggestion(config={name: value for name, value in both.items() if name not in given})
    found = propose(patches().noisy)
    coarse = f", {found.coarseness:.1f} times as coarse as white noise" if found.coarseness > 1.05 else ""
    words = f"noise of sigma {found.noise:.1f}{coarse}: sigma_x {found.sigma_x:g}, sigma_y {found.sigma_y:g}"
    return Suggestion(f"{words} (--config sigma_y=... overrules)", config=found.config())


def _match(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """Gain and offset that match noisy images to the mean and contrast of the clean ones, with the option `match`."""
    if not settings.options.get("match") or "gain" in settings.config:
        return None
    try:
        gain, offset = matching(*patches())
    except InputError as error:
        raise RecipeError(error.problem, "Leave match=true out.") from error
    words = f"statistics matched: gain {_listed(gain)}, offset {_listed(offset)}"
    return Suggestion(words, config={"gain": gain, "offset": offset})


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers)


class UnpairedNoise:
    """One update for sampler and posterior together, on as many clean patches as noisy ones.

    network: the sampler, `ludvae`, whose configuration has the sigmas of h. kl: final weight of the divergence; it
    rises linearly over the first `rise` steps, so that the decoder does not learn to ignore the latents. match: noisy
    images are scaled to the mean and deviation of the clean ones, channel by channel, and generated ones back; these
    are measured before (`auto_options`) and applied by the sampler. Raises RecipeError for invalid options.

    Departs: the noise encoder is not applied to clean images, as its output would be multiplied by zero.
    """

    needs = Needs(clean="unpaired")
    usual_network = "ludvae"
    auto_options = (_levels, _match)
    measured_config = ("sigma_x", "sigma_y", "gain", "offset")
    step_options = ("rise",)

    def __init__(
        self, network: nn.Module, *, loss: str = "mse", kl: float = 1e-4, rise: int = 10_000, match: bool = False
    ) -> None:
        if not (0 <= kl < float("inf") and rise >= 1):
            raise RecipeError(f"kl cannot be {kl:g} with a rise of {rise} steps.", "Try kl: 0.0001 and rise: 10000.")
        self.sampler, self.kl, self.rise, self.match = _sampler(network), kl, rise, match
        self.posterior = Posterior(self.sampler.channels, self.sampler.width)
        self.steps = Steps()
        self.loss = LOSSES[loss]
        together = nn.ModuleDict({"sampler": self.sampler, "posterior": self.posterior})
        self.networks: dict[str, nn.Module] = {"ludvae": together, "steps": self.steps}
        self.updates = [Update("ludvae", self.terms, after=self.steps.count)]

    @property
    def model(self) -> nn.Module:
        return self.sampler

    def terms(self, batch: Batch) -> Terms:
        """Equations 18, 19 and 16. Validation uses the final weight of the divergence."""
        assert batch.clean is not None
        draw = partial(_normal, generators=_on(batch.noisy.device, batch.generators()))
        clean, noisy = batch.clean, self.sampler.matched(batch.noisy)
        hidden = clean + self.sampler.sigma_x / 255 * draw(clean)
        rebuilt = self.sampler.decode(self.sampler.content(hidden), nothing)
        rebuilt_noisy, divergence = self._infer(batch.noisy, draw)
        return {
            "clean": 0.5 * self.loss(rebuilt.float(), clean),
            "noisy": 0.5 * self.loss(rebuilt_noisy.float(), noisy),
            "kl": self._weight() * divergence,
        }

    def weight(self, step: Tensor) -> Tensor:
        """Weight of the divergence in a step, counted from 1."""
        weight: Tensor = self.kl * (step / self.rise).clamp(max=1)
        return weight

    def _weight(self) -> Tensor | float:
        return self.weight(self.steps.taken + 1) if self.sampler.training else self.kl

    def _infer(self, noisy: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) rebuilt from h and inferred latents, in the scale of clean images; their divergence."""
        posterior: Mapping[int, Given] = self.posterior(self.sampler.matched(noisy))
        parts: list[Tensor] = []

        def latents(level: int, decoded: Tensor, prior: Given) -> Tensor:
            inferred = posterior[level](decoded)
            parts.append(divergence(inferred, prior(decoded)).sum())
            return inferred.at(draw(decoded))

        hidden = self.sampler.matched(noisy + self.sampler.sigma_y / 255 * draw(noisy))
        rebuilt = self.sampler.decode(self.sampler.content(hidden), latents)
        return rebuilt, torch.stack(parts).sum() / noisy.numel()


def divergence(posterior: Gaussian, prior: Gaussian) -> Tensor:
    """KL(posterior || prior) of each element, 0 or more; exactly 0 where they are equal."""
    apart = posterior.log_std.float() - prior.log_std.float()
    shift = (posterior.mean.float() - prior.mean.float()) * (-prior.log_std.float()).exp()
    return 0.5 * ((2 * apart).exp() + shift.square() - 1) - apart


def _normal(like: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Standard normal numbers of this shape, those of each sample from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=each, device=each.device) for each in generators])


def _on(device: torch.device, generators: Sequence[Generator]) -> list[Generator]:
    """Generators of the same seeds on the device.

    A step draws a million numbers for each sample; on the CPU that takes longer than a GPU's whole step.
    """
    if device.type == "cpu":
        return list(generators)
    return [Generator(device).manual_seed(each.initial_seed()) for each in generators]


def _sampler(network: nn.Module) -> LUDVAE:
    if not isinstance(network, LUDVAE):
        raise RecipeError(
            f"The method 'ludvae' trains a network that generates noise; {type(network).__name__} does not.",
            "Choose the architecture 'ludvae'.",
        )
    return network
