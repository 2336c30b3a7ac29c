"""What the pictures propose where nobody said it: settings of a method that follow from the noise in its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from medcli.data.correlation import noise_correlation
from medcli.data.crops import Source
from medcli.data.levels import propose
from medcli.errors import InputError
from medcli.train.recipe import Recipe
from medcli.zoo.abilities import drops

Pictures = Sequence[NDArray[Any]]
LOOKED_AT = 96  # patches
STEP = -2  # no step of training has this number


def noisy_patches(source: Source) -> Pictures:
    """Some patches of the noisy pictures, (H, W, C) float32."""
    samples = (source.sample(STEP, index) for index in range(LOOKED_AT))
    return [sample.views[0].permute(1, 2, 0).numpy() for sample in samples]


def with_proposals(recipe: Recipe, source: Source, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its method would like to know of the noise, unless it says so itself; `say` hears of it."""
    if recipe.method not in PROPOSALS:
        return recipe
    try:
        proposed, words = PROPOSALS[recipe.method](recipe, source)
    except InputError as error:
        say(f"{error.problem} The method's defaults stand.")
        return recipe
    if words:
        say(words)
    return proposed


def _stride(recipe: Recipe, source: Source) -> tuple[Recipe, str]:
    """AMSNet: sub-images so far apart that their pixels share no noise."""
    if "pd" in recipe.options:
        return recipe, ""
    correlation = noise_correlation(noisy_patches(source))
    pd = correlation.stride()
    words = f"noise of sigma {correlation.sigma:.1f}, uncorrelated {pd} pixels apart: pd={pd} (--pd overrules)"
    return replace(recipe, options={**recipe.options, "pd": pd}), words


def _levels(recipe: Recipe, source: Source) -> tuple[Recipe, str]:
    """LUD-VAE: the noise that is added to both sides, somewhat stronger than what is there."""
    if "sigma_y" in recipe.config or "sigma_x" in recipe.config:
        return recipe, ""
    proposal = propose(noisy_patches(source))
    words = f"noise of sigma {proposal.noise:.1f}: sigma_x {proposal.sigma_x:g}, sigma_y {proposal.sigma_y:g}"
    return replace(recipe, config={**proposal.config(), **recipe.config}), words


def _missing(recipe: Recipe, _: Source) -> tuple[Recipe, str]:
    """MeD: where views lack pixels, black is no target."""
    if "missing" in recipe.options or not (recipe.noises and drops(recipe.draw_noise())):
        return recipe, ""
    words = "views lack pixels, which are no targets: missing=true (--option missing=false overrules)"
    return replace(recipe, options={**recipe.options, "missing": True}), words


PROPOSALS: Mapping[str, Callable[[Recipe, Source], tuple[Recipe, str]]] = {
    "amsnet": _stride,
    "ludvae": _levels,
    "med": _missing,
}
