"""Files and arrays: the one place that knows image formats. What a file carries comes back in the file written.

    read -> DecodedImage (pages of pixels and alpha, metadata, notes) -> write

Depth, gray, alpha, colour profile, EXIF, XMP, resolution, TIFF tags, JPEG quality and chroma subsampling survive.
Orientation is never applied: pixels and tag both stay as they are stored, so no viewer turns an image twice.

Public names are imported when first used: `medcli.images.formats` and `medcli.images.source` need no numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcli.images.decoded_image import DecodedImage, Metadata, Page, TiffLayout
    from medcli.images.formats import SUFFIXES, format_of, supported
    from medcli.images.reader import read
    from medcli.images.source import MAX_PIXELS
    from medcli.images.writer import write

_HOMES = {
    "decoded_image": ("DecodedImage", "Metadata", "Page", "TiffLayout"),
    "formats": ("SUFFIXES", "format_of", "supported"),
    "reader": ("read",),
    "source": ("MAX_PIXELS",),
    "writer": ("write",),
}
__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "DecodedImage",
    "Metadata",
    "Page",
    "TiffLayout",
    "format_of",
    "read",
    "supported",
    "write",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"medcli.images.{module}"), name)
    raise AttributeError(f"module 'medcli.images' has no attribute '{name}'")
