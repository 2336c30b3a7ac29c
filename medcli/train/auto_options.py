"""MethodSettings of a method that follow from the images where they are not given, such as from the noise in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from medcli.data.crops import SampleSource
from medcli.errors import InputError, RecipeError
from medcli.methods.base import HasAutoOptions, MethodSettings, Patches, Suggestion
from medcli.registry import METHODS, resolve
from medcli.train.recipe import Recipe

LOOKED_AT = 96  # patches
STEP = -2  # no step of training has this number


def patches(source: SampleSource) -> Patches:
    """Some patches of each side, always the same."""
    samples = [source.sample(STEP, index) for index in range(LOOKED_AT)]
    clean = [_image(sample.clean) for sample in samples if sample.clean is not None]
    return Patches([_image(sample.views[0]) for sample in samples], clean)


def _image(planes: Tensor) -> NDArray[Any]:
    image: NDArray[Any] = planes.permute(1, 2, 0).numpy()
    return image


def with_auto_options(recipe: Recipe, source: SampleSource, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its method measures on the images (`HasAutoOptions`); `say` is called with messages.

    Raises RecipeError where an option does not fit the images.
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
