"""What Pillow decodes: the odd kinds (palette, CMYK, bilevel, ...), turned into gray or RGB with a line to say so."""

from __future__ import annotations

import importlib
import io
import struct
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageFile

from medcli.errors import ran_out
from medcli.images.decoded_image import Page
from medcli.images.raster import Array, bands
from medcli.images.source import ImageBytes

DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error),
    Image.DecompressionBombError,  # raised for a tile, even where the image as a whole was admitted
)
PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def opened_as(plugin: str, data: bytes | None, source: ImageBytes) -> ImageFile.ImageFile:
    """The image as one "module:Class" of Pillow sees it; only the header is parsed.

    The class is called directly because Image.open has a limit on pixels of its own, kept in a global variable.
    """
    module, _, name = plugin.partition(":")
    factory = getattr(importlib.import_module(f"PIL.{module}"), name)
    source.stream.seek(0)
    try:
        return cast(ImageFile.ImageFile, factory(source.stream if data is None else io.BytesIO(data)))
    except DAMAGE:
        raise source.damaged("its header is not valid") from None


def page_of(pillow_image: Image.Image, source: ImageBytes, icc: bytes | None = None) -> tuple[Page, list[str]]:
    """The decoded page and the notes on what was converted. `icc` is used to convert CMYK, and is then spent;
    a palette that has one stays colour."""
    load(pillow_image, source)
    lines: list[str] = []
    if pillow_image.mode not in PLAIN and not pillow_image.mode.startswith("I;16"):
        pillow_image, lines = _converted(pillow_image, source, icc)
    array = _array(pillow_image)
    if pillow_image.mode in ("LA", "RGBA"):
        pixels = array[:, :, 0] if pillow_image.mode == "LA" else array[:, :, :3]
        return Page(np.ascontiguousarray(pixels), np.ascontiguousarray(array[:, :, -1])), lines
    return Page(array), lines


def load(pillow_image: Image.Image, source: ImageBytes) -> None:
    """Decodes the pixels. Raises InputError where they are damaged."""
    try:
        pillow_image.load()
    except DAMAGE as error:
        if ran_out(error):  # Pillow raises OSError for it where a decoder says so
            raise MemoryError from None
        raise source.damaged("its pixels are incomplete or cannot be unpacked") from None


def _converted(pillow_image: Image.Image, source: ImageBytes, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    if pillow_image.mode == "1":
        return pillow_image.convert("L"), ["1-bit black and white was converted to 8-bit gray."]
    if pillow_image.mode in ("P", "PA"):
        clear = pillow_image.mode == "PA" or "transparency" in pillow_image.info
        mode = ("L" if _has_gray_palette(pillow_image) and icc is None else "RGB") + "A" * clear
        name = "8-bit gray" + " with alpha" * clear if mode.startswith("L") else mode
        return pillow_image.convert(mode), [f"Palette colours were converted to {name}."]
    if pillow_image.mode == "CMYK":
        return _from_cmyk(pillow_image, icc)
    if pillow_image.mode == "YCbCr":
        return pillow_image.convert("RGB"), ["YCbCr was converted to RGB."]
    raise source.unfit(f"its pixels are of the kind {pillow_image.mode}", "Convert it to gray, RGB or RGBA first.")


def _has_gray_palette(pillow_image: Image.Image) -> bool:
    """Whether all colours that the image uses have three equal channels."""
    colours = np.array(pillow_image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.flatnonzero(pillow_image.histogram()[: len(colours)])
    return bool((colours[used] == colours[used, :1]).all())


def _from_cmyk(pillow_image: Image.Image, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    if icc:
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(pillow_image, inks, screen, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted, ["CMYK was converted to sRGB through its colour profile."]
    return pillow_image.convert("RGB"), ["CMYK was converted to RGB without a colour profile."]


def _array(pillow_image: Image.Image) -> Array:
    """The pixels as an array, taken in bands: Pillow's own way makes two further copies of the whole."""
    width, height = pillow_image.size
    channels = PLAIN.get(pillow_image.mode, 1)
    result: Array = np.empty((height, width, channels), np.uint16 if pillow_image.mode.startswith("I;16") else np.uint8)
    for rows in bands(result):
        band = np.asarray(pillow_image.crop((0, rows.start, width, rows.stop)))
        result[rows] = band.reshape(-1, width, channels)
    return result[:, :, 0] if channels == 1 else result
