"""JPEG XL of 8 and 16 bits and floats: imagecodecs codes the pixels, pillow-jxl-plugin reads the colour profile.

Neither can write a profile, so what is written is sRGB: other colours are converted, with a note.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from medcli.errors import InputError, OutputError
from medcli.images import encoding, exif, thumbnail
from medcli.images import jpegxl_header as header
from medcli.images.avif import page_of
from medcli.images.boxes import box, boxes, found
from medcli.images.decoded_image import DecodedImage, Metadata
from medcli.images.plugins import plugin
from medcli.images.raster import Array, bands, interleaved
from medcli.images.source import ImageBytes
from medcli.images.values import dtype_range

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
DEFAULT_QUALITY = 95


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one upright page. Raises InputError for a damaged file."""
    jxl = plugin("pillow_jxl", "pillow-jxl-plugin", "JPEG XL", InputError)
    data = source.content()
    codestream = codestream_of(data)
    if codestream[:2] != b"\xff\x0a" or len(codestream) < 12:
        raise source.damaged("its header is incomplete")
    source.admit(*header.size_of(codestream), most=source.most_pixels(len(data)))
    try:
        array = np.asarray(imagecodecs.jpegxl_decode(data, index=0))
        icc = jxl.Decoder(num_threads=1)(data)[3]
    except (RuntimeError, ValueError, OSError, TypeError):
        raise source.damaged("its pixels cannot be unpacked") from None
    meta = Metadata(icc=None if encoding.is_srgb(icc) else icc or None, lossless=header.is_lossless(codestream))
    height, width = array.shape[:2]
    for content in found(data, b"Exif")[:1]:
        block = content[4 + int.from_bytes(content[:4], "big") :]
        meta.exif, meta.thumbnail = exif.upright(exif.tidied(block, width, height)), thumbnail.size_of(block)
    meta.xmp = next(iter(found(data, b"xml ")), None)
    image = DecodedImage([page_of(array)], "jxl", meta)
    if found(data, b"jhgm"):
        image.remark("The gain map was dropped: the image keeps its standard range.")
    return image


def codestream_of(data: bytes) -> bytes:
    """The codestream, or its first part where a container has several; empty where there is none."""
    if not data.startswith(CONTAINER):
        return data
    parts = [content[4:] for content in found(data, b"jxlp")]
    return next(iter(found(data, b"jxlc") or parts), b"")


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one upright page in sRGB: lossless where the source was or has more than 8 bits, unless a quality is given.

    Quality 100 is lossless. Raises OutputError where the encoder gives up.
    """
    page, meta = image.pages[0], image.metadata
    deep = page.pixels.dtype != np.uint8
    chosen = quality or (100 if deep or meta.lossless else DEFAULT_QUALITY)
    array, options = interleaved(page, slice(None)), dict[str, Any](usecontainer=True, lossless=chosen == 100)
    if chosen < 100:  # as libjxl's own program has it
        options["distance"] = 0.1 + (100 - chosen) * 0.09 if chosen >= 30 else 25 - chosen * 0.6
        array = _in_light(array, page.pixels.ndim == 2) if deep else array
    try:
        packed = bytes(imagecodecs.jpegxl_encode(array, **options))
    except (RuntimeError, ValueError):
        raise OutputError("The image cannot be coded as JPEG XL.", "Write PNG or TIFF.") from None
    for part in boxes(packed):
        content = packed[part.body : part.stop]
        if part.kind == b"jxlc" and deep:  # the encoder calls what has more than 8 bits linear
            content = header.with_transfer(content, header.SRGB)
        stream.write(packed[part.start : part.body] + content)
    stream.write(box(b"Exif", bytes(4) + meta.exif) if meta.exif else b"")
    stream.write(box(b"xml ", meta.xmp) if meta.xmp else b"")


def _in_light(array: Array, gray: bool) -> Array:
    """Colours, without alpha, in linear light, which a lossy encoder needs to know what is seen."""
    span, colours = dtype_range(array.dtype), 1 if gray else 3
    layers = array.reshape(*array.shape[:2], -1).copy()
    for rows in bands(layers):
        light = encoding.from_perceptual(span.to_unit(layers[rows][..., :colours]).clip(0, 1), "linear")
        layers[rows][..., :colours] = span.from_unit(light, array.dtype)
    return np.asarray(layers.reshape(array.shape))
