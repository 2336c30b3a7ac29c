"""What a model can do beside taking noise away: told by the corruptions that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medcli.errors import ModelError, RecipeError
from medcli.noise.base import Noise
from medcli.noise.chain import Chain
from medcli.noise.drop import Drop
from medcli.noise.notation import parse
from medcli.noise.pool import Pool
from medcli.noise.rescale import Rescale
from medcli.noise.storage import Clip, Round
from medcli.zoo.weights import Card

TRAIN = "Train one: med train --pool corruption --data pictures/ -o run/"


@dataclass(frozen=True)
class Abilities:
    """fills: pixels that are missing, black in all channels. enlarges: factor -> filter, a key of `rescale.FILTERS`."""

    fills: bool
    enlarges: Mapping[int, str]

    def __str__(self) -> str:
        """`fills in missing pixels (--mask) and enlarges 2, 3 or 4 times (--upscale)`; empty where it can neither."""
        words = ["fills in missing pixels (--mask)"] if self.fills else []
        words += [f"enlarges {_factors(self.enlarges)} times (--upscale)"] if self.enlarges else []
        return " and ".join(words)


def abilities(noises: Sequence[str]) -> Abilities:
    """What a network can do that has seen these noises, in their notation; raises RecipeError where one is none.

    Of the filters that it saw at a factor, bicubic is preferred. A pool in a file counts for nothing: no file is read
    because a card names it.
    """
    seen = [parse(notation) for notation in noises if not notation.strip().endswith((".yaml", ".yml"))]
    scales = {(part.factor, part.filter) for noise in seen for part in _parts(noise) if isinstance(part, Rescale)}
    ordered = sorted(scales, key=lambda scale: (scale[0], scale[1] == "bicubic", scale[1]))
    return Abilities(any(drops(noise) for noise in seen), dict(ordered))


def require_fills(card: Card) -> None:
    """Raises ModelError where the model was not trained to fill in missing pixels."""
    if not _of(card).fills:
        raise ModelError(f"'{card.id}' was not trained to fill in missing pixels.", TRAIN)


def filter_for(card: Card, factor: int) -> str:
    """The filter by which pictures are to be enlarged for the model; ModelError where it was not trained for it."""
    known = _of(card).enlarges
    if not known:
        raise ModelError(f"'{card.id}' was not trained to enlarge pictures.", TRAIN)
    if factor not in known:
        raise ModelError(
            f"'{card.id}' was not trained to enlarge {factor} times.", f"It enlarges {_factors(known)} times."
        )
    return known[factor]


def _of(card: Card) -> Abilities:
    try:
        return abilities(card.noises)
    except RecipeError as error:
        raise ModelError(f"The card of '{card.id}' names a noise that is none: {error.problem}", error.hint) from error


def _parts(noise: Noise) -> Iterator[Noise]:
    """All that a pool or chain is made of."""
    if isinstance(noise, Pool):
        for _, each in noise.noises:
            yield from _parts(each)
    elif isinstance(noise, Chain):
        for each in noise.noises:
            yield from _parts(each)
    else:
        yield noise


def drops(noise: Noise) -> bool:
    """Whether the noise can leave black what is missing; a later noise would colour it."""
    if isinstance(noise, Pool):
        return any(drops(each) for _, each in noise.noises)
    if isinstance(noise, Chain):
        steps = [each for each in noise.noises if not isinstance(each, Clip | Round)]
        return bool(steps) and drops(steps[-1])
    return isinstance(noise, Drop)


def _factors(known: Mapping[int, str]) -> str:
    *most, last = map(str, known)
    return f"{', '.join(most)} or {last}" if most else last
