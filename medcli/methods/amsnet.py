"""AMSNet: any denoiser learns from noisy images alone, by guessing pixels that are hidden from it.

Liao et al., Asymmetric Mask Scheme for Self-Supervised Real Image Denoising (ECCV 2024), section 3. Training hides one
part of the pixels; denoising (`medcli.engine.blind_spot`) hides each part in turn. Sub-images of every pd-th pixel pull
apart what noise of real cameras shares with its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from medcli.blind_spot import FILLS, PixelHiding, drawn, error_where, guess, join, roughness, split, stitched
from medcli.data.noise_correlation import LAGS, noise_correlation
from medcli.errors import RecipeError
from medcli.losses import LOSSES
from medcli.methods.base import (
    Adaptation,
    Application,
    Batch,
    MethodSettings,
    Needs,
    Patches,
    Suggestion,
    Terms,
    Update,
)
from medcli.registry import nearest
from medcli.seeding import keyed_generator

LARGEST_STRIDE, MOST_BRANCHES = 16, 16
DRAWS = 4  # of masks, that compare two networks


def _stride(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """Sub-images so far apart that their pixels share no noise."""
    if "pd" in settings.options:
        return None
    correlation = noise_correlation(patches().noisy)
    pd = correlation.stride()
    words = f"noise of sigma {correlation.sigma:.1f}, uncorrelated {pd} pixels apart: pd={pd} (--pd overrules)"
    return Suggestion(words, options={"pd": pd})


class AMSNet:
    """One noisy image of each scene is enough. The model sees masked images only: denoise with `strategy`.

    loss: at hidden pixels. stage: "b" hides one part and learns to guess it; "p" fine-tunes a network of stage b, with
    all parts guessed and their whole made smooth, at `branches` times the cost. branches: parts of equal size, so that
    1 / branches of the pixels are hidden. pd: pixels from one to the next of a sub-image; 1 for noise that is
    independent from pixel to pixel. denoise_pd: the same when the model is asked, at most pd; the smaller, the more
    detail stays, and the more of a correlated noise. smoothness: weight of the roughness in stage p, the paper's
    lambda. fill: what stands in a hidden pixel's place, "zero" as in the paper or the "mean" of what is visible around.

    Patches are cut to sub-images whose sides the network can halve as often as it does.
    Raises RecipeError where an option makes no sense.

    Departs: masks are shared by the channels of a pixel, as in the published code; the paper draws them for each, but
    demosaicing gives channels common noise. The loss is a mean over hidden elements, of each image, not a sum.
    Departs: the first part of stage p's loss is a mean over all elements, and its second one over pixels; the paper
    sums both. smoothness is 0.1, which its ablation found best; its text says 0.01.
    Departs: with fill="mean" a network starts from an interpolated image and need not learn to fill holes first.
    """

    needs = Needs()
    auto_options = (_stride,)

    @staticmethod
    def inherited(application: Application) -> dict[str, Any]:
        """A model that is applied through masks goes on being applied as it was."""
        if application.strategy != "masks":
            return {}
        masks = application.arguments
        return {"branches": masks["k"], "fill": masks["fill"], "denoise_pd": masks["pd"]}

    @staticmethod
    def adaptation(application: Application, multiple: int, stride: int) -> Adaptation | None:
        """Of models that are applied through masks: in sub-images of the noise's stride, or of their own if larger."""
        if application.strategy != "masks":
            return None
        masks = application.arguments
        stride = max(stride, masks["pd"])
        step = stride * multiple
        options = {"pd": stride, "branches": masks["k"], "fill": masks["fill"], "loss": "mse"}
        why = f"pixels share their noise over a distance of {LAGS} and more"
        hiding = hidden_parts(masks["k"], stride, masks["fill"])
        return Adaptation(options, max(160 // step, 1) * step, step, 2, hiding, LAGS - 1, why)

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: str = "l1",
        stage: str = "b",
        branches: int = 2,
        pd: int = 5,
        denoise_pd: int = 2,
        smoothness: float = 0.1,
        fill: str = "zero",
    ) -> None:
        stages = {"b": self.masked, "p": self.smooth}
        if stage not in stages:
            raise RecipeError(f"AMSNet has no stage '{stage}'.", nearest(stage, stages))
        if fill not in FILLS:
            raise RecipeError(f"AMSNet cannot fill hidden pixels by '{fill}'.", nearest(fill, FILLS))
        _check(branches, pd, denoise_pd, smoothness)
        self.model = network
        self.loss_name, self.loss = loss, LOSSES[loss]
        self.branches, self.smoothness = branches, smoothness
        self.pd, self.denoise_pd = pd, min(pd, denoise_pd)
        self.fill_name, self.fill = fill, FILLS[fill]
        self.networks: dict[str, nn.Module] = {"denoiser": network}
        self.updates = [Update("denoiser", stages[stage])]

    @property
    def strategy(self) -> str:
        """How the model is to be asked, in the notation of `medcli.engine.strategies`."""
        return f"masks:k={self.branches},pd={self.denoise_pd},fill={self.fill_name}"

    def masked(self, batch: Batch) -> Terms:
        """Stage b (equation 4): one branch of the masks, judged where it hides."""
        noisy, index = self.prepared(batch)
        hidden = index == 0
        answer = guess(self.model, split(noisy, self.pd), split(hidden, self.pd), self.fill)
        return {self.loss_name: error_where(join(answer, self.pd), noisy, hidden, self.loss)}

    def smooth(self, batch: Batch) -> Terms:
        """Stage p (equation 10): all branches, and the roughness of what they make together."""
        noisy, index = self.prepared(batch)
        restored = stitched(self.model, noisy, index, branches=self.branches, stride=self.pd, fill=self.fill)
        return {self.loss_name: self.loss(restored, noisy), "roughness": self.smoothness * roughness(restored)}

    def prepared(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The first view, cut to fit, and its masks: (B, C, H, W) float32 and (B, 1, H, W) uint8."""
        height, width = (self.fitting(side) for side in batch.noisy.shape[2:])
        index = drawn(height, width, self.branches, batch.generators())
        return batch.noisy[..., :height, :width], index.to(batch.noisy.device, non_blocking=True)

    def fitting(self, side: int) -> int:
        """A whole number of sub-images, each with sides that the network takes."""
        network: Any = self.model
        step = self.pd * int(network.multiple)
        if side < step:
            raise RecipeError(
                f"A patch of {side} pixels is too small: with sub-images of every {self.pd}. pixel, this network works "
                f"in steps of {step}.",
                f"Give --patch {-(-160 // step) * step}, or a smaller pd.",
            )
        return side - side % step


def hidden_parts(branches: int, stride: int, fill: str) -> PixelHiding:
    """All parts of several draws of masks, in sub-images whose pixels do not share their noise."""

    def maps(count: int, side: int, seed: int) -> Sequence[Tensor]:
        keys = [[keyed_generator(seed, "masks", draw, place) for place in range(count)] for draw in range(DRAWS)]
        return [drawn(side, side, branches, generators) for generators in keys]

    return PixelHiding(branches, stride, FILLS[fill], maps)


def _check(branches: int, pd: int, denoise_pd: int, smoothness: float) -> None:
    if not 2 <= branches <= MOST_BRANCHES:
        raise RecipeError(f"{branches} branches of masks make no sense.", f"Give 2 to {MOST_BRANCHES}; 2 is usual.")
    for stride in (pd, denoise_pd):
        if not 1 <= stride <= LARGEST_STRIDE:
            problem = f"Sub-images of every {stride}. pixel make no sense."
            raise RecipeError(problem, f"Give a pd of 1 to {LARGEST_STRIDE}.")
    if not 0 <= smoothness < float("inf"):
        raise RecipeError(f"A smoothness of {smoothness} makes no sense.", "Give 0 or more; 0.1 is usual.")
