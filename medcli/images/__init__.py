"""Files and arrays: the one place that knows image formats. What a file carries comes back in the file written.

    read -> Image (pages of pixels and alpha, metadata, notes) -> write

Depth, gray, alpha, colour profile, EXIF, XMP, resolution, TIFF tags, JPEG quality and chroma subsampling survive.
Orientation is never applied: pixels and tag both stay as they are stored, so no viewer turns an image twice.
"""

from medcli.images.decoded_image import DecodedImage, Metadata, Page, TiffLayout
from medcli.images.formats import SUFFIXES, format_of, supported
from medcli.images.reader import read
from medcli.images.source import MAX_PIXELS
from medcli.images.writer import write

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
