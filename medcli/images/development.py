"""How a raw file is developed, as values. Imports no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

HighlightTreatment = Literal["clip", "blend", "rebuild"]
OutputSpace = Literal["srgb", "p3", "adobe", "prophoto"]
Stage = Literal["mosaic", "developed"]
HIGHLIGHTS: tuple[str, ...] = get_args(HighlightTreatment)
SPACES: tuple[str, ...] = get_args(OutputSpace)
STAGES: tuple[str, ...] = get_args(Stage)


@dataclass(frozen=True)
class Development:
    """wb: camera, auto, daylight, or multipliers of red, green and blue such as 2.1:1:1.6. exposure: in stops.

    highlights: what becomes of clipped channels. space: of the result. stage: where noise is removed: on the mosaic, if
    the file has one of 2 x 2, else after development.
    """

    wb: str = "camera"
    exposure: float = 0.0
    highlights: str = "clip"
    space: str = "srgb"
    stage: str = "developed"

    @property
    def multipliers(self) -> tuple[float, float, float] | None:
        """Those of red, green and blue; None for a name. Raises ValueError for neither."""
        if self.wb in ("camera", "auto", "daylight"):
            return None
        red, green, blue = (float(part) for part in self.wb.split(":"))
        if min(red, green, blue) <= 0:
            raise ValueError(self.wb)
        return red, green, blue
