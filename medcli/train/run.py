"""A training run from recipe to weight file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from platformdirs import user_cache_path
from torch import nn

from medcli import __version__
from medcli.archs.ludvae import LUDVAE
from medcli.errors import ModelError, OutputError, RecipeError
from medcli.methods.base import Method
from medcli.methods.losses import LOSSES
from medcli.registry import METHODS, nearest, resolve
from medcli.train import checkpoint
from medcli.train.loop import Limits, Line, Trainer
from medcli.train.machine import Machine, choose_machine
from medcli.train.processes import Team, join
from medcli.train.proposals import with_proposals
from medcli.train.recipe import Recipe
from medcli.train.sources import Folders, Sources, open_sources
from medcli.train.validation import PATCHES, strategy_of
from medcli.train.witness import Witness
from medcli.zoo import catalog, modelcard, weights

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a run needs beside its recipe: pictures, a folder to write to, a machine, and when to stop.

    data, noisy, clean, val: see `medcli.train.sources`. command, data_licence: for the model card.
    """

    output: Path
    data: Sequence[Path] = ()
    noisy: Sequence[Path] = ()
    clean: Sequence[Path] = ()
    val: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    resume: bool = False
    command: str = ""
    data_licence: str = ""
    limits: Limits | None = None
    cache: Path | None = None

    def folders(self) -> Folders:
        cache = self.cache or user_cache_path("medcli") / "pictures"
        return Folders(cache, self.data, self.noisy, self.clean, self.val)


def train(recipe: Recipe, options: Options, report: Callable[[Line], None], say: Callable[[str], None]) -> Path:
    """Runs the recipe and returns the path of the weight file, `<output>/<id>.safetensors`.

    report: called with each line of the log. say: called with one-line messages. Under `torchrun` only the first
    process calls them. Raises RecipeError, TrainingError, DeviceError and OutputError.
    """
    machine = choose_machine(options.device, options.precision, options.workers)
    team, device = join(machine.device)
    machine = replace(machine, device=device)
    tell = say if team.leads else _silent
    try:
        return _train(recipe, options, machine, team, report, tell)
    finally:
        team.leave()


def _train(
    recipe: Recipe,
    options: Options,
    machine: Machine,
    team: Team,
    report: Callable[[Line], None],
    say: Callable[[str], None],
) -> Path:
    method = build_method(recipe, machine)
    sources = _in_turn(team, lambda: open_sources(recipe, method.needs, options.folders()))
    adjusted = with_proposals(_in_gray(recipe, sources), sources.train, say)
    if adjusted != recipe:
        recipe, method = adjusted, build_method(adjusted, machine)
    folder = _in_turn(team, lambda: _prepare(recipe, options, team))
    witness = Witness(folder, report) if team.leads else _silent
    trainer = Trainer(method, recipe, machine, folder, witness, sources.validation, team)
    if options.resume and trainer.resume():
        say(f"going on from step {trainer.step} of {recipe.steps}")
    _introduce(sources, method, machine, team, say)
    try:
        trainer.run(sources.train, options.limits or Limits())
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped at step {trainer.step}; go on with --resume")
        raise
    if isinstance(witness, Witness):
        _keep(trainer, witness, options)
    return folder / f"{recipe.id}.safetensors"


def _in_gray(recipe: Recipe, sources: Sources) -> Recipe:
    """With one channel where no picture has colour, unless the recipe says otherwise."""
    if "channels" in recipe.config or not sources.gray:
        return recipe
    return replace(recipe, config={**recipe.config, "channels": 1})


def _keep(trainer: Trainer, witness: Witness, options: Options) -> None:
    """The product with its page, and the pictures of the run."""
    recipe, folder, product = trainer.recipe, witness.folder, trainer.best()
    card = replace(_card(recipe, trainer.step), strategy=strategy_of(trainer.method))
    path = folder / f"{recipe.id}.safetensors"
    weights.save(path, product, card)
    facts = replace(
        modelcard.of_card(card, path.name),
        command=options.command,
        data_licence=options.data_licence,
        scores=_scores(trainer),
    )
    (folder / "README.md").write_text(modelcard.render(facts), encoding="utf-8")
    witness.draw()
    if trainer.validation:
        witness.show(trainer.validation, trainer.method, product, trainer.machine, trainer.step)
        if isinstance(product, LUDVAE):
            witness.show_noise(product, trainer.validation, trainer.machine)
    witness.close()


def _scores(trainer: Trainer) -> dict[str, float]:
    """Protocol to figure, for the model card; empty where no clean picture judged."""
    score = checkpoint.score(trainer.checkpoints / checkpoint.BEST)
    if score is None or not (trainer.validation and trainer.validation.by_psnr):
        return {}
    return {f"{PATCHES} held-out patches with the noise of training, PSNR dB": round(score, 2)}


def _introduce(sources: Sources, method: Method, machine: Machine, team: Team, say: Callable[[str], None]) -> None:
    for line in sources.skipped:
        say(f"left out: {line}")
    parameters = sum(parameter.numel() for parameter in method.product.parameters())
    several = f", {team.size} processes" if team.size > 1 else ""
    judged = f"{sources.held_out} held out to judge by" if sources.held_out else "none to judge by"
    dtype = str(machine.dtype).removeprefix("torch.")
    say(f"{sources.pictures} pictures, {judged}; {parameters:,} parameters; {machine.device}, {dtype}{several}")


def _in_turn(team: Team, act: Callable[[], T]) -> T:
    """What the first process leaves on the disk, the others find there."""
    if not team.leads:
        team.wait()
        return act()
    done = act()
    team.wait()
    return done


def _prepare(recipe: Recipe, options: Options, team: Team) -> Path:
    """The run's folder with the frozen recipe in it; a folder that holds another run is refused."""
    folder, frozen = options.output, options.output / "recipe.yaml"
    if not team.leads:
        return folder
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
    if recipe.loss and recipe.loss not in LOSSES:
        raise RecipeError(f"There is no loss '{recipe.loss}'.", nearest(recipe.loss, LOSSES))
    torch.manual_seed(recipe.seed)
    network = _network(recipe).train()
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    loss = {"loss": recipe.loss} if recipe.loss else {}
    try:
        method: Method = kind(network, **loss, **recipe.options)
    except TypeError as error:
        raise RecipeError(f"The method '{recipe.method}' does not take these options: {error}") from error
    for player in method.players.values():
        player.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def _card(recipe: Recipe, steps: int = 0) -> weights.Card:
    return weights.Card(
        id=recipe.id,
        architecture=recipe.architecture,
        config=recipe.config,
        title=recipe.title,
        channels=recipe.config.get("channels", 3),
        noise=recipe.noise or ", ".join(recipe.noises),
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


def _silent(_: object) -> None:
    """What the other processes have to say."""
