"""What the pictures propose where nobody said it: settings of a method that follow from the noise in its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from medcli.data.correlation import noise_correlation
from medcli.data.crops import Source
from medcli.data.levels import CLEAN_OVER_NOISY, matching, propose
from medcli.errors import InputError, RecipeError
from medcli.train.recipe import Recipe
from medcli.zoo.capabilities import drops

LOOKED_AT = 96  # patches
STEP = -2  # no step of training has this number
WISHES: Mapping[str, Mapping[str, Any]] = {"ludvae": {"match": False}}
"""Options that are answered here and not by the method, with their usual values.

match: noisy pictures get mean and deviation of the clean ones, channel by channel, and what is made noisy gets theirs.
"""


class Patches(NamedTuple):
    """Some of what is trained on, (H, W, C) float32. clean: empty where the method needs none."""

    noisy: Sequence[NDArray[Any]]
    clean: Sequence[NDArray[Any]]


def patches(source: Source) -> Patches:
    """Some patches of each side, always the same."""
    samples = [source.sample(STEP, index) for index in range(LOOKED_AT)]
    clean = [_picture(sample.clean) for sample in samples if sample.clean is not None]
    return Patches([_picture(sample.views[0]) for sample in samples], clean)


def _picture(planes: Tensor) -> NDArray[Any]:
    picture: NDArray[Any] = planes.permute(1, 2, 0).numpy()
    return picture


def with_proposals(recipe: Recipe, source: Source, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its method would like to know of the pictures, unless it says so itself; `say` hears of it.

    Raises RecipeError where something was asked for that the pictures do not allow.
    """
    for proposal in PROPOSALS.get(recipe.method, ()):
        try:
            recipe, words = proposal(recipe, source)
        except InputError as error:
            words = f"{error.problem} The method's defaults stand."
        if words:
            say(words)
    return recipe


def _stride(recipe: Recipe, source: Source) -> tuple[Recipe, str]:
    """AMSNet: sub-images so far apart that their pixels share no noise."""
    if "pd" in recipe.options:
        return recipe, ""
    correlation = noise_correlation(patches(source).noisy)
    pd = correlation.stride()
    words = f"noise of sigma {correlation.sigma:.1f}, uncorrelated {pd} pixels apart: pd={pd} (--pd overrules)"
    return replace(recipe, options={**recipe.options, "pd": pd}), words


def _levels(recipe: Recipe, source: Source) -> tuple[Recipe, str]:
    """LUD-VAE: the noise that is added to both sides, somewhat stronger than what is there. One brings the other."""
    given = recipe.config
    if "sigma_x" in given or "sigma_y" in given:
        both = {
            "sigma_x": CLEAN_OVER_NOISY * given.get("sigma_y", 0),
            "sigma_y": given.get("sigma_x", 0) / CLEAN_OVER_NOISY,
        }
        return replace(recipe, config=both | given), ""
    proposal = propose(patches(source).noisy)
    coarse = f", {proposal.coarseness:.1f} times as coarse as white noise" if proposal.coarseness > 1.05 else ""
    words = f"noise of sigma {proposal.noise:.1f}{coarse}: sigma_x {proposal.sigma_x:g}, sigma_y {proposal.sigma_y:g}"
    return replace(recipe, config={**given, **proposal.config()}), f"{words} (--config sigma_y=... overrules)"


def _match(recipe: Recipe, source: Source) -> tuple[Recipe, str]:
    """LUD-VAE: what brings noisy pictures to the brightness and contrast of the clean ones, where it was asked for."""
    if not recipe.options.get("match") or "gain" in recipe.config:
        return recipe, ""
    try:
        gain, offset = matching(*patches(source))
    except InputError as error:
        raise RecipeError(error.problem, "Leave match=true out.") from error
    words = f"statistics matched: gain {_listed(gain)}, offset {_listed(offset)}"
    return replace(recipe, config={**recipe.config, "gain": gain, "offset": offset}), words


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers)


def _missing(recipe: Recipe, _: Source) -> tuple[Recipe, str]:
    """MeD: where views lack pixels, black is no target."""
    if "missing" in recipe.options or not (recipe.noises and drops(recipe.draw_noise())):
        return recipe, ""
    words = "views lack pixels, which are no targets: missing=true (--option missing=false overrules)"
    return replace(recipe, options={**recipe.options, "missing": True}), words


Proposing = Callable[[Recipe, Source], tuple[Recipe, str]]
PROPOSALS: Mapping[str, Sequence[Proposing]] = {"amsnet": (_stride,), "ludvae": (_levels, _match), "med": (_missing,)}
