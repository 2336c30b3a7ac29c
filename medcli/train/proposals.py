"""MethodSettings of a method that follow from the pictures where nobody gave them, such as from the noise in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from medcli.data.crops import Source
from medcli.errors import InputError, RecipeError
from medcli.methods.base import HasAutoOptions, MethodSettings, Patches, Suggestion
from medcli.registry import METHODS, resolve
from medcli.train.recipe import Recipe

LOOKED_AT = 96  # patches
STEP = -2  # no step of training has this number


def patches(source: Source) -> Patches:
    """Some patches of each side, always the same."""
    samples = [source.sample(STEP, index) for index in range(LOOKED_AT)]
    clean = [_picture(sample.clean) for sample in samples if sample.clean is not None]
    return Patches([_picture(sample.views[0]) for sample in samples], clean)


def _picture(planes: Tensor) -> NDArray[Any]:
    picture: NDArray[Any] = planes.permute(1, 2, 0).numpy()
    return picture


def with_proposals(recipe: Recipe, source: Source, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its method measures on the pictures (`HasAutoOptions`); `say` is called with messages.

    Raises RecipeError where something was asked for that the pictures do not allow.
    """
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    seen = cache(partial(patches, source))
    for proposal in kind.auto_options if isinstance(kind, HasAutoOptions) else ():
        settings = MethodSettings(recipe.options, recipe.config, recipe.draw_noise() if recipe.noises else None)
        try:
            found = proposal(settings, seen) or Suggestion()
        except InputError as error:
            found = Suggestion(f"{error.problem} The method's defaults stand.")
        options, config = {**recipe.options, **found.options}, {**recipe.config, **found.config}
        recipe = replace(recipe, options=options, config=config)
        if found.message:
            say(found.message)
    return recipe
