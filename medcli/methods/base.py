"""The agreement between a method and the training loop.

A method has *networks*, and *updates* that say which of them move, by which optimizer and to lower which loss terms. It
*needs* certain images. Its *model* is the network that is averaged and kept.

All else that a method can say is optional: the protocols after `Method`, which are looked for with `isinstance`. Of the
object that trains: `AsksItsOwnWay`, `CutsPatches`, `ShowsNoise`, `ExportsModel`. Of its class, when there is no network
yet: `UsualNetwork`, `TakesNetworks`, `HasAutoOptions`, `MeasuresConfig`, `CountsInSteps`, `InheritsOptions`,
`AdaptsModels`. No file outside this folder names a method, but for the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from medcli.blind_spot import PixelHiding
from medcli.noise.base import Noise

Terms = dict[str, Tensor]
Schedule = Callable[[float], float]
"""Share of the training that is over, 0 to 1 -> factor on the learning rate."""


@dataclass(frozen=True)
class Needs:
    """The images of one sample.

    views: noisy images of one scene. spare: further ones that are of use but can be missing: made noise brings them,
    recorded images where as many folders are given. alike: whether the views share kind and level of the noise, drawn
    anew for each (Noise2Noise), or draw those too. clean: "mates" are of the same scene, "others" of any other scene.
    """

    views: int = 1
    spare: int = 0
    alike: bool = False
    clean: Literal["none", "mates", "others"] = "none"


@dataclass(frozen=True)
class Batch:
    """What the loop hands to an update.

    views: noisy images of the same scenes, each (B, C, H, W) float32; clean ones span [0, 1], noise may leave it.
    clean: (B, C, H, W) float32 in [0, 1], or None where the method does not ask for it.
    keys: (B,) int64 on the CPU. Whatever a method draws, it draws from them, sample by sample, so that a step does not
    depend on how a batch is shared out between processes.
    """

    views: Sequence[Tensor]
    clean: Tensor | None
    keys: Tensor

    @property
    def noisy(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def generators(self) -> list[Generator]:
        """A fresh CPU generator for each sample, always in the same state."""
        return [Generator().manual_seed(int(key)) for key in self.keys]


@dataclass(frozen=True)
class Update:
    """A step of one optimizer: its networks move so that the sum of `terms(batch)`, already weighted, becomes smaller.

    networks: the name of one of the method's networks, or several that move together; the others stand still, and so
    do parameters whose `requires_grad` was False when the training began. terms: from a batch, each a scalar.
    every: training steps from one such update to the next. repeat: optimizer steps within one training step, on one
    batch. after: called after each, to let another network follow (an average of weights, for example).

    Of the rest, what is None is as in the recipe. optimizer: a key of `medcli.registry.OPTIMIZERS`. learning_rate: the
    peak; where it is not given, `rate` is a factor on that of the recipe. warmup: training steps to the peak. schedule:
    what follows. betas: those of the recipe count only for the recipe's optimizer. clip: largest norm of the gradient
    of all that moves here; infinity for none.
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
    """What the loop asks of a method.

    networks: on the device and in checkpoints, also those that no update moves. updates: in the order of a training
    step.
    """

    needs: Needs
    networks: dict[str, nn.Module]
    updates: Sequence[Update]

    @property
    def model(self) -> nn.Module:
        """The network worth keeping, whose weights are averaged: one that `medcli.registry.ARCHITECTURES` can rebuild,
        unless the method exports another (`ExportsModel`)."""
        ...


@runtime_checkable
class ExportsModel(Protocol):
    """A method whose model is saved in another form than it is trained in: pruned, or without some branches."""

    def export(self, network: nn.Module) -> nn.Module:
        """Of the form of `model` -> a network that `medcli.registry.ARCHITECTURES` can rebuild from its `config`.

        `network` is left as it is; its tensors may be shared. The result is what validation measures and a run saves.
        """
        ...


