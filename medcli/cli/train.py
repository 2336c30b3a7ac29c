"""`med train`: images and a noise, or a recipe, or noisy images alone; in the end a weight file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medcli.cli.options import (
    EXISTING_FOLDER,
    FOLDER,
    assigned,
    chosen_range,
    complete_model,
    name_or_path,
    nodata,
    ranges,
    threads,
)

if TYPE_CHECKING:
    from medcli.train.recipe import Recipe
    from medcli.train.run import TrainOptions

OWN_STEPS = 10_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", multiple=True, type=EXISTING_FOLDER,
              help="Folder of clean images; may be given again.  [default: the current folder]")  # fmt: skip
@click.option("--noisy", multiple=True, type=EXISTING_FOLDER, help="Folder of images that are noisy already.")
@click.option(
    "--clean",
    multiple=True,
    type=EXISTING_FOLDER,
    help="Folder of clean images beside --noisy, or beside --data for unpaired methods.",
)
@click.option("--pairs", multiple=True, type=EXISTING_FOLDER, help="Folder of mates that 'med synth-pairs' has made.")
@click.option("--val", type=EXISTING_FOLDER, help="Folder that judges the model, instead of a share of the images.")
@click.option("-o", "--output", type=FOLDER,
              help="The run's folder.  [default: runs/METHOD-1, or the next free number]")  # fmt: skip
@click.option("--pool", type=name_or_path, help="Noises to learn: noise, gaussian, camera, corruption or a YAML file.")
@click.option("--noise", help="One noise to learn, such as gaussian:25 or gaussian:5-50+speckle:25.")
@click.option("--recipe", type=name_or_path, help="A recipe's name or YAML file, in place of the defaults.")
@click.option("--method", help="How to learn.  [default: med for a pool of noises, else supervised]")
@click.option(
    "--option", "method_options", multiple=True, metavar="NAME=VALUE", help="Of the method: views=3, fuse=add ..."
)
@click.option("--pd", type=click.IntRange(min=1), help="Stride of amsnet's sub-images.  [default: by the noise]")
@click.option("--arch", "architecture", help="The network.  [default: unet, or what the method needs]")
@click.option("--config", multiple=True, metavar="NAME=VALUE",
              help="Of the network: width=32, sigma_y=12 ...  [default: by the machine]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help=f"Steps of the whole run.  [default: {OWN_STEPS:,}]")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="End the schedule in this time.")
@click.option("--batch", type=click.IntRange(min=1), help="Patches per step and process.  [default: by the machine]")
@click.option("--patch", type=click.IntRange(min=16), help="Side of a patch in pixels.  [default: by the machine]")
@click.option("--loss", help="l1, mse, charbonnier or log_mse.")
@click.option("--lr", "learning_rate", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.")
@click.option("--init", type=name_or_path, shell_complete=complete_model, help="A model to start from.")
@click.option("--licence", help="Of the weights that come out, for the model card (SPDX).")
@click.option("--data-licence", default="", help="Of the images, for the model card.")
@click.option("--seed", type=int, help="Another seed gives another model.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16"]))
@threads()
@click.option("--workers", type=click.IntRange(min=0), help="Processes that draw patches.")
@click.option("--cache", type=FOLDER, help="Where decoded images are kept.")
@ranges
@nodata
@click.option("--report-every", default=100, show_default=True, type=click.IntRange(min=1), help="In steps.")
@click.option("--save-every", default=500, show_default=True, type=click.IntRange(min=1), help="In steps.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(output: Path | None, recipe: str | None, pool: str | None, noise: str | None, **options: Any) -> None:
    """Train a denoiser.

    \b
    With the clean images below the current folder, into runs/med-1; sizes as the machine can do:
      med train --pool noise
    Clean images, which are made noisy; a pool is learned by med, one noise supervised:
      med train --pool noise --data images/ -o run/
      med train --noise gaussian:25 --data images/ -o run/ --minutes 30
    To fill in missing pixels and enlarge images (med denoise --mask, --upscale):
      med train --pool corruption --data images/ -o run/
    Pairs, or two noisy images of each scene, under equal names:
      med train --noisy noisy/ --clean clean/ -o run/
      med train --pairs noisy/ -o run/                  mates that 'med synth-pairs' has made
      med train --method n2n --noisy first/ --noisy second/ -o run/
    A recipe of the zoo, or a model to go on from:
      med train --recipe photo --data images/ -o run/
      med train --init run/ --noise gaussian:5-50 --method n2n --data images/ -o fine/

    Then: med denoise photo.png --model run/

    Killed at any moment, a run goes on with --resume from its last checkpoint. Several GPUs or machines train
    together under torchrun: torchrun --nproc-per-node 4 -m medcli train ...
    """  # fmt: skip
    from medcli.cli.runs import is_main, run_folder, with_images
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.loop import Limits
    from medcli.train.run import TrainOptions, train
    from medcli.zoo.modelcard import use
    from medcli.zoo.weights import read_card

    _refuse_mixtures(pool, noise, options)
    quiet = options.pop("quiet") or not is_main()  # under torchrun one process speaks
    limits = Limits(**{key: options.pop(key) for key in ("minutes", "save_every", "report_every")})
    options["range"] = chosen_range(options.pop("range_"), options.pop("range_from"), options["nodata"])
    places = {each.name: options.pop(each.name) for each in fields(TrainOptions) if each.name in options}
    given, pd = options.pop("method_options"), options.pop("pd")
    own = {
        "options": assigned(given if pd is None else (*given, f"pd={pd}"), "--option") or None,
        "config": assigned(options.pop("config"), "--config") or None,
        "noises": _noises(pool, noise),
    }
    wanted = {key: value for key, value in (options | own).items() if value is not None}
    pooled = not noise and pool != "camera" and not (places["noisy"] or places["pairs"])
    with run_folder(output, partial(_method, recipe, wanted, pooled=pooled), resume=places["resume"]) as folder:
        run = with_images(TrainOptions(folder, limits=limits, command=_command(), **places))
        chosen = _recipe(recipe, wanted, run, pooled=pooled)
        run = replace(run, free=() if recipe or _frozen(run) else _free(wanted))
        keep_freed_memory()
        with TrainDisplay(chosen.steps, quiet=quiet) as display:
            for line in _first_words(output, recipe, run):
                display.say(line)
            path = train(chosen, replace(run, progress=display.say), display.report, display.say)
            if is_main():  # the others may be done before the file is there
                display.say(f"{path} is ready: {use(read_card(path), str(folder), 'IMAGE')}")


def _first_words(output: Path | None, recipe: str | None, run: TrainOptions) -> Iterator[str]:
    """What was decided for the user."""
    if output is None:
        yield f"the run goes to {run.output} (-o names another folder)"
    if run.data and run.data[0].is_file():
        yield f"{len(run.data)} images below the current folder, {Path.cwd()} (--data names another)"
    if recipe and _frozen(run):
        yield f"{run.output} keeps the recipe that it was begun with: --recipe {recipe} is for new runs"


def _free(wanted: Mapping[str, Any]) -> list[str]:
    """Sizes that nobody gave; the network of a start model is given, and one of other arguments than the usual."""
    own = "init" in wanted or set(wanted.get("config", ())) - {"channels"}
    return [name for name in ("config", "patch", "batch") if (not own if name == "config" else name not in wanted)]


def _method(recipe: str | None, wanted: Mapping[str, Any], *, pooled: bool) -> str:
    """The method by which the run will learn."""
    from medcli.train.recipe import load
    from medcli.zoo.model import find_model

    if "method" in wanted or recipe:
        return str(wanted.get("method") or load(recipe or "").method)
    network = find_model(wanted["init"]).card.architecture if "init" in wanted else None
    return _usual_method(network or wanted.get("architecture"), pooled=pooled)


def _refuse_mixtures(pool: str | None, noise: str | None, options: Mapping[str, Any]) -> None:
    """Refuses what contradicts itself."""
    if pool and noise:
        raise click.UsageError("--pool and --noise exclude each other: a pool is a list of noises.")
    for given in ("noisy", "pairs"):
        if options[given] and (pool or noise or options["data"]):
            message_lines = f"--{given} images have their noise: neither --data, --noise nor --pool go with them."
            raise click.UsageError(message_lines)
    if options["pairs"] and options["noisy"]:
        raise click.UsageError("--pairs and --noisy exclude each other: the mates of --pairs are the noisy images.")


def _command() -> str:
    """The command line as the model card tells it."""
    from medcli.zoo.modelcard import portable

    return portable(["med", *sys.argv[1:]])


def _noises(pool: str | None, noise: str | None) -> dict[str, float] | None:
    """Notation to weight: a pool is opened up, so that the frozen recipe says all there is to say."""
    from medcli.noise.notation import parse, parse_pool
    from medcli.noise.pool import Pool

    if not (pool or noise):
        return None
    made = parse_pool(pool) if pool else parse(noise or "")
    return {str(entry): weight for weight, entry in made.noises} if isinstance(made, Pool) else {str(made): 1.0}


def _recipe(name: str | None, given: dict[str, Any], run: TrainOptions, *, pooled: bool) -> Recipe:
    """The recipe with the options given; a resumed run keeps the recipe that was frozen in its folder."""
    from medcli.train.recipe import bundled, load

    if frozen := _frozen(run):
        return _joined(_kept(frozen, name, given.get("architecture"), run), given)
    recipe = load(name) if name else _own(given, run, pooled=pooled)
    if name in bundled():  # licence and noise are of the weights and images that we had; these are the user's
        recipe = replace(recipe, licence="", noise=recipe.noise if recipe.noises else "")
    if recipe.noises and (run.noisy or run.pairs):
        recipe = replace(recipe, noises={}, noise="")  # the images have their own, and the card tells no other
    return _joined(replace(recipe, training_data=_seen(given.get("init", recipe.init), run)), given)


def _seen(init: str, run: TrainOptions) -> list[str]:
    """The images that the start model has seen, if there is one, and those of the run."""
    from medcli.zoo.model import find_model

    before = find_model(init).card.training_data if init else []
    return list(dict.fromkeys([*before, *_names(run)]))


def _frozen(run: TrainOptions) -> Path | None:
    """Where the recipe of a run that goes on lies; None for a new run."""
    path = run.output / "recipe.yaml"
    return path if run.resume and path.is_file() else None


def _kept(frozen: Path, name: str | None, architecture: str | None, run: TrainOptions) -> Recipe:
    """The frozen recipe; of a named one with the same id, nothing is taken.

    Raises RecipeError where another recipe is named, or another network than that of the checkpoints.
    """
    from medcli.errors import RecipeError
    from medcli.train.recipe import load

    recipe = load(str(frozen))
    if name and (other := load(name).id) != recipe.id:
        hint = f"Leave --recipe out to go on, or choose another -o for '{other}'."
        raise RecipeError(f"{run.output} was begun with the recipe '{recipe.id}', not '{other}'.", hint)
    if architecture not in (None, recipe.architecture):
        hint = f"Leave --arch out to go on, or choose another -o for '{architecture}'."
        raise RecipeError(f"{run.output} was begun with the network '{recipe.architecture}'.", hint)
    return recipe


def _joined(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """With what was given; single options and numbers join those that it has for the same method and network.

    Those of another method or network are dropped, and so are the words on a noise that is another now.
    """
    same = {
        "options": given.get("method", recipe.method) == recipe.method,
        "config": given.get("architecture", recipe.architecture) == recipe.architecture,
    }
    joined = {key: (getattr(recipe, key) if same[key] else {}) | given.get(key, {}) for key in same}
    words = recipe.noise if given.get("noises", recipe.noises) == recipe.noises else ""
    return replace(recipe, **{"noise": words} | given | joined)


def _names(run: TrainOptions) -> list[str]:
    """Of the folders that the images come from; single images are those of the current folder."""
    folders = [Path() if place.is_file() else place for place in (*run.data, *run.noisy, *run.clean, *run.pairs)]
    return list(dict.fromkeys(folder.resolve().name for folder in folders))


def _own(given: dict[str, Any], run: TrainOptions, *, pooled: bool) -> Recipe:
    """Where no recipe is named: noise is made unless the images have it or the method can do without clean ones."""
    from medcli.errors import RecipeError
    from medcli.registry import METHODS, resolve
    from medcli.train.recipe import Recipe
    from medcli.train.start import start_config, start_options
    from medcli.zoo.model import find_model

    if "init" in given and "architecture" in given:
        raise click.UsageError("--init says which network it is: leave --arch out.")
    start = find_model(given["init"]).card if "init" in given else None
    network: str | None = start.architecture if start else given.get("architecture")
    method = _method(None, given, pooled=pooled)
    kind = resolve(METHODS, method, kind="method", error=RecipeError)
    needs = getattr(kind, "needs", None)  # a method of several views says it only when it is made
    made = not (run.noisy or run.pairs) and (needs is None or needs.views > 1 or needs.clean == "mates")
    return Recipe(
        id=run.output.resolve().name or "model",
        title=f"Trained on {', '.join(_names(run))}",
        steps=OWN_STEPS,
        method=method,
        noises=_noises("noise", None) or {} if made else {},
        options=start_options(method, start) if start else {},
        architecture=network or str(getattr(kind, "usual_network", Recipe.architecture)),
        config=start_config(method, start.config) | {"channels": start.channels} if start else {},
    )


def _usual_method(network: str | None, *, pooled: bool) -> str:
    """That for a pool of noises where it takes the network, if one is named; else the default."""
    from medcli.errors import RecipeError
    from medcli.methods.base import TakesNetworks
    from medcli.registry import ARCHITECTURES, DEFAULT_METHOD, METHODS, POOL_METHOD, resolve

    kind = resolve(METHODS, POOL_METHOD, kind="method", error=RecipeError)
    if pooled and network and isinstance(kind, TakesNetworks):
        pooled = kind.takes(resolve(ARCHITECTURES, network, kind="architecture", error=RecipeError))
    return POOL_METHOD if pooled else DEFAULT_METHOD
