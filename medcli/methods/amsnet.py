"""AMSNet: trains any denoiser on noisy images only, by predicting hidden pixels.

Liao et al., Asymmetric Mask Scheme for Self-Supervised Real Image Denoising (ECCV 2024), section 3. Training hides one
part of the pixels; denoising (`medcli.engine.blind_spot`) hides each part in turn. Sub-images of every pd-th pixel
remove the correlation of the noise of real cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from medcli.blind_spot import FILLS, PixelHiding, drawn, error_where, join, predict, roughness, split, stitched
from medcli.data.noise_correlation import LAGS, noise_correlation
from medcli.errors import RecipeError
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
from medcli.registry import nearest
from medcli.seeding import keyed_generator

LARGEST_STRIDE, MOST_BRANCHES = 16, 16
DRAWS = 4  # of masks, for comparing two networks


def _stride(settings: MethodSettings, patches: Callable[[], Patches]) -> Suggestion | None:
    """The stride of sub-images in which the noise is uncorrelated."""
    if "pd" in settings.options:
        return None
    correlation = noise_correlation(patches().noisy)
    pd = correlation.stride()
    words = f"noise of sigma {correlation.sigma:.1f}, uncorrelated {pd} pixels apart: pd={pd} (--pd overrules)"
    return Suggestion(words, options={"pd": pd})


class AMSNet:
    """One noisy image of each scene is enough. The model is a blind-spot model: denoise with `strategy`.

    loss: at hidden pixels. stage: "b" hides one part and predicts it; "p" fine-tunes a network of stage b, with all
    parts predicted and a smoothness loss, at `branches` times the cost. branches: parts of equal size, so that 1 /
    branches of the pixels are hidden. pd: pixels from one to the next of a sub-image; 1 for noise that is independent
    from pixel to pixel. denoise_pd: the same for denoising, at most pd; smaller values keep more detail and more
    correlated noise. smoothness: weight of the roughness in stage p, the paper's lambda. fill: the value of hidden
    pixels, "zero" as in the paper or the "mean" of visible neighbours.

    Patches are cropped so that the sides of sub-images are multiples of the network's.
    Raises RecipeError for invalid options.

    Departs: masks are shared by the channels of a pixel, as in the published code; the paper draws them for each, but
    demosaicking correlates the noise of the channels. The loss is a mean over hidden elements, not a sum.
    Departs: the first part of stage p's loss is a mean over all elements, and its second one over pixels; the paper
    sums both. smoothness is 0.1, which its ablation found best; its text says 0.01.
    Departs: with fill="mean" the network gets an interpolated image and need not learn to fill holes first.
    """

    needs = Needs()
    auto_options = (_stride,)

    @staticmethod
    def inherited(application: Application) -> dict[str, Any]:
        """A blind-spot model keeps its strategy."""
        if application.strategy != "masks":
            return {}
        masks = application.arguments
        return {"branches": masks["k"], "fill": masks["fill"], "denoise_pd": masks["pd"]}

    @staticmethod
    def adaptation(application: Application, network: nn.Module, images: NoisyImages) -> Adaptation | None:
        """For blind-spot models: in sub-images of the noise's stride, or of their own if larger."""
        if application.strategy != "masks":
            return None
        masks = application.arguments
        stride = max(images.stride, masks["pd"])
        step = stride * int(network.multiple)  # type: ignore[arg-type]
        options = {"pd": stride, "branches": masks["k"], "fill": masks["fill"], "loss": "mse"}
        why = f"the noise is correlated over a distance of {LAGS} pixels or more"
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
        """How the model is applied, in the notation of `medcli.engine.strategies`."""
        return f"masks:k={self.branches},pd={self.denoise_pd},fill={self.fill_name}"

    def masked(self, batch: Batch) -> Terms:
        """Stage b (equation 4): one branch of the masks, with the loss at its hidden pixels."""
        noisy, index = self.prepared(batch)
        hidden = index == 0
        answer = predict(self.model, split(noisy, self.pd), split(hidden, self.pd), self.fill)
        return {self.loss_name: error_where(join(answer, self.pd), noisy, hidden, self.loss)}

    def smooth(self, batch: Batch) -> Terms:
        """Stage p (equation 10): all branches, and the roughness of the combined result."""
        noisy, index = self.prepared(batch)
        restored = stitched(self.model, noisy, index, branches=self.branches, stride=self.pd, fill=self.fill)
        return {self.loss_name: self.loss(restored, noisy), "roughness": self.smoothness * roughness(restored)}

    def prepared(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cropped first view and its masks: (B, C, H, W) float32 and (B, 1, H, W) uint8."""
        height, width = (self.fitting(side) for side in batch.noisy.shape[2:])
        index = drawn(height, width, self.branches, batch.generators())
        return batch.noisy[..., :height, :width], index.to(batch.noisy.device, non_blocking=True)

    def fitting(self, side: int) -> int:
        """Cropped so that the sides of sub-images are multiples of the network's."""
        network: Any = self.model
        step = self.pd * int(network.multiple)
        if side < step:
            raise RecipeError(
                f"A patch of {side} pixels is too small: with pd={self.pd} it must be a multiple of "
                f"{step} for this network.",
                f"Give --patch {-(-160 // step) * step}, or a smaller pd.",
            )
        return side - side % step


def hidden_parts(branches: int, stride: int, fill: str) -> PixelHiding:
    """All parts of several draws of masks, in sub-images in which the noise is uncorrelated."""

    def maps(count: int, side: int, seed: int) -> Sequence[Tensor]:
        keys = [[keyed_generator(seed, "masks", draw, number) for number in range(count)] for draw in range(DRAWS)]
        return [drawn(side, side, branches, generators) for generators in keys]

    return PixelHiding(branches, stride, FILLS[fill], maps)


def _check(branches: int, pd: int, denoise_pd: int, smoothness: float) -> None:
    if not 2 <= branches <= MOST_BRANCHES:
        raise RecipeError(f"branches cannot be {branches}.", f"Give 2 to {MOST_BRANCHES}; 2 is usual.")
    for stride in (pd, denoise_pd):
        if not 1 <= stride <= LARGEST_STRIDE:
            problem = f"pd cannot be {stride}."
            raise RecipeError(problem, f"Give 1 to {LARGEST_STRIDE}.")
    if not 0 <= smoothness < float("inf"):
        raise RecipeError(f"smoothness cannot be {smoothness}.", "Give 0 or more; 0.1 is usual.")
