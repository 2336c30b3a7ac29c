"""The thumbnail in EXIF: the old one shows the noisy pixels, so the file written gets a new one of the same size."""

from __future__ import annotations

import io
from dataclasses import replace

from medcli.images import exif
from medcli.images.decoded_image import DecodedImage, Page
from medcli.images.values import dtype_range

Size = tuple[int, int]  # width, height

USUAL: Size = (160, 120)  # of cameras; for thumbnails that are no JPEG
LARGEST = 512  # pixels a side
ROOM = 65_527  # bytes of an EXIF block in a JPEG, without its prefix
QUALITY = 80


def size_of(block: bytes) -> Size | None:
    """The size of the thumbnail in an EXIF block, or None where there is none."""
    from PIL.JpegImagePlugin import JpegImageFile  # not before there is a thumbnail: importing takes a while

    found = exif.thumbnail(block)
    if found is None:
        return None
    try:
        small = JpegImageFile(io.BytesIO(found))
    except (OSError, ValueError, SyntaxError):
        return USUAL
    return min(small.width, LARGEST), min(small.height, LARGEST)


def renew(image: DecodedImage) -> None:
    """Puts a thumbnail of the first page into the EXIF of an image that had one; a note says where it does not fit."""
    meta = image.metadata
    if not (meta.exif and meta.thumbnail):
        return
    block = exif.with_thumbnail(meta.exif, _jpeg(image.pages[0], image, meta.thumbnail))
    if block is None or len(block) > ROOM:
        image.remark("The thumbnail in EXIF was dropped.")
    else:
        image.metadata = replace(meta, exif=block)


def _jpeg(page: Page, image: DecodedImage, size: Size) -> bytes:
    """The page at this size, in its proportions with black bars, as cameras make thumbnails."""
    from PIL import Image, ImageOps

    pixels = page.pixels
    if pixels.dtype != "uint8":
        values = image.values or dtype_range(pixels.dtype)
        pixels = dtype_range("uint8").from_unit(values.to_unit(pixels).clip(0, 1), "uint8")
    packed = io.BytesIO()
    ImageOps.pad(Image.fromarray(pixels), size).save(packed, "jpeg", quality=QUALITY)
    return packed.getvalue()
