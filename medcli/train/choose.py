"""The recipe of a run: a named one, one that follows from the images and options, or that of the run to resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcli.errors import OptionError, RecipeError
from medcli.methods.base import TakesNetworks
from medcli.noise.notation import parse, parse_pool
from medcli.noise.pool import Pool
from medcli.registry import ARCHITECTURES, DEFAULT_METHOD, METHODS, POOL_METHOD, resolve
from medcli.train.recipe import Recipe, bundled, load
from medcli.train.run import RECIPE, TrainOptions
from medcli.train.start import start_config, start_options
from medcli.zoo.model import find_model

DEFAULT_STEPS = 10_000
Given = Mapping[str, Any]  # fields of `Recipe` that the user gave, by name


def noise_weights(pool: str | None, noise: str | None) -> dict[str, float] | None:
    """Notation to weight, as in `Recipe.noises`: all noises of a pool, or one. None where neither is given."""
    if not (pool or noise):
        return None
    parsed = parse_pool(pool) if pool else parse(noise or "")
    if isinstance(parsed, Pool):
        return {str(entry): weight for weight, entry in parsed.noises}
    return {str(parsed): 1.0}


def check_given(recipe: str | None, pool: str | None, noise: str | None, given: Given) -> None:
    """Raises OptionError for a recipe, noises, images and a network that exclude each other.

    given: folders of images ("data", "noisy", "pairs"), "resume", and fields of `Recipe`, by name.
    """
    if pool and noise:
        raise OptionError("--pool and --noise exclude each other: a pool is a list of noises.")
    for name in ("noisy", "pairs"):
        if given[name] and (pool or noise or given["data"]):
            raise OptionError(f"--{name} images are noisy already: leave out --data, --noise and --pool.")
    if given["pairs"] and given["noisy"]:
        raise OptionError("--pairs and --noisy exclude each other: --pairs images are the noisy ones.")
    if given["init"] and given["architecture"] and not (recipe or given["resume"]):
        raise OptionError("--init says which network it is: leave --arch out.")


def choose_method(recipe: str | None, given: Given, *, pooled: bool) -> str:
    """The method of the run. pooled: whether noise is drawn from a pool, whose method is used if it takes the network.

    Raises RecipeError for an unknown recipe or network.
    """
    if "method" in given or recipe:
        return str(given.get("method") or load(recipe or "").method)
    network = find_model(given["init"]).card.architecture if "init" in given else given.get("architecture")
    kind = resolve(METHODS, POOL_METHOD, kind="method", error=RecipeError)
    if pooled and network and isinstance(kind, TakesNetworks):
        pooled = kind.takes(resolve(ARCHITECTURES, network, kind="architecture", error=RecipeError))
    return POOL_METHOD if pooled else DEFAULT_METHOD


def free_sizes(given: Given) -> list[str]:
    """Those of "config", "patch" and "batch" that may be chosen for the machine."""
    fixed = "init" in given or set(given.get("config", ())) - {"channels"}
    return [name for name in ("config", "patch", "batch") if (not fixed if name == "config" else name not in given)]


def frozen_recipe(run: TrainOptions) -> Path | None:
    """The recipe in the folder of a run to resume; None for a new run."""
    path = run.output / RECIPE
    return path if run.resume and path.is_file() else None


def choose_recipe(name: str | None, given: Given, run: TrainOptions, *, pooled: bool) -> Recipe:
    """The recipe `name`, or one that follows from the options, with what is given; a resumed run keeps its own.

    Raises RecipeError, also where another recipe or network is given than that of the run to resume.
    """
    if frozen := frozen_recipe(run):
        return _with_given(_resumed(frozen, name, given.get("architecture"), run), given)
    recipe = load(name) if name else _default(given, run, pooled=pooled)
    if name in bundled():  # its licence and noise are of the weights and images of medcli; these are the user's
        recipe = replace(recipe, licence="", noise=recipe.noise if recipe.noises else "")
    if recipe.noises and (run.noisy or run.pairs):
        recipe = replace(recipe, noises={}, noise="")  # the images are noisy already
    init = given.get("init", recipe.init)
    before = find_model(init).card.training_data if init else []
    return _with_given(replace(recipe, training_data=list(dict.fromkeys([*before, *_folder_names(run)]))), given)


def _resumed(frozen: Path, name: str | None, architecture: str | None, run: TrainOptions) -> Recipe:
    recipe = load(str(frozen))
    if name and (other := load(name).id) != recipe.id:
        hint = f"Leave --recipe out to go on, or choose another -o for '{other}'."
        raise RecipeError(f"{run.output} was begun with the recipe '{recipe.id}', not '{other}'.", hint)
    if architecture not in (None, recipe.architecture):
        hint = f"Leave --arch out to go on, or choose another -o for '{architecture}'."
        raise RecipeError(f"{run.output} was begun with the network '{recipe.architecture}'.", hint)
    if str(run.range) not in ("auto", recipe.range):
        hint = f"Leave --range out to go on, or choose another -o for '{run.range}'."
        raise RecipeError(f"{run.output} was begun with --range {recipe.range}.", hint)
    return recipe


def _with_given(recipe: Recipe, given: Given) -> Recipe:
    """Given options and config are merged with those of the recipe if method and network are the same, else replace
    them; the description of the noise is dropped where another noise is given."""
    keeps = {
        "options": given.get("method", recipe.method) == recipe.method,
        "config": given.get("architecture", recipe.architecture) == recipe.architecture,
    }
    merged = {key: (getattr(recipe, key) if keeps[key] else {}) | given.get(key, {}) for key in keeps}
    noise = recipe.noise if given.get("noises", recipe.noises) == recipe.noises else ""
    return replace(recipe, **{"noise": noise, **given, **merged})


def _folder_names(run: TrainOptions) -> list[str]:
    """Of the folders that the images come from; single images are those of the current folder."""
    folders = [Path() if path.is_file() else path for path in (*run.data, *run.noisy, *run.clean, *run.pairs)]
    return list(dict.fromkeys(folder.resolve().name for folder in folders))


def _default(given: Given, run: TrainOptions, *, pooled: bool) -> Recipe:
    """Noise is added unless the images are noisy already or the method needs no clean ones."""
    start = find_model(given["init"]).card if "init" in given else None
    method = choose_method(None, given, pooled=pooled)
    kind = resolve(METHODS, method, kind="method", error=RecipeError)
    needs = getattr(kind, "needs", None)  # a method of several views says it only when it is made
    adds_noise = not (run.noisy or run.pairs) and (needs is None or needs.views > 1 or needs.clean == "paired")
    network = start.architecture if start else given.get("architecture")
    return Recipe(
        id=run.output.resolve().name or "model",
        title=f"Trained on {', '.join(_folder_names(run))}",
        steps=DEFAULT_STEPS,
        method=method,
        noises=noise_weights("noise", None) or {} if adds_noise else {},
        options=start_options(method, start) if start else {},
        architecture=network or str(getattr(kind, "usual_network", Recipe.architecture)),
        config=start_config(method, start.config) | {"channels": start.channels} if start else {},
    )
