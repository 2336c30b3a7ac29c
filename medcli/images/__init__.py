"""Files and arrays: the one place that knows picture formats. What a file carries comes back in the file written.

    read -> Picture (pages of pixels and alpha, metadata, notes) -> write

Depth, gray, alpha, colour profile, EXIF, XMP, resolution, TIFF tags, JPEG quality and chroma subsampling survive.
Orientation is never applied: pixels and tag both stay as they are stored, so no viewer turns a picture twice.
"""

from medcli.images.formats import SUFFIXES, format_of, supported
from medcli.images.picture import Metadata, Page, Picture, TiffLayout
from medcli.images.reader import read
from medcli.images.source import MAX_PIXELS
from medcli.images.writer import write

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Metadata",
    "Page",
    "Picture",
    "TiffLayout",
    "format_of",
    "read",
    "supported",
    "write",
]
