"""Pictures decoded once into one memory-mapped file, so that training neither decodes nor holds them in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcli import images
from medcli.errors import InputError, TrainingError

FORMAT = 1


@dataclass(frozen=True)
class PixelCache:
    """Clean pictures as (H, W, 3) uint8 views into one file.

    pixels: the whole file, flat. shapes, offsets: height and width of each picture and where it starts.
    skipped: one line for each file that could not be used.
    """

    pixels: NDArray[np.uint8]
    names: list[str]
    shapes: list[tuple[int, int]]
    offsets: list[int]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        (height, width), start = self.shapes[index], self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


def list_pictures(folders: Sequence[Path]) -> list[Path]:
    """Every picture below the folders, in an order that does not depend on the file system."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise TrainingError(f"There is no folder {', '.join(missing)}.", "Give --data a folder of pictures.")
    found = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file() and images.supported(p)]
    if not found:
        raise TrainingError(f"No pictures in {', '.join(map(str, folders))}.", "Give --data a folder of pictures.")
    return found


def as_rgb8(picture: images.Picture) -> NDArray[np.uint8]:
    """The first page as (H, W, 3) uint8; deeper pictures are rounded, gray ones repeated."""
    pixels = picture.pages[0].pixels
    if pixels.dtype != np.uint8:
        top = 65535.0 if pixels.dtype == np.uint16 else 1.0
        pixels = np.round(pixels.astype(np.float32).clip(0, top) * (255.0 / top))
    levels = pixels.astype(np.uint8, copy=False)
    return np.repeat(levels[..., None], 3, axis=2) if levels.ndim == 2 else levels


def _decode(paths: Sequence[Path], smallest: int, skipped: list[str]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    for path in paths:
        try:
            pixels = as_rgb8(images.read(path))
        except InputError as error:
            skipped.append(f"{path}: {error.problem}")
            continue
        if min(pixels.shape[:2]) < smallest:
            skipped.append(f"{path}: smaller than the {smallest} pixel patch")
            continue
        yield path, pixels


def _fingerprint(paths: Sequence[Path], smallest: int) -> str:
    digest = hashlib.blake2b(f"{FORMAT} {smallest}".encode(), digest_size=16)
    for path in paths:
        status = path.stat()
        digest.update(f"\n{path}\t{status.st_size}\t{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def open_cache(folders: Sequence[Path], cache_dir: Path, *, smallest: int) -> PixelCache:
    """The cache of these folders, built when there is none or when a file in them has changed.

    smallest: pictures with a side below this many pixels are left out and named in `skipped`.
    Raises TrainingError where no usable picture is left.
    """
    paths = list_pictures(folders)
    stem = cache_dir / _fingerprint(paths, smallest)
    index_path, pixel_path = stem.with_suffix(".json"), stem.with_suffix(".pixels")
    if not index_path.exists():
        _build(paths, smallest, index_path, pixel_path)
    index = json.loads(index_path.read_text())
    if not index["names"]:
        raise TrainingError("None of the pictures can be trained on.", "\n".join(index["skipped"][:10]))
    pixels = np.memmap(pixel_path, np.uint8, mode="r")
    shapes = [(height, width) for height, width in index["shapes"]]
    return PixelCache(pixels, index["names"], shapes, index["offsets"], index["skipped"])


def _build(paths: Sequence[Path], smallest: int, index_path: Path, pixel_path: Path) -> None:
    index_path.parent.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    names, shapes, offsets, offset = [], [], [], 0
    partial = pixel_path.with_suffix(f".{os.getpid()}.tmp")
    with partial.open("wb") as out:
        for path, pixels in _decode(paths, smallest, skipped):
            out.write(np.ascontiguousarray(pixels).data)
            names.append(str(path))
            shapes.append(pixels.shape[:2])
            offsets.append(offset)
            offset += pixels.size
    partial.replace(pixel_path)
    index = {"names": names, "shapes": shapes, "offsets": offsets, "skipped": skipped}
    text = index_path.with_suffix(f".{os.getpid()}.tmp")
    text.write_text(json.dumps(index))
    text.replace(index_path)
