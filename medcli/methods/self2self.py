"""Self2Self: trains on one noisy image, by predicting hidden elements from visible ones, with dropout.

Quan, Chen, Pang and Ji, Self2Self with Dropout: Learning Self-Supervised Denoising from Single Image (CVPR 2020),
section 3. Denoising is the mean of many such predictions (`medcli.engine.bernoulli`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from medcli.archs.self2self import LEVELS, Self2SelfNetwork, reduced
from medcli.errors import RecipeError
from medcli.images.decoded_image import is_gray
from medcli.losses import LOSSES
from medcli.methods.base import (
    Adaptation,
    Application,
    Batch,
    MethodSettings,
    Needs,
    NoisyImages,
    Patches,
    Suggestion,
    Terms,
    Update,
)
from medcli.methods.n2s import scattered_pixels


def _joint(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """Gray images, as equal channels, have common masks."""
    if "joint" in settings.options or not all(is_gray(patch) for patch in patches().noisy):
        return None
    return Suggestion("all images are gray: joint=true", options={"joint": True})


class Self2Self:
    """One noisy image is enough. The noise must have zero mean and be independent from pixel to pixel.

    loss: at hidden elements. keep: share of visible elements, drawn for each pixel and channel. joint: draws them for
    each pixel, with all its channels; it is set for gray images, whose channels would show each other's hidden values.
    dropout: in the decoder. passes: of denoising. pyramid: whether the decoder's features at 1/2 to 1/16 must also
    give the reduced image (NVT, thesis, section 7.4), from hidden elements only: a mean over all would contain what
    was visible.
    Raises RecipeError for invalid options or another network than `self2self`.

    Departs: patches, flipped and turned, in place of the whole image, flipped. The optimizer is that of the recipe.
    Departs: the published jitter and running mean for real noise are left out.
    """

    needs = Needs()
    auto_options = (_joint,)
    usual_network = "self2self"

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool:
        """Networks that can be given a mask."""
        return issubclass(architecture, Self2SelfNetwork)

    @staticmethod
    def adaptation(application: Application, network: nn.Module, images: NoisyImages) -> Adaptation | None:
        """For models that are applied through random masks; those applied in one pass learn more by Noise2Self."""
        if application.strategy != "bernoulli" or not isinstance(network, Self2SelfNetwork):
            return None
        masks = application.arguments
        options = {name: masks[name] for name in ("keep", "dropout", "passes")} | {"joint": bool(masks["joint"])}
        why = (
            "the noise is spatially correlated (banding, demosaicking, JPEG): hidden pixels would be predicted with it"
        )
        return Adaptation(options, 96, network.multiple, 4, scattered_pixels(), 1, why, applied=True)

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: str = "mse",
        keep: float = 0.7,
        joint: bool = False,
        dropout: float = 0.3,
        passes: int = 100,
        pyramid: bool = False,
    ) -> None:
        self.model = masked_network(network, "self2self")
        _check(keep, dropout, passes)
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.keep, self.joint, self.dropout, self.passes = keep, joint, dropout, passes
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.heads = Heads(self.model) if pyramid else None
        if self.heads:
            self.networks["heads"] = self.heads
        self.updates = [Update(tuple(self.networks), self.terms, name="denoiser")]

    @property
    def strategy(self) -> str:
        """How the model is applied, in the notation of `medcli.engine.strategies`."""
        return f"bernoulli:passes={self.passes},keep={self.keep:g},dropout={self.dropout:g},joint={self.joint:d}"

    def terms(self, batch: Batch) -> Terms:
        """The loss at hidden elements (equation 6), and that of the pyramid."""
        noisy = batch.noisy
        visible = bernoulli(noisy[:, :1] if self.joint else noisy, self.keep, batch.generators()).expand_as(noisy)
        levels = self.model.decode(self.model.encode(noisy, visible), thin=self._thin)
        restored = self.model.restored(levels, self._thin)
        hidden = 1 - visible
        exact = torch.where(visible > 0, noisy, restored)
        terms = {self.loss_name: self.loss(exact, noisy) / hidden.mean()}
        if self.heads:
            terms["pyramid"] = hidden_pyramid_error(self.heads(levels), noisy, hidden)
        return terms

    def _thin(self, features: Tensor, _: int) -> Tensor:
        return F.dropout(features, self.dropout)


class Heads(nn.Module):
    """Images at 1/2, 1/4, 1/8 and 1/16 from the decoder's features of these sizes; they are not part of the model."""

    def __init__(self, network: Self2SelfNetwork) -> None:
        super().__init__()
        width = 2 * int(network.config["width"])
        self.layers = nn.ModuleList(nn.Conv2d(width, network.channels, 3, padding=1) for _ in range(LEVELS - 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """`Self2SelfNetwork.decode`'s features -> (B, C, H / 2, W / 2) to (B, C, H / 16, W / 16)."""
        pairs = zip(self.layers, reversed(levels[:-1]), strict=True)
        return [torch.sigmoid(layer(features).float()) for layer, features in pairs]


def hidden_pyramid_error(coarse: Sequence[Tensor], noisy: Tensor, hidden: Tensor) -> Tensor:
    """The squared error of (B, C, H / 2^k, W / 2^k), k from 1, to the mean of the hidden elements of each block.

    noisy, hidden: (B, C, H, W), 1 where hidden. Blocks have their hidden share as weight, and level k has 4^-k.
    """
    target, share, found = noisy, hidden, []
    for number, image in enumerate(coarse, 1):
        target, part = reduced(target, share)
        assert part is not None
        share = part
        found.append((share * (image - target).square()).mean() / share.mean() / 4**number)
    return torch.stack(found).sum()


def bernoulli(like: Tensor, keep: float, generators: Sequence[Generator]) -> Tensor:
    """(B, C, H, W) float of 0 and 1, where 1 has the probability `keep`; each sample has its own generator."""
    drawn = [torch.rand(like.shape[1:], generator=each) for each in generators]
    return (torch.stack(drawn) < keep).to(like.device, like.dtype, non_blocking=True)


def masked_network(network: nn.Module, method: str) -> Self2SelfNetwork:
    """The network itself; raises RecipeError for one that cannot be given a mask."""
    if not isinstance(network, Self2SelfNetwork):
        raise RecipeError(
            f"The method '{method}' needs a network that takes masks; {type(network).__name__} does not.",
            "Choose the architecture 'self2self'.",
        )
    return network


def _check(keep: float, dropout: float, passes: int) -> None:
    if not 0 < keep < 1:
        raise RecipeError(f"keep cannot be {keep}.", "Give a share between 0 and 1; 0.7 is usual.")
    if not 0 <= dropout < 1:
        raise RecipeError(f"dropout cannot be {dropout}.", "Give 0 or more and below 1; 0.3 is usual.")
    if not 1 <= passes <= 1000:
        raise RecipeError(f"passes cannot be {passes}.", "Give 1 to 1000; 100 is usual.")
