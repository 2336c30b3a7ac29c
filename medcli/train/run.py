"""A training run from recipe to weight file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import nn

from medcli import __version__
from medcli.data.cache import PixelCache, open_cache
from medcli.data.crops import NoisyCrops
from medcli.engine.device import choose_device, cpu_multiplies_bf16
from medcli.errors import ModelError, OutputError, RecipeError
from medcli.methods.supervised import LOSSES
from medcli.registry import METHODS, nearest, resolve
from medcli.train.loop import Limits, Machine, Method, Trainer
from medcli.train.recipe import Recipe
from medcli.zoo import catalog, weights


@dataclass(frozen=True)
class Options:
    """What a run needs beside its recipe: pictures, a folder to write to, a machine, and when to stop."""

    data: Sequence[Path]
    output: Path
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    resume: bool = False
    limits: Limits | None = None
    cache: Path | None = None


def train(
    recipe: Recipe, options: Options, report: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> Path:
    """Runs the recipe and returns the path of the weight file, `<output>/<id>.safetensors`.

    report: called with each line of the log. say: called with one-line messages. Raises RecipeError, TrainingError,
    DeviceError and OutputError.
    """
    machine = choose_machine(options)
    pictures = _open_pictures(recipe, options, say)
    noise = recipe.draw_noise()
    folder = _prepare(recipe, options)
    method = build_method(recipe, machine)
    trainer = Trainer(method, recipe, machine, folder, report)
    if options.resume and trainer.resume():
        say(f"going on from step {trainer.step} of {recipe.steps}")
    crops = NoisyCrops(pictures, noise, recipe.patch, recipe.seed, recipe.enlarge_share)
    say(f"{len(pictures)} pictures, {_count(method.product):,} parameters, {machine.device}, {machine.dtype}")
    try:
        product = trainer.run(crops, options.limits or Limits())
    except KeyboardInterrupt:
        trainer.save()
        say(f"stopped at step {trainer.step}; go on with --resume")
        raise
    return _keep(product, recipe, trainer.step, folder)


def choose_machine(options: Options) -> Machine:
    """The device, the dtype that is fast on it, and as many drawing processes as leave one core to the network."""
    device = choose_device(options.device)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": _fast_dtype(device)}
    if options.precision not in dtypes:
        raise RecipeError(f"Training in '{options.precision}' is not possible.", nearest(options.precision, dtypes))
    cores = os.cpu_count() or 1
    workers = min(12, max(1, cores - 1)) if options.workers is None else options.workers
    return Machine(device, dtypes[options.precision], workers)


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_multiplies_bf16() else torch.float32


def _open_pictures(recipe: Recipe, options: Options, say: Callable[[str], None]) -> PixelCache:
    cache_dir = options.cache or user_cache_path("medcli") / "pictures"
    pictures = open_cache(options.data, cache_dir, smallest=recipe.patch)
    for line in pictures.skipped:
        say(f"left out: {line}")
    return pictures


def _prepare(recipe: Recipe, options: Options) -> Path:
    """The run's folder with the frozen recipe in it; a folder that holds another run is refused."""
    folder, frozen = options.output, options.output / "recipe.yaml"
    if frozen.exists() and not options.resume:
        raise OutputError(f"{folder} holds a training run already.", "Go on with --resume, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        frozen.write_text(recipe.dump())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


def build_method(recipe: Recipe, machine: Machine) -> Method:
    """The recipe's method around its network, on the machine's device."""
    if recipe.loss not in LOSSES:
        raise RecipeError(f"There is no loss '{recipe.loss}'.", nearest(recipe.loss, LOSSES))
    torch.manual_seed(recipe.seed)
    network = _network(recipe).train().to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    method: Method = kind(network, loss=recipe.loss)
    return method


def _card(recipe: Recipe, steps: int = 0) -> weights.Card:
    return weights.Card(
        id=recipe.id,
        architecture=recipe.architecture,
        config=recipe.config,
        title=recipe.title,
        noise=recipe.noise,
        licence=recipe.licence,
        training_data=recipe.training_data,
        method=recipe.method,
        recipe=recipe.id,
        steps=steps,
        version=__version__,
    )


def _network(recipe: Recipe) -> nn.Module:
    """A fresh network, or the weights of `init` where the recipe names a model to start from."""
    network = weights.build(_card(recipe))
    if recipe.init:
        start, card = weights.load_network(catalog.locate(recipe.init))
        try:
            network.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise ModelError(f"'{card.id}' does not fit the recipe: it is another {card.architecture}.") from error
    return network


def _keep(product: nn.Module, recipe: Recipe, steps: int, folder: Path) -> Path:
    path = folder / f"{recipe.id}.safetensors"
    weights.save(path, product, _card(recipe, steps))
    return path


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
