"""A training run from recipe to weight file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import TypeVar

import torch
from platformdirs import user_cache_path
from torch import nn

from medcli import __version__
from medcli.data.cache import SMALLEST_PATCH, ImagesTooSmall, silent
from medcli.errors import ModelError, OutputError, RecipeError, TrainingError, ran_out
from medcli.files.atomic import atomic_write
from medcli.images.values import RangeChoice, parse_range
from medcli.losses import LOSSES
from medcli.methods.base import FitsPatchSize, HasStrategy, Method, TakesWeights
from medcli.registry import ARCHITECTURES, METHODS, nearest, resolve
from medcli.train import checkpoint
from medcli.train.auto_options import with_auto_options
from medcli.train.distributed import ProcessGroup, join_process_group
from medcli.train.hardware import Hardware, choose_hardware
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.noise_plot import NoiseNetwork
from medcli.train.pace import fitted
from medcli.train.recipe import Recipe
from medcli.train.run_artifacts import RunArtifacts
from medcli.train.sources import Folders, Sources, open_sources
from medcli.train.start import weights_of
from medcli.train.validation import PATCHES, exported, strategy_of
from medcli.zoo import modelcard, weights
from medcli.zoo.description import NOISE_DOMAIN, describe, domain_of
from medcli.zoo.model import find_model

T = TypeVar("T")
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class TrainOptions:
    """What a run needs beside its recipe: images, a folder to write to, a machine, and when to stop.

    data, noisy, clean, pairs, val: see `medcli.train.sources`. command, data_licence: for the model card. again: how
    one that was stopped goes on, in words. range: which values of the images are black and white, "auto" for what the
    recipe says. nodata: which means nothing, None for that of each file.
    free: which of "config", "patch" and "batch" are chosen for the machine. progress: called with messages on decoding.
    """

    output: Path
    data: Sequence[Path] = ()
    noisy: Sequence[Path] = ()
    clean: Sequence[Path] = ()
    pairs: Sequence[Path] = ()
    val: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    resume: bool = False
    command: str = ""
    data_licence: str = ""
    limits: Limits | None = None
    cache: Path | None = None
    again: str = "--resume"
    range: RangeChoice = "auto"
    nodata: float | None = None
    free: Collection[str] = ()
    progress: Callable[[str], None] = silent

    def folders(self) -> Folders:
        cache = self.cache or user_cache_path("medcli") / "images"
        return Folders(
            cache, self.data, self.noisy, self.clean, self.pairs, self.val, self.range, self.nodata, self.progress
        )


def train(recipe: Recipe, options: TrainOptions, report: Callable[[Line], None], say: Callable[[str], None]) -> Path:
    """Runs the recipe and returns the path of the weight file, `<output>/<id>.safetensors`.

    report: called with each line of the log. say: called with one-line messages. Under `torchrun` only the first
    process calls them. Raises RecipeError, TrainingError, DeviceError and OutputError.
    """
    if options.range == "auto":
        options = replace(options, range=parse_range(recipe.range))
    recipe = replace(recipe, range=str(options.range))
    hardware = choose_hardware(options.device, options.precision, options.workers)
    group, device = join_process_group(hardware.device)
    hardware = replace(hardware, device=device)
    tell = say if group.is_main else _silent
    try:
        return _train(recipe, options, hardware, group, report, tell)
    finally:
        group.close()


def _train(
    recipe: Recipe,
    options: TrainOptions,
    hardware: Hardware,
    group: ProcessGroup,
    report: Callable[[Line], None],
    say: Callable[[str], None],
) -> Path:
    limits = options.limits or Limits()
    build = partial(build_method, hardware=hardware)
    recipe = fitted(recipe, options.free, build, hardware, group, limits.minutes, say)
    recipe, method, sources = opened(recipe, options, hardware, group, say)
    folder = _in_turn(group, hardware.device, lambda: _prepare(options, group))
    artifacts = RunArtifacts(folder, report) if group.is_main else _silent
    show = None
    if isinstance(artifacts, RunArtifacts) and sources.validation:
        show = partial(artifacts.show_step, sources.validation, method, hardware)
    trainer = Trainer(method, recipe, hardware, folder, artifacts, sources.validation, group, show)
    if options.resume:
        found = trainer.resume()
        say(
            f"going on from step {trainer.step} of {recipe.steps}" if found else f"no checkpoint in {folder}: a new run"
        )
    if group.is_main:
        with atomic_write(folder / RECIPE) as file:  # only now: a checkpoint that does not fit leaves the recipe
            file.write(recipe.dump().encode())
    _introduce(recipe.method, sources, method, hardware, group, say)
    try:
        trainer.run(sources.train, limits)
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped at step {trainer.step}; go on with {options.again}")
        raise
    except RuntimeError as error:
        raise _translated(error, hardware) from error
    if isinstance(artifacts, RunArtifacts):
        _keep(trainer, artifacts, options, sources)
    return folder / f"{recipe.id}.safetensors"


def opened(
    recipe: Recipe, options: TrainOptions, hardware: Hardware, group: ProcessGroup, say: Callable[[str], None]
) -> tuple[Recipe, Method, Sources]:
    """The recipe with what the images have to say to it, its method, and where the samples come from.

    Raises RecipeError, InputError and TrainingError where they do not fit each other.
    """
    goes_on = options.resume and bool(checkpoint.saved(options.output / "checkpoints"))

    def built(recipe: Recipe) -> Method:
        """The weights of a run that goes on are in its checkpoint, wherever the model is now that it started from."""
        return build_method(replace(recipe, init="") if goes_on else recipe, hardware)

    method = built(recipe)  # first: errors in it are reported before images are decoded
    denoises = domain_of(method.model) != NOISE_DOMAIN
    opens = partial(open_sources, needs=method.needs, folders=options.folders(), denoises=denoises)

    def open_with_patches_that_fit() -> tuple[Recipe, Sources]:
        try:
            return recipe, opens(recipe)
        except ImagesTooSmall as error:
            step = int(getattr(method.model, "multiple", 1))
            side = error.side // step * step
            if "patch" not in options.free or side < SMALLEST_PATCH:
                raise
            say(f"patches of {side}: no image has sides of {recipe.patch} pixels")
            smaller = replace(recipe, patch=side)
            return smaller, opens(smaller)

    fitting, sources = _in_turn(group, hardware.device, open_with_patches_that_fit)
    if sources.gray and "channels" not in fitting.config:
        fitting = replace(fitting, config={**fitting.config, "channels": 1})
    adjusted = with_auto_options(fitting, sources.train, say)
    method = method if adjusted == recipe else built(adjusted)
    if isinstance(method, FitsPatchSize):
        method.fitting(adjusted.patch)  # before there is a folder that holds a run
    return adjusted, method, sources


def _translated(error: RuntimeError, hardware: Hardware) -> Exception:
    """The message for an error of memory or of a worker process, or the error itself."""
    if ran_out(error):
        return TrainingError(f"The memory of {hardware.device} ran out.", "Go on with --resume and a smaller --batch.")
    if "DataLoader worker" in str(error):
        return TrainingError(
            "A process that draws patches was ended from outside, perhaps for want of memory.",
            "Go on with --resume, and with --workers 0 if it happens again.",
        )
    return error


def _keep(trainer: Trainer, artifacts: RunArtifacts, options: TrainOptions, sources: Sources) -> None:
    """The model with its page, and the images of the run."""
    recipe, folder, average = trainer.recipe, artifacts.folder, trainer.best()
    model = exported(trainer.method, average)
    card = replace(
        _card(recipe, trainer.step, sources.noises), strategy=strategy_of(trainer.method), domain=domain_of(model)
    )
    if model is not average or _architecture_of(model) != recipe.architecture:
        card = replace(card, architecture=_architecture_of(model), config=dict(getattr(model, "config", {})))
    path = folder / f"{recipe.id}.safetensors"
    weights.save(path, model, card)
    about = replace(describe(card), data_licence=options.data_licence, scores=_scores(trainer))
    page = modelcard.render(about, modelcard.Origin(path.name, command=options.command))
    (folder / "README.md").write_text(page, encoding="utf-8")
    artifacts.draw()
    if trainer.validation:
        artifacts.show(trainer.validation, trainer.method, average, trainer.hardware, trainer.step)
    if isinstance(model, NoiseNetwork):
        artifacts.show_noise(model, trainer.validation.source if trainer.validation else sources.train)
    artifacts.close()


def _architecture_of(network: nn.Module) -> str:
    """Its name in the registry. Raises ValueError for a network that is not there."""
    for name in ARCHITECTURES:
        if resolve(ARCHITECTURES, name, kind="architecture", error=ModelError) is type(network):
            return name
    raise ValueError(f"a method exports a {type(network).__name__}, which no weight file can name")


def _scores(trainer: Trainer) -> dict[str, float]:
    """Protocol to figure, for the model card; empty where validation had no clean images."""
    score = checkpoint.score(trainer.checkpoints / checkpoint.BEST)
    if score is None or not (trainer.validation and trainer.validation.by_psnr):
        return {}
    return {f"{PATCHES} held-out patches with the noise of training, PSNR dB": round(score, 2)}


def _introduce(
    name: str, sources: Sources, method: Method, hardware: Hardware, group: ProcessGroup, say: Callable[[str], None]
) -> None:
    for line in sources.skipped:
        say(f"left out: {line}")
    parameters = sum(parameter.numel() for parameter in method.model.parameters())
    several = f", {group.size} processes" if group.size > 1 else ""
    held_out = f"{sources.held_out or 'none'} held out for validation"
    dtype = str(hardware.dtype).removeprefix("torch.")
    size = f"{parameters:,} parameters"
    say(f"{name}: {sources.images} images, {held_out}; {size}; {hardware.device}, {dtype}{several}")


def _in_turn(group: ProcessGroup, device: torch.device, act: Callable[[], T]) -> T:
    """What the first process leaves on the disk, the others find there; where it fails, they end without a word."""
    failed = 1.0
    try:
        if group.is_main:
            done = act()
        failed = 0.0
    finally:
        failed = group.broadcast(failed, device)
    if failed:
        raise SystemExit(1)
    return done if group.is_main else act()


def _prepare(options: TrainOptions, group: ProcessGroup) -> Path:
    """The run's folder; one that holds another run is refused."""
    folder = options.output
    if not group.is_main:
        return folder
    if (folder / RECIPE).exists() and not options.resume:
        raise OutputError(f"{folder} holds a training run already.", "Go on with --resume, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


def build_method(recipe: Recipe, hardware: Hardware) -> Method:
    """The recipe's method around its network, on the machine's device.

    Raises RecipeError where an option of the method makes no sense, or patches do not fit the network.
    """
    name = recipe.options.get("loss", recipe.loss)
    if name and str(name) not in LOSSES:  # a list is no key
        raise RecipeError(f"There is no loss '{name}'.", nearest(str(name), LOSSES))
    _check_config(recipe)
    torch.manual_seed(recipe.seed)
    network = _network(recipe).train()
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    loss = {"loss": recipe.loss} if recipe.loss else {}
    _check_options(recipe, signature(kind).parameters)
    method: Method = kind(network, **loss | recipe.options)
    if isinstance(method, TakesWeights) and method.weights_from:
        method.take_weights(weights_of(method.weights_from))
    _check_patch(recipe, method)
    for each in method.networks.values():
        each.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def _check_config(recipe: Recipe) -> None:
    """By name; the network itself knows which values make sense."""
    kind = resolve(ARCHITECTURES, recipe.architecture, kind="architecture", error=ModelError)
    known = signature(kind).parameters
    if odd := [name for name in recipe.config if name not in known]:
        raise RecipeError(f"The network '{recipe.architecture}' has no '{odd[0]}'.", nearest(str(odd[0]), known))


def _check_options(recipe: Recipe, taken: Mapping[str, Parameter]) -> None:
    """Options by name, and of the type that their usual values have."""
    known = {name: parameter.default for name, parameter in taken.items() if parameter.kind is Parameter.KEYWORD_ONLY}
    for name, value in recipe.options.items():
        if name not in known:
            hint = nearest(str(name), known) if known else "It has none."
            raise RecipeError(f"The method '{recipe.method}' does not take these options: '{name}'.", hint)
        wanted = type(known[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise RecipeError(
                f"'{name}' of '{recipe.method}' cannot be {value!r}.", f"It is {known[name]!r} by default."
            )


def _check_patch(recipe: Recipe, method: Method) -> None:
    """A method that applies its network in its own way cuts patches itself."""
    step = int(getattr(exported(method, method.model), "multiple", 1))
    if recipe.patch % step and not isinstance(method, HasStrategy):
        fits = max(step, recipe.patch // step * step)
        raise RecipeError(
            f"Patches of {recipe.patch} pixels do not fit the network, whose sides are multiples of {step}.",
            f"Give --patch {fits} or {fits + step}.",
        )


def _card(recipe: Recipe, steps: int = 0, recorded: Sequence[str] = ()) -> weights.Card:
    """recorded: noises that the images had already."""
    noises = list(recorded or recipe.noises)
    return weights.Card(
        id=recipe.id,
        architecture=recipe.architecture,
        config=recipe.config,
        title=recipe.title,
        channels=recipe.config.get("channels", 3),
        noise=recipe.noise or ", ".join(noises),
        noises=noises,
        licence=recipe.licence,
        training_data=recipe.training_data,
        method=recipe.method,
        recipe=recipe.id,
        steps=steps,
        version=__version__,
    )


def _network(recipe: Recipe) -> nn.Module:
    """A fresh network, or the weights of `init` where the recipe names a model to start from.

    A gray network starts from a colour model of its architecture if that can be made gray (`as_gray`).
    """
    network = weights.build(_card(recipe))
    if recipe.init:
        model = find_model(recipe.init)
        start, card = model.network(), model.card
        if recipe.config.get("channels") == 1 and card.channels > 1 and hasattr(start, "as_gray"):
            start = start.as_gray()  # type: ignore[operator]
        state = start.state_dict()
        if recipe.partial_init:
            own = network.state_dict()
            state = own | {name: each for name, each in state.items() if name in own and own[name].shape == each.shape}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"Training cannot start from '{card.id}': it is another {card.architecture} than the recipe's.",
                "Leave --arch and --recipe out, and the network is that of the model.",
            ) from error
    return network


def _silent(_: object) -> None:
    """What the other processes have to say."""
