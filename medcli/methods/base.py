"""The interface between a method and the training loop.

A method has *networks*, and *updates* that define which of them an optimizer changes and which loss terms it minimizes.
It *needs* certain images. Its *model* is the network whose weights are averaged and saved.

Everything else is optional: the protocols after `Method`, tested with `isinstance`. For the object that trains:
`HasStrategy`, `FitsPatchSize`, `EstimatesNoise`, `ShowsImages`, `TakesWeights`, `ExportsModel`. For its class, before a
network exists: `UsualNetwork`, `TakesNetworks`, `HasAutoOptions`, `MeasuresConfig`, `CountsInSteps`,
`InheritsOptions`, `AdaptsModels`.
No module outside this folder names a method, except the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from medcli.blind_spot import PixelHiding
from medcli.noise.base import Noise
from medcli.vst import PhotonNoise

Terms = dict[str, Tensor]
Schedule = Callable[[float], float]
"""Finished share of the training, 0 to 1 -> factor on the learning rate."""


@dataclass(frozen=True)
class Needs:
    """The images of one sample.

    views: noisy images of one scene. spare: further ones that are of use but can be missing: made noise brings them,
    recorded images where as many folders are given. alike: whether the views share kind and level of the noise, drawn
    anew for each (Noise2Noise), or draw those too. clean: "paired" are of the same scene, "unpaired" of any other.
    mixup: share of samples whose clean image is mixed with another one before noise is added, 0 to 1.
    """

    views: int = 1
    spare: int = 0
    alike: bool = False
    clean: Literal["none", "paired", "unpaired"] = "none"
    mixup: float = 0.0


@dataclass(frozen=True)
class Batch:
    """The input of an update.

    views: noisy images of the same scenes, each (B, C, H, W) float32; clean ones span [0, 1], noise may leave it.
    clean: (B, C, H, W) float32 in [0, 1], or None where the method does not need it.
    keys: (B,) int64 on the CPU. Seeds of all random numbers of a method, sample by sample, so that a step does not
    depend on how a batch is distributed over processes.
    """

    views: Sequence[Tensor]
    clean: Tensor | None
    keys: Tensor

    @property
    def noisy(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def generators(self) -> list[Generator]:
        """A new CPU generator for each sample, always in the same state."""
        return [Generator().manual_seed(int(key)) for key in self.keys]


@dataclass(frozen=True)
class Update:
    """A step of one optimizer, which changes its networks to minimize the sum of the weighted `terms(batch)`.

    networks: the name of one of the method's networks, or several for a joint step; others do not change, nor do
    parameters whose `requires_grad` was False when the training began. terms: from a batch, each a scalar.
    every: training steps from one such update to the next. repeat: optimizer steps within one training step, on one
    batch. after: called after each, to update another network (an average of weights, for example).

    For the other fields None means: as in the recipe. optimizer: a key of `medcli.registry.OPTIMIZERS`. learning_rate:
    the peak; without it, `rate` is a factor on that of the recipe. warmup: training steps to the peak. schedule: after
    that. betas: those of the recipe apply only to the recipe's optimizer. clip: largest norm of the gradient of all
    networks of this update; infinity for none.
    name: of the optimizer's state in checkpoints and of its figures in the log; the networks' unless given.
    """

    networks: str | tuple[str, ...]
    terms: Callable[[Batch], Terms]
    every: int = 1
    repeat: int = 1
    rate: float = 1.0
    after: Callable[[], None] | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None
    warmup: int | None = None
    schedule: Schedule | None = None
    name: str = ""

    @property
    def moves(self) -> tuple[str, ...]:
        """The names of the networks."""
        return (self.networks,) if isinstance(self.networks, str) else self.networks

    @property
    def title(self) -> str:
        """Its name, or those of its networks."""
        return self.name or "+".join(self.moves)


class Method(Protocol):
    """What the loop needs from a method.

    networks: on the device and in checkpoints, also those that no update changes. updates: in the order of a training
    step.
    """

    needs: Needs
    networks: dict[str, nn.Module]
    updates: Sequence[Update]

    @property
    def model(self) -> nn.Module:
        """The network to save, whose weights are averaged: one that `medcli.registry.ARCHITECTURES` can rebuild,
        unless the method exports another (`ExportsModel`)."""
        ...


@runtime_checkable
class ExportsModel(Protocol):
    """A method whose model is saved in another form than it is trained in: pruned, or without some branches."""

    def export(self, network: nn.Module) -> nn.Module:
        """A network like `model` -> a network that `medcli.registry.ARCHITECTURES` can rebuild from its `config`.

        `network` is not changed; its tensors may be shared. The result is what validation measures and a run saves.
        """
        ...


@runtime_checkable
class HasStrategy(Protocol):
    """A method whose model is applied with a strategy of `medcli.engine.strategies`."""

    @property
    def strategy(self) -> str:
        """In the notation of strategies, such as `masks:k=2,pd=2`."""
        ...


@runtime_checkable
class FitsPatchSize(Protocol):
    """A method that crops patches to sizes its network accepts."""

    def fitting(self, side: int) -> int:
        """The length of a side after cropping; raises RecipeError if it is too small."""
        ...


@runtime_checkable
class EstimatesNoise(Protocol):
    """A method with its own estimate of the noise, other than the difference made by its model."""

    def noise(self, noisy: Tensor) -> Tensor:
        """(B, C, H, W) -> the estimated noise, same shape."""
        ...


@runtime_checkable
class ShowsImages(Protocol):
    """A method with further images for `validation.png`."""

    def shown(self, batch: Batch) -> Mapping[str, Tensor]:
        """Column titles and images (B, C, H, W) float, about [0, 1]."""
        ...


class WeightsFrom(NamedTuple):
    """A model by its name or path, or a file of tensors (safetensors or `.pth`)."""

    kind: Literal["model", "tensors"]
    name: str


@runtime_checkable
class TakesWeights(Protocol):
    """A method that uses the weights of another model, without training them.

    weights_from: where they are, None for none. take_weights: called once with the network, or the tensors by name.
    """

    weights_from: WeightsFrom | None

    def take_weights(self, weights: nn.Module | Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class UsualNetwork(Protocol):
    """A method class with its own default architecture: a key of `registry.ARCHITECTURES`."""

    usual_network: str


@runtime_checkable
class TakesNetworks(Protocol):
    """A method class that does not train every network."""

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool: ...


class Patches(NamedTuple):
    """Some of the training patches, (H, W, C) float32. clean: empty where the method needs none."""

    noisy: Sequence[NDArray[Any]]
    clean: Sequence[NDArray[Any]]


class MethodSettings(NamedTuple):
    """Settings of the recipe. options: of the method. config: of the network. noise: None for recorded."""

    options: Mapping[str, Any]
    config: Mapping[str, Any]
    noise: Noise | None


class Suggestion(NamedTuple):
    """Additions to the recipe's options and config, with a message for the user, if any."""

    message: str = ""
    options: Mapping[str, Any] = {}
    config: Mapping[str, Any] = {}


