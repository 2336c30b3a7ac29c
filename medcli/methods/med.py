"""MeD: separates scene and noise, from several noisy views without clean images.

Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), section 3.

In the paper's notation: G and D are encoder and decoder of the scene, E and F those of the noise, R is the cross
decoder; z_i is the scene latent and u_i the noise latent of view y_i. Only G and D are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from medcli.errors import RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import Batch, MethodSettings, Needs, Patches, Suggestion, Terms, Update
from medcli.noise.drop import drops
from medcli.registry import nearest

Latent = tuple[Tensor, ...]


@runtime_checkable
class SplitNetwork(Protocol):
    """A network of two halves connected only by a latent.

    encode: (B, C, H, W) -> latent, a tuple of (B, latent_widths[i], H_i, W_i). decode: such a latent -> (B, C, H, W).
    encoder, decoder: their modules. make_noise_network: a new network of the same size whose output is zero-mean noise;
    its latent may have further tensors, for its own decoder only. config: builds a new network of the same kind.
    """

    config: dict[str, Any]
    latent_widths: Sequence[int]
    encoder: nn.Module
    decoder: nn.Module

    def encode(self, noisy: Tensor) -> Latent: ...
    def decode(self, latent: Latent) -> Tensor: ...
    def make_noise_network(self) -> SplitNetwork: ...


class Concatenation(nn.Module):
    """Concatenates two latents and projects them to the width of one by 1x1 convolutions."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths)

    def forward(self, scene: Latent, noise: Latent) -> Latent:
        return tuple(
            reduce(torch.cat(pair, 1)) for reduce, *pair in zip(self.reduce, scene, noise[: len(scene)], strict=True)
        )


