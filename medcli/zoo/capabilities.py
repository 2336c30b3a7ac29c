"""What a model can do beside denoising, derived from the corruptions that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medcli.errors import ModelError, RecipeError
from medcli.noise.base import Noise
from medcli.noise.chain import Chain
from medcli.noise.drop import drops
from medcli.noise.notation import parse
from medcli.noise.pool import Pool
from medcli.noise.rescale import Rescale
from medcli.zoo.weights import Card

HINT = "Use -m inpaint, or train one: med train --pool corruption --data images/ -o run/"


@dataclass(frozen=True)
class Capabilities:
    """model: its id, for messages. inpaints: pixels that are missing, black in all channels. upscales: factor to
    filter, a key of `rescale.FILTERS`.
    """

    model: str
    inpaints: bool
    upscales: Mapping[int, str]

    def __str__(self) -> str:
        """`fills in missing pixels (--mask) and enlarges 2, 3 or 4 times (--upscale)`; empty where it can neither."""
        words = ["fills in missing pixels (--mask)"] if self.inpaints else []
        words += [f"enlarges {_factors(self.upscales)} times (--upscale)"] if self.upscales else []
        return " and ".join(words)

    def require_inpainting(self) -> None:
        """Raises ModelError where the model was not trained to fill in missing pixels."""
        if not self.inpaints:
            raise ModelError(f"'{self.model}' was not trained to fill in missing pixels.", HINT)

    def upscale_filter(self, factor: int) -> str:
        """The filter by which images are enlarged before the model restores them.

        Raises ModelError where the model was not trained to enlarge by this factor.
        """
        if not self.upscales:
            raise ModelError(f"'{self.model}' was not trained to enlarge images.", HINT)
        if factor not in self.upscales:
            raise ModelError(
                f"'{self.model}' was not trained to enlarge {factor} times.",
                f"It enlarges {_factors(self.upscales)} times.",
            )
        return self.upscales[factor]


def capabilities_of(card: Card) -> Capabilities:
    """What a network can do that has seen the card's noises; raises ModelError for an invalid one.

    Of the filters that it saw at a factor, bicubic is preferred. A pool in a file counts for nothing: no file is read
    because a card names it.
    """
    try:
        seen = [parse(notation) for notation in card.noises if not notation.strip().endswith((".yaml", ".yml"))]
    except RecipeError as error:
        raise ModelError(f"The card of '{card.id}' has an invalid noise: {error.problem}", error.hint) from error
    scales = {(part.factor, part.filter) for noise in seen for part in _parts(noise) if isinstance(part, Rescale)}
    ordered = sorted(scales, key=lambda scale: (scale[0], scale[1] == "bicubic", scale[1]))
    return Capabilities(card.id, any(drops(noise) for noise in seen), dict(ordered))


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


def _factors(known: Mapping[int, str]) -> str:
    *most, last = map(str, known)
    return f"{', '.join(most)} or {last}" if most else last
