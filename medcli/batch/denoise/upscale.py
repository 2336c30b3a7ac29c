"""Images made larger: enlarged as in training, then restored by a model that has learned what that costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.restore import restore
from medcli.engine.alpha import fill_hidden
from medcli.engine.page import Engine, Progress
from medcli.errors import InputError
from medcli.images import MAX_PIXELS, DecodedImage, Page, format_of
from medcli.images.filling import broadcast
from medcli.images.format_limits import check_sides
from medcli.images.resolution import follow
from medcli.images.values import missing, stored
from medcli.noise.rescale import FILTERS

Pixels = NDArray[Any]
ROWS = 128  # of the result that are made at once


@dataclass(frozen=True)
class Upscale:
    """factor: of each side. filter: a key of `FILTERS`. strength: 0 gives the enlarged image, 1 the network's output.

    max_pixels: of the result, over all pages. format: as requested, None for that of the result's name, or the image's.
    """

    factor: int
    filter: str
    strength: float = 1.0
    max_pixels: int = MAX_PIXELS
    format: str | None = None

    def __call__(self, job: Job, image: DecodedImage, engine: Engine, progress: Progress | None) -> None:
        """Upscales and restores the pages in place.

        Raises InputError where the result would be too large, OutputError where its format does not hold it.
        """
        self._admit(image)
        format = self.format or format_of(job.target) or image.format
        for page in image.pages:
            height, width = (side * self.factor for side in page.pixels.shape[:2])
            check_sides(format, height, width)
        restore(image, engine, self._page, progress)
        follow(image, self.factor)

    def _page(self, number: int, page: Page, engine: Engine, progress: Progress | None) -> Page:
        """What means nothing fills as many pixels as any other, and does not reach into those beside it."""
        lost = missing(page.pixels, page.nodata)
        if lost is None or not lost.any():
            return self._grown(page, engine, progress)
        grown = self._grown(replace(page, pixels=fill_hidden(page.pixels, ~lost)), engine, progress)
        where = broadcast(self._repeated(lost), page.pixels)
        np.copyto(grown.pixels, self._repeated(page.pixels), where=where)
        return grown

    def _grown(self, page: Page, engine: Engine, progress: Progress | None) -> Page:
        """Alpha is enlarged without overshoot, and colour under alpha 0 is the network's."""
        if page.alpha is None:
            seen, alpha = page.pixels, None
        else:
            seen, alpha = fill_hidden(page.pixels, page.alpha), upscaled(page.alpha, self.factor, "bilinear")
        pixels = engine(upscaled(seen, self.factor, self.filter), strength=self.strength, progress=progress)
        return replace(page, pixels=pixels, alpha=alpha)

    def _repeated(self, values: Pixels) -> Pixels:
        """Each value `factor` times in both directions."""
        return values.repeat(self.factor, axis=0).repeat(self.factor, axis=1)

    def _admit(self, image: DecodedImage) -> None:
        count = self.factor**2 * sum(page.pixels.shape[0] * page.pixels.shape[1] for page in image.pages)
        if count > self.max_pixels:
            problem = f"Enlarged {self.factor} times the image would have {count / 1e6:,.0f} megapixels"
            raise InputError(f"{problem}; the limit is {self.max_pixels / 1e6:,.0f}.", "Raise it with --max-pixels.")


def upscaled(pixels: Pixels, factor: int, filter: str) -> Pixels:
    """(H, W) or (H, W, C) -> (factor H, factor W[, C]), same dtype, as `medcli.noise.rescale` enlarges.

    Integers are rounded and clipped to their range; floats are not.
    """
    height, width = (side * factor for side in pixels.shape[:2])
    result = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    for plane, target in zip(_planes(pixels), _planes(result), strict=True):
        image = Image.fromarray(plane.astype(np.float32))
        for top in range(0, height, ROWS):  # in bands, so that no float copy of the whole is made
            below = min(top + ROWS, height)
            box = (0, top / factor, plane.shape[1], below / factor)
            band = np.asarray(image.resize((width, below - top), FILTERS[filter], box))
            target[top:below] = stored(band, pixels.dtype)
    return result


def _planes(pixels: Pixels) -> list[Pixels]:
    """Views of the channels, each (H, W)."""
    return [pixels] if pixels.ndim == 2 else [pixels[..., channel] for channel in range(pixels.shape[2])]
