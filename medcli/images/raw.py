"""Raw files of cameras: recognised, so that their thumbnails are never taken for the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcli.images.formats import RAW_SUFFIXES

if TYPE_CHECKING:
    from tifffile import TiffPage

MARKS = (  # (position, bytes): Olympus, Panasonic, Fujifilm, Canon CR3, CR2 and CRW, Sigma, Minolta
    *((0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"FUJIFILMCCD-RAW")),
    *((4, b"ftypcrx "), (8, b"CR\2"), (6, b"HEAPCCDR"), (0, b"FOVb"), (0, b"\0MRM")),
)
DNG_VERSION = 50706
SENSOR = (32803, 34892)  # photometric: colour filter array, linear raw
REDUCED = 1  # bit of NewSubfileType
MOST_CHILDREN = 32  # directories below the first that are looked at


def is_raw(name: str, head: bytes) -> bool:
    """Whether a file that begins as TIFF or as nothing known is raw by its name or its first 32 bytes."""
    return Path(name).suffix.lower() in RAW_SUFFIXES or any(head[at : at + len(mark)] == mark for at, mark in MARKS)


def is_raw_tiff(first: TiffPage) -> bool:
    """Whether the tags of a TIFF's first directory say that the image lies elsewhere, as the sensor saw it."""
    if DNG_VERSION in first.tags or first.photometric in SENSOR:
        return True
    if not first.subifds:
        return False
    return bool(first.subfiletype & REDUCED) or any(child in SENSOR for child in _photometrics(first))


def _photometrics(first: TiffPage) -> list[int]:
    children = first.pages or ()
    return [int(getattr(children[at], "photometric", -1)) for at in range(min(len(children), MOST_CHILDREN))]
