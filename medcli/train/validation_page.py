"""`validation.html`: held-out patches after each validation of a run, on the page of `med compare`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medcli.files.atomic import atomic_write
from medcli.images.comparison import Levels, Region, Version, write_page

PATCHES, STEPS = 6, 8  # shown
NAME = re.compile(r"step-(\d+)\.png")


class ValidationPage:
    """The page of a run's folder; what it shows of earlier steps is kept in `validation/`, a strip for each."""

    def __init__(self, folder: Path) -> None:
        self.path, self.strips = folder / "validation.html", folder / "validation"

    def add(self, step: int, noisy: Tensor, restored: Tensor, clean: Tensor | None) -> None:
        """Images (B, C, H, W) float in [0, 1], of which the first few are shown. Raises OutputError.

        Of more than STEPS steps, every second one is dropped, but not the last.
        """
        strip = np.concatenate(shown(restored))
        with atomic_write(self.strips / f"step-{step:07}.png") as file:
            Image.fromarray(strip).save(file, "PNG")
        strips = self._strips()
        if len(strips) > STEPS:
            for number in sorted(strips)[-2::-2]:
                strips.pop(number).unlink(missing_ok=True)
        versions = {f"step {number}": _patches(path, restored) for number, path in sorted(strips.items())}
        target = None if clean is None else shown(clean)
        write_page(self.path, "Validation", regions({"noisy": shown(noisy), **versions}, target))

    def _strips(self) -> dict[int, Path]:
        found = ((NAME.fullmatch(path.name), path) for path in self.strips.iterdir())
        return {int(match[1]): path for match, path in found if match}


def shown(batch: Tensor) -> list[Levels]:
    """(B, C, H, W) float in [0, 1] -> the first few as (H, W, 3)."""
    levels = (batch[:PATCHES].float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return list(np.broadcast_to(levels, (*levels.shape[:3], 3)))


def regions(versions: Mapping[str, list[Levels]], clean: list[Levels] | None = None) -> list[Region]:
    """A region for each patch; versions: the patches by the name of the version. With `clean`, PSNR is measured."""
    found = []
    for number in range(min(map(len, versions.values()))):
        target = None if clean is None else clean[number]
        made = [Version(name, images[number], _figures(images[number], target)) for name, images in versions.items()]
        if target is not None:
            made.append(Version("clean", target, reference=True))
        found.append(Region(f"patch {number + 1}", made))
    return found


def _figures(levels: Levels, clean: Levels | None) -> dict[str, str]:
    if clean is None:
        return {}
    error = float(np.mean((levels.astype(np.float64) - clean) ** 2))
    return {"PSNR dB": f"{10 * np.log10(255**2 / max(error, 1e-5)):.2f}"}


def _patches(path: Path, like: Tensor) -> list[NDArray[np.uint8]]:
    """The patches of a strip; blank where it is of another size, or was lost."""
    count, (height, width) = len(shown(like)), like.shape[2:]
    with suppress(OSError, ValueError):
        return list(np.asarray(Image.open(path)).reshape(count, height, width, 3))
    return list(np.full((count, height, width, 3), 128, np.uint8))
