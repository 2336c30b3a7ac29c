"""The table of image formats: how each is recognised, named, and what it can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """What a format can hold. `codec` is the module with `decode(source)` and `encode(image, stream, quality)`."""

    codec: str
    suffixes: tuple[str, ...]
    marks: tuple[tuple[int, bytes], ...]  # (position, bytes) of which one must be found
    depths: tuple[str, ...] = ("uint8",)  # the last one is for pixels of another type
    alpha: bool = True
    gray: bool = True
    pages: bool = False
    longest: int = 2**31 - 1  # pixels a side
    densest: float = math.inf  # pixels per inch
    carries: tuple[str, ...] = ("icc", "exif", "thumbnail", "xmp", "dpi")


FORMATS: Mapping[str, Format] = {
    "png": Format(
        "medcli.images.png",
        (".png", ".apng"),
        ((0, b"\x89PNG\r\n\x1a\n"),),
        depths=("uint8", "uint16"),
        densest=(2**32 - 1) * 0.0254,
    ),
    "tiff": Format(
        "medcli.images.tiff",
        (".tif", ".tiff"),
        ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
        depths=("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float64", "float32"),
        pages=True,
        carries=("icc", "exif", "xmp", "dpi"),
    ),
    "jpeg": Format(
        "medcli.images.jpeg",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
        ((0, b"\xff\xd8\xff"),),
        alpha=False,
        longest=65535,
        densest=65535,
    ),
    "webp": Format(
        "medcli.images.webp",
        (".webp",),
        ((8, b"WEBP"),),
        gray=False,
        longest=16383,
        carries=("icc", "exif", "thumbnail", "xmp"),
    ),
    "bmp": Format(
        "medcli.images.bmp", (".bmp", ".dib"), ((0, b"BM"),), carries=("icc", "dpi"), densest=(2**31 - 1) / 39.3701
    ),
}
SUFFIXES: Mapping[str, str] = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
KNOWN = "PNG, TIFF, JPEG, WebP and BMP"


def format_of(path: str | Path) -> str | None:
    """The format that a file name asks for, or None where its suffix is unknown."""
    return SUFFIXES.get(Path(path).suffix.lower())


def supported(path: str | Path) -> bool:
    """Whether a file of this name can be read and written."""
    return format_of(path) is not None


def sniff(head: bytes) -> str | None:
    """The format of a file that begins with `head` (at least 16 bytes), or None."""
    for name, each in FORMATS.items():
        if any(head[at : at + len(mark)] == mark for at, mark in each.marks):
            return name
    return None