@runtime_checkable
class HasStrategy(Protocol):
    """A method whose model is not simply run: it is asked through a strategy of `medcli.engine.strategies`."""

    @property
    def strategy(self) -> str:
        """In the notation of strategies, such as `masks:k=2,pd=2`."""
        ...


@runtime_checkable
class FitsPatchSize(Protocol):
    """A method that cuts patches to what its network takes."""

    def fitting(self, side: int) -> int:
        """How much of a side is left; raises RecipeError for one that is too small."""
        ...


@runtime_checkable
class EstimatesNoise(Protocol):
    """A method that estimates the noise by a way of its own, not as what its model takes away."""

    def noise(self, noisy: Tensor) -> Tensor:
        """(B, C, H, W) -> the estimated noise, same shape."""
        ...


@runtime_checkable
class UsualNetwork(Protocol):
    """A method class with an architecture of its own, where none is named: a key of `registry.ARCHITECTURES`."""

    usual_network: str


@runtime_checkable
class TakesNetworks(Protocol):
    """A method class that does not train every network."""

    @staticmethod
    def takes(architecture: type[nn.Module]) -> bool: ...


class Patches(NamedTuple):
    """Some of the patches that are trained on, (H, W, C) float32. clean: empty where the method needs none."""

    noisy: Sequence[NDArray[Any]]
    clean: Sequence[NDArray[Any]]


class MethodSettings(NamedTuple):
    """What the recipe says. options: of the method. config: of the network. noise: that is made; None for recorded."""

    options: Mapping[str, Any]
    config: Mapping[str, Any]
    noise: Noise | None


class Suggestion(NamedTuple):
    """What joins the recipe's options and config, and the message that tells of it, if any."""

    message: str = ""
    options: Mapping[str, Any] = {}
    config: Mapping[str, Any] = {}


AutoOption = Callable[[MethodSettings, Callable[[], Patches]], Suggestion | None]
"""MethodSettings that follow from the images where nobody gave them; None where they were given.

Raises InputError where the images do not tell, and the defaults stand; RecipeError where something was asked for that
they do not allow.
"""


@runtime_checkable
class HasAutoOptions(Protocol):
    """A method class that measures some of its settings on the images, in this order."""

    auto_options: Sequence[AutoOption]


@runtime_checkable
class MeasuresConfig(Protocol):
    """A method class with entries of the network's config that are of its images alone.

    They are not taken over from a model that training starts from.
    """

    measured_config: Sequence[str]


@runtime_checkable
class CountsInSteps(Protocol):
    """A method class some of whose options are numbers of training steps: they shrink and grow with the run."""

    step_options: Sequence[str]


class Application(NamedTuple):
    """How a model is applied to an image: a key of `registry.STRATEGIES`, and its arguments, defaults included."""

    strategy: str
    arguments: Mapping[str, Any]


@runtime_checkable
class InheritsOptions(Protocol):
    """A method class that takes options from how the model is applied that training starts from."""

    @staticmethod
    def inherited(application: Application) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Adaptation:
    """How a model goes on learning from noisy images alone, and what is hidden to see whether that made it better.

    options, batch: of the training. patch: largest side that is trained on; step: what sides are multiples of; both in
    pixels. hiding: guessed by both models. most_stride: largest stride of the noise at which that can be told; why:
    what to say of a larger one.
    """

    options: Mapping[str, Any]
    patch: int
    step: int
    batch: int
    hiding: PixelHiding
    most_stride: int
    why: str


@runtime_checkable
class AdaptsModels(Protocol):
    """A method class by which `med adapt` trains."""

    @staticmethod
    def adaptation(application: Application, multiple: int, stride: int) -> Adaptation | None:
        """None for models that are applied in another way. multiple: what sides of the network's input must be
        multiples of. stride: distance in pixels at which the noise is not correlated, 1 or more; 0 for no noise."""
        ...
