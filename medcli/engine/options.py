"""How a model is run: the options that the command line, Python and the engine share. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medcli.images.values import RangeChoice

TileSize = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What each field means is described in `medcli.api.load`; refine, samples and seed are for blind-spot models."""

    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    tile: TileSize = "auto"
    overlap: int | None = None
    ensemble: bool = False
    sharpen: float = 0.0
    sharpen_by: str = "value"
    refine: int | None = None
    samples: int | None = None
    seed: int | None = None
    range: RangeChoice = "auto"
    nodata: float | None = None
    vst: bool = False
    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None

    def photon_noise(self) -> tuple[float, float, float] | None:
        """Gain, offset and read noise of a photon counter, NaN for what is measured; None without the transform."""
        known = (self.gain, self.offset, self.read_noise)
        if not self.vst and known == (None, None, None):
            return None
        gain, offset, read = (math.nan if value is None else value for value in known)
        return gain, offset, read

    def blind_spot_settings(self) -> dict[str, int]:
        """Those of refine, samples and seed that are given."""
        values = {"refine": self.refine, "samples": self.samples, "seed": self.seed}
        return {name: value for name, value in values.items() if value is not None}
