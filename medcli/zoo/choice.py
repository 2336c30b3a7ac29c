"""Which model suits an image, by its noise: the rules behind `med inspect` and `--model auto`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from medcli.data.inspection import Inspection
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry

DEFAULT = "photo"
STRONGEST = 55.0  # grey levels: the noise that models of white noise are trained on


class Choice(NamedTuple):
    """A model and a strength, and why, in one sentence. strength 0: the image is returned as it is."""

    model: str
    strength: float
    why: str


def choose(seen: Inspection, known: Iterable[Entry] | None = None) -> Choice:
    """The model for an image; the same one for the same image. known: the catalogue, unless given."""
    if not seen.noisy:
        return Choice(DEFAULT, 0.0, f"no noise to speak of ({seen.sigma:.1f} grey levels)")
    if seen.white_gaussian and seen.sigma <= STRONGEST and (model := _first(known, "gaussian", channels=3)):
        return Choice(model, 1.0, f"white Gaussian noise of sigma {seen.sigma:.0f}, equal in all channels")
    if seen.photon_counter and (model := _first(known, "microscopy", channels=1)):
        return Choice(
            model, 1.0, "a gray image with white noise that rises with brightness, as that of photon counters"
        )
    if seen.smoothed:
        return Choice(DEFAULT, 1.0, "noise that is correlated between pixels, as cameras and scanners leave it")
    kind = "monochrome noise" if seen.gray else "noise that differs between colours or with brightness"
    return Choice(DEFAULT, 1.0, kind)


def _first(known: Iterable[Entry] | None, domain: str, channels: int) -> str | None:
    """The first bundled model of a domain for so many channels."""
    rows = catalog.entries().values() if known is None else known
    fitting = (row.id for row in rows if row.domain == domain and row.hub is None and row.channels == channels)
    return next(fitting, None)
