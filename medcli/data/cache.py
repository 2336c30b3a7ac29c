"""Images decoded once into one memory-mapped file, so that training neither decodes nor holds them in memory."""

from __future__ import annotations

import json
import math
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medcli import images
from medcli.errors import InputError, OutputError, TrainingError
from medcli.files.atomic import open_atomic, remove_stale
from medcli.files.checksum import blake2b
from medcli.images.decoded_image import Page
from medcli.images.filling import unit_filled
from medcli.images.values import RangeChoice, ValueRange, dtype_range, joint_range, missing, range_of

FORMAT = 5
FIRST, NEXT = 5.0, 15.0  # seconds to the first line on progress, and between two of them
SMALLEST_PATCH = 16  # pixels a side that a network can learn from
ALIGNMENT = 8  # bytes; an image starts at a multiple, whatever its dtype


@dataclass(frozen=True)
class CachedImage:
    """Where an image lies: first byte, (H, W, C) with C of 1 or 3, and dtype.

    Its values span [0, 1] as those of its dtype do: images of another range are kept in float32.
    """

    offset: int
    shape: tuple[int, int, int]
    dtype: str


@dataclass(frozen=True)
class PixelCache:
    """Images as (H, W, C) views into one file, in the depth that they have.

    skipped: one line for each file that could not be used.
    """

    file: Path
    mapping: mmap.mmap
    names: list[str]
    slots: list[CachedImage]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[Any]:
        slot = self.slots[index]
        return np.frombuffer(self.mapping, slot.dtype, math.prod(slot.shape), slot.offset).reshape(slot.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file itself."""
        return _mapped, (self.file, self.names, self.slots, self.skipped)

    @property
    def gray(self) -> bool:
        """Whether no image has colour."""
        return all(slot.shape[2] == 1 for slot in self.slots)

    def only(self, indices: Sequence[int]) -> PixelCache:
        """The images at these indices, in this order; the pixels are shared."""
        names, slots = [self.names[index] for index in indices], [self.slots[index] for index in indices]
        return replace(self, names=names, slots=slots)

    def release(self) -> None:
        """Lets the system free the memory of pages that were read; else a run would hold the whole file in time."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Reading:
    """What pixel values mean. range: which are black and white; nodata: which means nothing, None for the file's."""

    range: RangeChoice = "auto"
    nodata: float | None = None


class ImagesTooSmall(TrainingError):
    """No image holds a patch. side: of the largest patch that one of them holds, in pixels."""

    def __init__(self, side: int, patch: int) -> None:
        hint = f"Give --patch {side} or less." if side >= SMALLEST_PATCH else "Give larger images."
        super().__init__(f"All images are smaller than the patches of {patch} pixels.", hint)
        self.side = side


def silent(_: str) -> None:
    """For callers without output."""


def open_cache(
    paths: Sequence[Path],
    cache_dir: Path,
    *,
    smallest: int,
    reading: Reading = Reading(),
    scenes: Sequence[Sequence[Path]] = (),
    say: Callable[[str], None] = silent,
) -> PixelCache:
    """The cache of these images, built when there is none or when one of them has changed. Each page is an image.

    smallest: images with a side below this many pixels are left out and named in `skipped`. scenes: for each path,
    all images of its scene, which are read in one range of values so that they stay comparable. say: called now and
    then with the number of decoded images and the time left.
    Raises ImagesTooSmall or TrainingError where no usable image is left, OutputError where the cache cannot be written.
    """
    stem = cache_dir / _fingerprint(paths, smallest, reading, scenes)
    index_path, pixel_path = stem.with_suffix(".json"), stem.with_suffix(".pixels")
    if not _is_whole(index_path, pixel_path):
        try:
            _build(_decode(paths, smallest, reading, scenes, say), index_path, pixel_path)
        except OSError as error:
            raise OutputError(
                f"The decoded images cannot be kept in {cache_dir}: {error.strerror}.",
                "Name another folder with --cache.",
            ) from error
    index = json.loads(index_path.read_text())
    if not index["names"] and (side := _largest(paths, reading)):
        raise ImagesTooSmall(side, smallest)
    if not index["names"]:
        raise TrainingError("None of the images can be trained on.", "\n".join(index["skipped"][:10]))
    slots = [CachedImage(offset, tuple(shape), dtype) for offset, shape, dtype in index["slots"]]
    return _mapped(pixel_path, index["names"], slots, index["skipped"])


def _largest(paths: Sequence[Path], reading: Reading) -> int:
    """The largest square, by its side in pixels, that any of the images holds; 0 where none can be read."""
    sides = [0]
    for path in paths:
        with suppress(InputError):
            sides += [min(page.pixels.shape[:2]) for page in _pages(path, reading)]
    return max(sides)


def _is_whole(index_path: Path, pixel_path: Path) -> bool:
    """Whether both files are there and belong together; one may have been deleted."""
    try:
        return bool(json.loads(index_path.read_bytes())["bytes"] == pixel_path.stat().st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _mapped(file: Path, names: list[str], slots: list[CachedImage], skipped: list[str]) -> PixelCache:
    with file.open("rb") as opened:
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return PixelCache(file, mapping, names, slots, skipped)


def _watched(paths: Sequence[Path], say: Callable[[str], None]) -> Iterator[tuple[int, Path]]:
    """The paths by number; `say` is called once a while has passed."""
    started, due = time.monotonic(), FIRST
    for number, path in enumerate(paths):
        if number and (elapsed := time.monotonic() - started) >= due:
            due = elapsed + NEXT
            words = "decoding images: {n_fmt} of {total_fmt}, {remaining} left"
            say(tqdm.format_meter(number, len(paths), elapsed, bar_format=words))
        yield number, path


def _decode(
    paths: Sequence[Path],
    smallest: int,
    reading: Reading,
    scenes: Sequence[Sequence[Path]],
    say: Callable[[str], None],
) -> Iterator[tuple[str, NDArray[Any] | None]]:
    """(name, pixels) of each page; (why, None) for what cannot be used."""
    for number, path in _watched(paths, say):
        try:
            pages = _pages(path, reading)
        except InputError as error:
            yield f"{path}: {error.problem}", None
            continue
        values = _range(path, pages, reading, scenes[number] if scenes else ())
        for number_of_page, page in enumerate(pages, start=1):
            name = f"{path}#{number_of_page}" if len(pages) > 1 else str(path)
            if min(page.pixels.shape[:2]) < smallest:
                yield f"{name}: smaller than the {smallest} pixel patch", None
            else:
                yield name, _in_order(page, values)


def _pages(path: Path, reading: Reading) -> list[Page]:
    pages = images.read(path).pages
    for page in pages:
        page.nodata = page.nodata if reading.nodata is None else reading.nodata
    return pages


def _range(path: Path, pages: Sequence[Page], reading: Reading, scene: Sequence[Path]) -> ValueRange:
    """Of the image, or where that is found in the values, of all images of its scene that can be read."""
    own = range_of(reading.range, pages)
    if reading.range != "auto" or pages[0].pixels.dtype == np.uint8:
        return own
    ranges, dtypes = [own], [pages[0].pixels.dtype]
    for other in scene:
        if other != path:
            with suppress(InputError):
                pages_of_other = _pages(other, reading)
                ranges.append(range_of(reading.range, pages_of_other))
                dtypes.append(pages_of_other[0].pixels.dtype)
    return joint_range(ranges, dtypes)[0]


def _in_order(page: Page, values: ValueRange) -> NDArray[Any]:
    """(H, W, C), contiguous and in the machine's byte order; float32 where the values do not span those of the type."""
    pixels = page.pixels if page.pixels.ndim == 3 else page.pixels[..., np.newaxis]
    lost = missing(pixels, page.nodata)
    if values != dtype_range(pixels.dtype) or (lost is not None and lost.any()):
        pixels = unit_filled(pixels, values, page.nodata)
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))