class Addition(nn.Module):
    """The sum of two latents, as in the published code."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()

    def forward(self, scene: Latent, noise: Latent) -> Latent:
        return tuple(one + other for one, other in zip(scene, noise[: len(scene)], strict=True))


FUSIONS: Mapping[str, Callable[[Sequence[int]], nn.Module]] = {"concat": Concatenation, "add": Addition}


class CrossDecoder(nn.Module):
    """R (equation 9): the scene latent of one view and the noise latent of another -> the other view."""

    def __init__(self, network: SplitNetwork, fusion: nn.Module) -> None:
        super().__init__()
        fresh: SplitNetwork = type(network)(**network.config)
        self.fusion, self.decoder = fusion, fresh.decoder

    def forward(self, scene: Latent, noise: Latent) -> Tensor:
        view: Tensor = self.decoder(self.fusion(scene, noise))
        return view


def choices(like: Tensor, count: int, generators: Sequence[Generator]) -> Tensor:
    """For each element of (B, ...) the number of a view, 0 to count - 1, all equally likely: (B, ...) uint8.

    Each sample draws from its own generator, on the CPU.
    """
    drawn = [torch.randint(count, like.shape[1:], dtype=torch.uint8, generator=one) for one in generators]
    return torch.stack(drawn).to(like.device, non_blocking=True)


def mix(views: Sequence[Tensor], choice: Tensor) -> Tensor:
    """Bernoulli manifold mixture (equation 12): each element from the view that `choice` names; all of one shape."""
    mixed = views[0]
    for number, view in enumerate(views[1:], 1):
        mixed = torch.where(choice == number, view, mixed)
    return mixed


def _missing(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """With missing pixels, black is not a target."""
    if "missing" in settings.options or settings.noise is None or not drops(settings.noise):
        return None
    words = "views have missing pixels, which are not targets: missing=true (--option missing=false overrules)"
    return Suggestion(words, options={"missing": True})


class MeD:
    """Four losses on five networks, averaged over all ordered pairs of views.

    network: one that splits (`SplitNetwork`): `swin`, `split`. views: noisy views of each scene, 2 or more; their
    encoders cost n passes and the cross decoder n (n - 1). fuse: how the cross decoder joins two latents, "concat" or
    "add". noise, mix, cross: weights of losses, relative to the scene's 1; a term of weight 0 is not computed. spare:
    whether the target of mixed latents is a further view, if there is one. missing: whether views have missing pixels,
    which are 0 in all channels (`medcli.noise.drop`): they are excluded from the targets of scene, noise and mix.
    Raises RecipeError for invalid options or a network that is not split.

    Departs: one joint step instead of five for each group of terms. To first order it is the same, with fewer
    passes.
    Departs: terms are means over the pairs of views, with the published weights. There the scene's term is a sum of
    both directions, so that mixing has half the weight there.
    Departs: both directions of every term, the noise decoder's output as noise, and concatenation, as the paper has
    it; the published code computes some of the directions, compares that output with an image, and adds.
    Departs: more than two views are mixed by a uniform choice for each element; the paper does not define it.
    Departs: the target of mixed latents is a view that is not mixed. Equation 16 mixes the target from the same views:
    an output with the mean of their noise is closer to it than the clean scene, and long training learns that.
    Departs: missing pixels are not targets; the paper does not mention them. With black targets, uncertain outputs
    would become dark.
    """

    usual_network = "split"
    auto_options = (_missing,)

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool:
        """Networks in two halves."""
        return hasattr(architecture, "make_noise_network")

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: str = "charbonnier",
        views: int = 2,
        fuse: str = "concat",
        noise: float = 1.0,
        mix: float = 0.05,
        cross: float = 0.1,
        spare: bool = True,
        missing: bool = False,
    ) -> None:
        self.scene = _split(network)
        self.weights = {"scene": 1.0, "noise": noise, "mix": mix, "cross": cross}
        _check(views, fuse, self.weights)
        self.loss, self.missing = LOSSES[loss], missing
        self.needs = Needs(views=views, spare=int(spare and mix > 0))
        self.model = network
        self.noise_network = self.scene.make_noise_network()
        self.cross = CrossDecoder(self.scene, FUSIONS[fuse](self.scene.latent_widths))
        parts = {"scene": self.scene, "noise": self.noise_network, "cross": self.cross}
        self.networks: dict[str, nn.Module] = {"disentangler": nn.ModuleDict(parts)}
        self.updates = [Update("disentangler", self.terms)]

    def noise(self, noisy: Tensor) -> Tensor:
        """F's estimate of the noise in (B, C, H, W): same shape, zero mean, in the scale of the image."""
        found: Tensor = self.noise_network.decode(self.noise_network.encode(noisy))
        return found

    def terms(self, batch: Batch) -> Terms:
        views = batch.views[: self.needs.views]
        scenes = [self.scene.encode(view) for view in views]
        terms = {"scene": self._scene(views, scenes)}
        if self.weights["mix"]:
            terms["mix"] = self._mix(batch, scenes)
        if self.weights["noise"] or self.weights["cross"]:
            noises = [self.noise_network.encode(view) for view in views]
        if self.weights["noise"]:
            terms["noise"] = self._noise(views, noises)
        if self.weights["cross"]:
            terms["cross"] = self._cross(views, scenes, noises)
        return {name: self.weights[name] * term for name, term in terms.items()}

    def _scene(self, views: Sequence[Tensor], scenes: Sequence[Latent]) -> Tensor:
        """L_X (equation 8, first half): D(z_i) against every other view."""
        return self._against_others([self.scene.decode(latent).float() for latent in scenes], views)

    def _noise(self, views: Sequence[Tensor], noises: Sequence[Latent]) -> Tensor:
        """L_N (equation 8, second half): y_i - F(u_i) against every other view."""
        found = [self.noise_network.decode(latent).float() for latent in noises]
        return self._against_others([view - noise for view, noise in zip(views, found, strict=True)], views)

    def _cross(self, views: Sequence[Tensor], scenes: Sequence[Latent], noises: Sequence[Latent]) -> Tensor:
        """L_C (equation 10): R(z_i, u_j) against view j."""
        pairs = permutations(range(len(scenes)), 2)
        return _mean([self.loss(self.cross(scenes[i], noises[j]).float(), views[j]) for i, j in pairs])

    def _mix(self, batch: Batch, scenes: Sequence[Latent]) -> Tensor:
        """L_M (equation 16): D of mixed latents against the spare view, or views mixed independently."""
        generators, count = batch.generators(), len(scenes)
        levels = zip(*scenes, strict=True)
        latent = tuple(mix(level, choices(level[0], count, generators)) for level in levels)
        targets = self._targets(batch.views)
        target = targets[count] if targets[count:] else mix(targets, choices(batch.noisy, count, generators))
        return self._distance(self.scene.decode(latent).float(), target)

    def _against_others(self, images: Sequence[Tensor], views: Sequence[Tensor]) -> Tensor:
        targets = self._targets(views)
        return _mean([self._distance(images[i], targets[j]) for i, j in permutations(range(len(views)), 2)])

    def _targets(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """The views, with NaN for missing pixels."""
        if not self.missing:
            return views
        return [view.masked_fill(view.eq(0).all(1, keepdim=True), float("nan")) for view in views]

    def _distance(self, image: Tensor, target: Tensor) -> Tensor:
        """The loss, without targets that are NaN."""
        return self.loss(image, torch.where(target.isnan(), image.detach(), target) if self.missing else target)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def _split(network: nn.Module) -> Any:
    if not isinstance(network, SplitNetwork):
        raise RecipeError(
            f"The method 'med' needs a network of two halves with a latent; {type(network).__name__} has none.",
            "Choose the architecture 'split' or 'swin'.",
        )
    return network


def _check(views: int, fuse: str, weights: Mapping[str, float]) -> None:
    if views < 2:
        raise RecipeError(f"The method 'med' compares views of a scene; {views} is too few.", "Give 2 or more.")
    if fuse not in FUSIONS:
        raise RecipeError(f"The cross decoder cannot join latents by '{fuse}'.", nearest(fuse, FUSIONS))
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"The weight '{name}' of the method 'med' cannot be {weight}.", "Give 0 or more.")
