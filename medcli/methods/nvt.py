"""NVT: trains the network of Self2Self on clean images with synthetic noise, before it sees the user's image.

Chen, Noisy Visual Training: Learning Robust Low-level Image Prior (MSc thesis, University of Birmingham): noisy
representation learning (section 7.2), mutual information (section 7.3), pyramid (section 7.4), losses
(sections 7.7 and 7.8). Further training on one noisy image is `medcli.methods.self2self`, the sharpening of the result
(section 7.5) `medcli.engine.sharpen`.

In the thesis's notation: E_theta is the network's encoder, D its decoder, E_omega the noise encoder; Y^p and Y^q are
two noisy views of the clean image X.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.archs.self2self import LEVELS, Self2SelfNetwork, reduced
from medcli.errors import RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import Batch, MethodSettings, Needs, Patches, Suggestion, Terms, Update
from medcli.methods.mutual_information import ImageDependence, PairClassifier, jensen_shannon, shuffled
from medcli.methods.self2self import Heads, bernoulli, masked_network

ADVERSARY = 0.1  # weight of fooling the adversary, relative to the mutual information
KEEP = 0.7  # share of visible elements where a sample is masked, as in Self2Self
PYRAMID = False


def _injection(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """The network's part of the pyramid goes with the method's."""
    if "pyramid" in settings.config or not settings.options.get("pyramid", PYRAMID):
        return None
    return Suggestion(config={"pyramid": True})


class NoiseBranch(nn.Module):
    """E_omega, and the part of the decoder that reads its features; neither is part of the model.

    A convolution of two concatenated inputs is the sum of one convolution for each, so the decoder's weights for the
    noise are kept apart: with none of their results added, the decoder is the pruned one.
    """

    def __init__(self, network: Self2SelfNetwork) -> None:
        super().__init__()
        self.twin = Self2SelfNetwork(**network.config | {"pyramid": False})
        del self.twin.decoder, self.twin.output
        width = int(network.config["width"])
        sources = [2 * width, *[width] * (LEVELS - 2)]
        self.joins = nn.ModuleList(nn.Conv2d(source, 2 * width, 3, padding=1, bias=False) for source in sources)

    def forward(self, noisy: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> features at 1/2 to 1/16 and at the bottom: the image itself is left out."""
        return self.twin.encode(noisy)[1:]

    def beside(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What these features add to the first convolutions of the decoder's levels, from 1/16 to 1/2."""
        *skips, bottom = features
        deepest = torch.cat((F.interpolate(bottom, scale_factor=2.0), skips[-1]), 1)
        return [join(each) for join, each in zip(self.joins, (deepest, *reversed(skips[:-1])), strict=True)]


class NVT:
    """Clean images are needed: with two noisy views of each, whose kinds and levels of noise differ, or one.

    loss: "bce" as in the thesis, or another. nrl: noisy representation learning, which costs 2.6 times as much as
    learning the clean image alone. alike: weight of the distance between the content features of both views, the
    thesis's gamma. mutual: weight of the mutual information, only with nrl: of the clean image with the content
    features of both views, and of each view with the content of the other and its own noise features; an adversary
    tells the content and noise features of one image from those of two. detach: whether the crossed decoding trains the
    noise encoder and the decoder alone. pyramid: whether reduced images are added to the encoder's features and
    predicted by the decoder. mixup: share of samples that are mixed with another clean image, before noise is added.
    hidden: share of samples that are masked as in Self2Self, so that the model is a start for it.
    Raises RecipeError for invalid options or another network than `self2self`.

    Departs: the loss is over [0, 1] and less the entropy of the target, so that 0 is perfect.
    Departs: the raw image reaches the decoder from the content branch only. From the noise branch it would be the
    target itself.
    Departs: the formulas of section 7.3 contradict each other. Here, as in the papers it cites, both encoders maximise
    the estimates and fool the adversary, which has its own optimizer.
    Departs: no dropout, and no masks unless `hidden` is set: the model is also used as it is, in one pass.
    Departs: only the weights that are kept are averaged, by the training loop.
    """

    usual_network = "self2self"
    auto_options = (_injection,)

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool:
        """Networks that can be given a mask."""
        return issubclass(architecture, Self2SelfNetwork)

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: str = "bce",
        nrl: bool = True,
        alike: float = 0.1,
        mutual: float = 0.01,
        detach: bool = True,
        pyramid: bool = PYRAMID,
        mixup: float = 0.5,
        hidden: float = 0.0,
    ) -> None:
        self.model = masked_network(network, "nvt")
        _check({"mixup": mixup, "hidden": hidden}, {"alike": alike, "mutual": mutual})
        self.loss, self.alike, self.detach, self.hidden = LOSSES[loss], alike, detach, hidden
        self.needs = Needs(views=2 if nrl else 1, clean="paired", mixup=mixup)
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.noise_branch = NoiseBranch(self.model) if nrl else None
        self.heads = Heads(self.model) if pyramid else None
        self.mutual = mutual if nrl else 0.0
        self.dependence = Dependence(self.model) if self.mutual else None
        for name, part in (("noise", self.noise_branch), ("heads", self.heads), ("dependence", self.dependence)):
            if part:
                self.networks[name] = part
        self.updates = [Update(tuple(self.networks), self.terms, name="denoiser")]
        if self.dependence:
            self.adversary = PairClassifier(2 * int(self.model.config["width"]))
            self.networks["adversary"] = self.adversary
            own = Update("adversary", self.tell_apart, optimizer="adam", learning_rate=1e-4, betas=(0.5, 0.999))
            self.updates.insert(0, own)

    def terms(self, batch: Batch) -> Terms:
        assert batch.clean is not None
        views = batch.views[: self.needs.views]
        noisy, clean = torch.cat(list(views)), batch.clean.repeat(len(views), 1, 1, 1)
        content = self.model.encode(noisy, self._visible(noisy, batch))
        levels = self.model.decode(content)
        terms = {"clean": self.loss(self.model.restored(levels), clean)}
        if self.heads:
            terms["pyramid"] = self._pyramid(self.heads(levels), clean)
        if self.noise_branch:
            noise = self.noise_branch(noisy)
            terms["noisy"] = self.loss(self._crossed(self.noise_branch, content, noise), noisy.clamp(0, 1))
            terms["alike"] = self.alike * distance_of_directions(*content[-1].float().chunk(2))
            if self.dependence:
                codes = _codes(content), _codes(noise)
                terms["mutual"] = -self.mutual * self.dependence(clean, noisy, *codes)
                fooled = F.softplus(-self.adversary(torch.cat(codes, 1)).float()).mean()
                terms["fool"] = self.mutual * ADVERSARY * fooled
        return terms

    def tell_apart(self, batch: Batch) -> Terms:
        """The adversary's loss: content and noise features of one image against those of two."""
        assert self.noise_branch is not None
        noisy = torch.cat(list(batch.views[:2]))
        if len(batch.keys) < 2:
            raise RecipeError("Mutual information needs several images.", "Give --batch 2 or more, or mutual=0.")
        with torch.no_grad():
            content, noise = _codes(self.model.encode(noisy)), _codes(self.noise_branch(noisy))
        joint = self.adversary(torch.cat((content, noise), 1))
        product = self.adversary(torch.cat((content, shuffled(noise)), 1))
        return {"adversary": -jensen_shannon(product, joint)}

    def _visible(self, noisy: Tensor, batch: Batch) -> Tensor | None:
        """The masks: a share of the samples has hidden elements; in half of these, all channels of a pixel are hidden.

        None where no sample has.
        """
        if not self.hidden:
            return None
        generators = batch.generators() * (len(noisy) // len(batch.keys))
        draws = torch.stack([torch.rand(2, generator=each) for each in generators]).to(noisy.device)
        chosen, joint = (draws < torch.tensor([self.hidden, 0.5], device=noisy.device)).T[..., None, None, None]
        masks = bernoulli(noisy, KEEP, generators)
        return torch.where(chosen, torch.where(joint, masks[:, :1], masks), 1.0)

    def _crossed(self, branch: NoiseBranch, content: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
        """Each view again, from the content of the other and its own noise."""
        others = [part.roll(len(part) // 2, 0) for part in content]
        beside = branch.beside(noise)
        return self.model.restored(self.model.decode([o.detach() if self.detach else o for o in others], beside))

    def _pyramid(self, coarse: Sequence[Tensor], clean: Tensor) -> Tensor:
        """The loss at 1/2 to 1/16, weighted by the share of pixels."""
        found = []
        for number, image in enumerate(coarse, 1):
            clean, _ = reduced(clean)
            found.append(self.loss(image, clean) / 4**number)
        return torch.stack(found).sum()


class Dependence(nn.Module):
    """Mutual information that content and noise features shall have (I_sh and I_ex); not part of the model."""

    def __init__(self, network: Self2SelfNetwork) -> None:
        super().__init__()
        width = int(network.config["width"])
        self.shared = ImageDependence(network.channels, width)
        self.exclusive = ImageDependence(network.channels, 2 * width)

    def forward(self, clean: Tensor, noisy: Tensor, content: Tensor, noise: Tensor) -> Tensor:
        """Both views one after the other along the batch: (2 B, C, H, W) images, (2 B, width) codes -> scalar."""
        others = content.roll(len(content) // 2, 0)
        estimate: Tensor = self.shared(clean, content) + self.exclusive(noisy, torch.cat((others, noise), 1))
        return estimate


def _codes(features: Sequence[Tensor]) -> Tensor:
    """The mean of the bottom's features: (B, width)."""
    return features[-1].float().mean((2, 3))


def distance_of_directions(first: Tensor, second: Tensor) -> Tensor:
    """|p - q|^2 = 2 (1 - cos(p, q)) of two features (B, ...) of length 1, one vector for each image: mean over B."""
    return 2 * (1 - F.cosine_similarity(first.flatten(1), second.flatten(1))).mean()


def _check(shares: dict[str, float], weights: dict[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise RecipeError(f"The share '{name}' cannot be {share}.", "Give 0 to 1.")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"The weight '{name}' cannot be {weight}.", "Give 0 or more.")