def _fingerprint(paths: Sequence[Path], smallest: int, reading: Reading, scenes: Sequence[Sequence[Path]]) -> str:
    """Of all that the index depends on, including the spelling of the paths, which are the images' names."""
    lines = [f"{FORMAT} {smallest} {reading.range} {reading.nodata}"]
    lines += [f"{path}\t{path.absolute()}\t{_state(path)}" for path in (*paths, *chain.from_iterable(scenes))]
    return blake2b("\n".join(lines).encode(errors="surrogateescape"), digits=32)


def _state(path: Path) -> str:
    """What changes when a file does; a link that leads nowhere has a state too, and is left out later."""
    try:
        status = path.stat()
    except OSError as error:
        return f"{error.strerror}"
    return f"{status.st_size}\t{status.st_mtime_ns}\t{status.st_ctime_ns}"


def _build(images: Iterable[tuple[str, NDArray[Any] | None]], index_path: Path, pixel_path: Path) -> None:
    remove_stale([index_path.parent])
    skipped: list[str] = []
    names: list[str] = []
    slots: list[tuple[int, tuple[int, ...], str]] = []
    with open_atomic(pixel_path) as out:
        for name, pixels in images:
            if pixels is None:
                skipped.append(name)
                continue
            out.write(bytes(-out.tell() % ALIGNMENT))
            slots.append((out.tell(), pixels.shape, pixels.dtype.name))
            names.append(name)
            out.write(pixels.data)
        out.write(bytes(ALIGNMENT))  # an empty file cannot be mapped
        size = out.tell()
    with open_atomic(index_path) as out:
        out.write(json.dumps({"names": names, "slots": slots, "skipped": skipped, "bytes": size}).encode())
