"""GIF is read only: 256 colours would bring back as dither what was removed. Results are PNG."""

from __future__ import annotations

from medcli.images.decoded_image import DecodedImage, Metadata
from medcli.images.pillow import opened_as, page_of
from medcli.images.source import ImageBytes


def decode(source: ImageBytes) -> DecodedImage:
    """The first frame. Raises InputError for a damaged file."""
    pillow_image = opened_as("GifImagePlugin:GifImageFile", None, source)
    source.admit(*pillow_image.size)
    page, lines = page_of(pillow_image, source)
    image = DecodedImage([page], "gif", Metadata(lossless=True), lines)
    if getattr(pillow_image, "is_animated", False):
        image.remark("Only the first frame of the animation is kept.")
    return image
