"""One page through an engine: gray or colour, with its alpha untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from medcli.engine.alpha import Pixels, fill_hidden, restore_hidden
from medcli.images import Page

Progress = Callable[[int, int], None]


class Engine(Protocol):
    """What takes pixels and gives them back cleaner, such as `medcli.Denoiser`."""

    def __call__(self, image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
        """(H, W) or (H, W, C) -> same shape and dtype."""


def restore_page(page: Page, engine: Engine, strength: float = 1.0, progress: Progress | None = None) -> Page:
    """The page with denoised pixels. Alpha stays, and so does the colour under alpha 0."""
    if page.alpha is None:
        return replace(page, pixels=engine(page.pixels, strength=strength, progress=progress))
    shown = fill_hidden(page.pixels, page.alpha)
    restored = engine(shown, strength=strength, progress=progress)
    return replace(page, pixels=restore_hidden(restored, page.pixels, page.alpha))