AutoOption = Callable[[MethodSettings, Callable[[], Patches]], Suggestion | None]
"""Settings measured on the images; None where the user gave them.

Raises InputError where the images do not allow a measurement (the defaults are used then), RecipeError where they do
not allow an option that the user gave.
"""


@runtime_checkable
class HasAutoOptions(Protocol):
    """A method class that measures some of its settings on the images, in this order."""

    auto_options: Sequence[AutoOption]


@runtime_checkable
class MeasuresConfig(Protocol):
    """A method class with entries of the network's config that are of its images alone.

    They are not copied from the initial model.
    """

    measured_config: Sequence[str]


@runtime_checkable
class CountsInSteps(Protocol):
    """A method class with options that are numbers of training steps, which are scaled with the length of the run."""

    step_options: Sequence[str]


class Application(NamedTuple):
    """How a model is applied to an image: a key of `registry.STRATEGIES`, and its arguments, defaults included."""

    strategy: str
    arguments: Mapping[str, Any]


@runtime_checkable
class InheritsOptions(Protocol):
    """A method class that takes options from the strategy of the initial model."""

    @staticmethod
    def inherited(application: Application) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Adaptation:
    """How a model is fine-tuned on noisy images, and which pixels are hidden to compare it with the original.

    options, batch: of the training. patch: largest side for training; step: what sides are multiples of; both in
    pixels. hiding: predicted by both models. most_stride: largest stride of the noise for which that is valid; why: the
    message for larger ones. applied: whether hidden pixels too are predicted with the model's strategy.
    steps: after which the training ends; None for when the time is over.
    guesses: whether the adapted model must be clearly better at hidden pixels too. A method that trains a few numbers
    cannot fit noise, and need only not be worse there.
    """

    options: Mapping[str, Any]
    patch: int
    step: int
    batch: int
    hiding: PixelHiding
    most_stride: int
    why: str
    applied: bool = False
    steps: int | None = None
    guesses: bool = True


class NoisyImages(NamedTuple):
    """What the images to adapt to say of themselves. stride: distance in pixels at which the noise is not correlated, 1
    or more; 0 for no noise. gray: whether all are. photons: gray images' noise, in units of the range; None where it
    cannot be measured."""

    stride: int
    gray: bool = False
    photons: PhotonNoise | None = None


@runtime_checkable
class AdaptsModels(Protocol):
    """A method class that `med adapt` can use."""

    @staticmethod
    def adaptation(application: Application, network: nn.Module, images: NoisyImages) -> Adaptation | None:
        """None for networks, strategies and images that another method adapts."""
        ...
