"""The sliders of a darkroom as values, and presets of them by name. Imports no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from medcli.errors import OptionError
from medcli.registry import nearest

LOOKS = Path(__file__).with_name("looks.yaml")
Strength = float | Literal["auto"]


@dataclass(frozen=True)
class Sliders:
    """Each from 0 to 1. luma, chroma: how much of the noise in brightness and in colour goes.

    texture: how much of the fine structure comes back that went with the noise.
    protect_highlights, protect_shadows: how much of the change is taken back there.
    strength: of everything; auto: as the image needs it.
    """

    luma: float = 1.0
    chroma: float = 1.0
    texture: float = 0.0
    protect_highlights: float = 0.0
    protect_shadows: float = 0.0
    strength: float = 1.0
    auto: bool = False

    @property
    def neutral(self) -> bool:
        """Whether the denoiser's result stays as it is."""
        return self == Sliders()

    @classmethod
    def chosen(cls, look: str | None, strength: Strength, given: Mapping[str, float | None]) -> Sliders:
        """A look, then what is given by name. Raises OptionError for a look that is not known."""
        start = cls() if look is None else looks().get(look)
        if start is None:
            raise OptionError(f"There is no look '{look}'. {nearest(look or '', looks())}")
        mine: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        level: dict[str, Any] = {"auto": True} if strength == "auto" else {"strength": strength}
        return replace(start, **(mine | level))


NAMES = tuple(each.name for each in fields(Sliders) if each.name not in ("strength", "auto"))


def looks() -> dict[str, Sliders]:
    """The presets that come with medcli."""
    import yaml

    return {name: Sliders(**values) for name, values in yaml.safe_load(LOOKS.read_text(encoding="utf-8")).items()}


def as_text(sliders: Sliders) -> str:
    """`luma=0.5, texture=0.3`: what differs from the defaults."""
    plain = asdict(Sliders())
    return ", ".join(f"{name}={value:g}" for name, value in asdict(sliders).items() if value != plain[name])
