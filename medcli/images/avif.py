"""AVIF of 8, 10 and 12 bits: Pillow reads the metadata, imagecodecs the pixels; OpenCV writes both."""

from __future__ import annotations

from typing import Any, BinaryIO

import cv2
import imagecodecs
import numpy as np

from medcli.errors import OutputError
from medcli.images import boxes, encoding, exif
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.depth import narrowed, widened
from medcli.images.pillow import opened_as
from medcli.images.raster import as_bgr, turned
from medcli.images.source import ImageBytes

DEFAULT_QUALITY = 90
DEEPEST = 12


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one upright page. Raises InputError for a damaged file."""
    data = source.content()
    header: Any = opened_as("AvifImagePlugin:AvifImageFile", data, source)
    source.admit(*header.size, most=source.most_pixels(len(data)))
    try:
        array = np.asarray(imagecodecs.avif_decode(data, index=0))
    except (RuntimeError, ValueError):
        raise source.damaged("its pixels cannot be unpacked") from None
    bits = bits_of(data)
    block, turn = header.info.get("exif"), exif.orientation(header.info.get("exif", b"").removeprefix(exif.PREFIX))
    page = turned(page_of(widened(array, bits)), turn)
    meta = Metadata(icc=header.info.get("icc_profile"), xmp=header.info.get("xmp"), bits=bits if bits > 8 else None)
    meta.nclx = encoding.nclx_of(data)
    meta.icc = meta.icc or encoding.profile_of(meta.nclx)
    if block:
        meta.exif = exif.upright(exif.tidied(block, *page.pixels.shape[1::-1]))
    image = DecodedImage([page], "avif", meta)
    if getattr(header, "is_animated", False):
        image.remark("Only the first frame of the animation is kept.")
    if b"tmap" in data[:4096]:
        image.remark("The gain map was dropped: the image keeps its standard range.")
    return image


def page_of(array: Any) -> Page:
    """(H, W[, 1 to 4]) as a page: the last of two or four channels is alpha."""
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim == 2 or array.shape[2] == 3:
        return Page(np.ascontiguousarray(array))
    pixels = array[:, :, 0] if array.shape[2] == 2 else array[:, :, :3]
    return Page(np.ascontiguousarray(pixels), np.ascontiguousarray(array[:, :, -1]))


def note_limits(image: DecodedImage, bits: int) -> None:
    """Notes on what HEIF and AVIF of `bits` bits cannot hold."""
    page, label = image.pages[0], image.format.upper()
    if page.alpha is not None and page.pixels.ndim == 2:
        image.remark(f"{label} knows no gray with alpha: written as three equal channels and alpha.")
    if page.pixels.dtype == np.uint16 and bits < (image.metadata.bits or 16):
        image.remark(f"{label}: {image.metadata.bits or 16} bit was rounded to {bits} bit.")


def bits_of(data: bytes) -> int:
    """Bits of a sample, as the configuration of the AV1 stream says (AV1 codec ISO media file format, 2.3)."""
    found = boxes.found(data, b"meta", b"iprp", b"ipco", b"av1C")
    flags = found[0][2] if found and len(found[0]) > 2 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one upright page with its metadata; uint16 in the bits of the source, else 12. Quality 100 is lossless.

    Raises OutputError where the encoder gives up.
    """
    page, meta = image.pages[0], image.metadata
    bits = min(meta.bits or DEEPEST, DEEPEST) if page.pixels.dtype == np.uint16 else 8
    note_limits(image, bits)
    alpha = None if page.alpha is None else narrowed(page.alpha, bits)
    blocks = (
        (cv2.IMAGE_METADATA_EXIF, meta.exif), (cv2.IMAGE_METADATA_XMP, meta.xmp), (cv2.IMAGE_METADATA_ICCP, meta.icc),
    )  # fmt: skip
    held = [(kind, np.frombuffer(block, np.uint8)) for kind, block in blocks if block]
    options = [cv2.IMWRITE_AVIF_QUALITY, quality or DEFAULT_QUALITY, cv2.IMWRITE_AVIF_DEPTH, bits]
    with as_bgr(Page(narrowed(page.pixels, bits), alpha)) as array:
        done, packed = cv2.imencodeWithMetadata(".avif", array, [k for k, _ in held], [b for _, b in held], options)
    if not done:
        raise OutputError("The image cannot be coded as AVIF.", "Write PNG or TIFF.")
    stream.write(encoding.with_nclx(packed.tobytes(), meta.nclx) if meta.nclx else packed.tobytes())
