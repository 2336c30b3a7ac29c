"""Noise2VST: a transform of the values is learned on noisy images, so that a frozen denoiser restores them best.

Herbreteau and Unser, Self-Calibrated Variance-Stabilizing Transformations for Real-World Image Denoising (ICCV 2025):
section 4.2, algorithm 1. The noise needs zero mean and independence from pixel to pixel, and may depend on the signal.

Departs: the transform starts from that of the measured photon noise, not from the identity, and is trained for a
quarter of the steps at a third of the rate, which is enough from there. The denoiser is blind, so it is not given the
strength of the noise, and the scale of the transform is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import lcm

from torch import Tensor, nn

from medcli.archs.noise2vst import Transformed
from medcli.methods.base import Adaptation, Application, Batch, NoisyImages, Terms, Update
from medcli.methods.n2s import SPACING, Noise2Self, scattered_pixels
from medcli.registry import ARCHITECTURES, key_of
from medcli.vst import Anscombe, PhotonNoise, span

RATE, STEPS = 0.003, 500
SIGMA = 25.0  # grey levels of 255, as in the paper


class Noise2VST(Noise2Self):
    """Trains the spline and the affine term of `Transformed` around a network; the network stays as it is.

    The loss is that of Noise2Self, with pixels hidden after the transform. network: the denoiser, or a `Transformed`.
    gain, offset, read: of `PhotonNoise` in units of the range, for the transform to start from; 0 for the identity.
    """

    usual_network = "noise2vst"

    @staticmethod
    def adaptation(application: Application, network: nn.Module, images: NoisyImages) -> Adaptation | None:
        """For gray images whose noise was measured, and models without masks."""
        if application.strategy != "plain" or not images.gray or images.photons is None:
            return None
        step = lcm(32, int(network.multiple))  # type: ignore[arg-type]
        why = "the noise is spatially correlated, so noisy images cannot show whether a model is better"
        options = {"spacing": SPACING, **{name: float(value) for name, value in asdict(images.photons).items()}}
        return Adaptation(options, max(64, step), step, 4, scattered_pixels(), 1, why, steps=STEPS, guesses=False)

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: str = "mse",
        spacing: int = SPACING,
        gain: float = 0.0,
        offset: float = 0.0,
        read: float = 0.0,
    ) -> None:
        transformed = network if isinstance(network, Transformed) else around(network)
        super().__init__(transformed, loss=loss, spacing=spacing)
        transformed.denoiser.requires_grad_(False)
        if gain > 0 and transformed is not network:
            transformed.spline.follow(stabilising(PhotonNoise(gain, offset, read)))
        self.transformed = transformed
        self.updates = [
            Update("denoiser", self.terms, optimizer="adam", learning_rate=RATE, schedule=thirds, clip=float("inf"))
        ]

    def terms(self, batch: Batch) -> Terms:
        phases = [self._phase(generator) for generator in batch.generators()]
        hidden = self.hidden(self.transformed.spline(batch.noisy.float()), phases)
        restored = self.transformed.restored(hidden)
        return {self.loss_name: self.loss(self.grid(restored, phases), self.grid(batch.noisy, phases))}


def around(network: nn.Module) -> Transformed:
    """The network between an identity and its inverse. It is shared, not copied."""
    transformed = Transformed(key_of(ARCHITECTURES, type(network)), network.config)  # type: ignore[arg-type]
    transformed.denoiser = network
    return transformed


def stabilising(noise: PhotonNoise) -> Callable[[Tensor], Tensor]:
    """The transform to start from: values in units of the range -> the network's input, with noise of SIGMA at most."""
    transform = Anscombe(noise)
    scale = min(SIGMA / 255, 1 / span(transform, 1.0))
    return lambda values: scale * transform.forward(values)


def thirds(finished: float) -> float:
    """A tenth of the rate after each third of the training."""
    return float(0.1 ** min(2, int(3 * finished)))
