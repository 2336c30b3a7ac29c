"""What Pillow decodes: the odd kinds (palette, CMYK, bilevel, ...), turned into gray or RGB with a line to say so."""

from __future__ import annotations

import importlib
import io
import struct
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageFile

from medcli.errors import ran_out
from medcli.images.picture import Page
from medcli.images.raster import Array, bands
from medcli.images.source import Source

DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error),
    Image.DecompressionBombError,  # raised for a tile, even where the picture as a whole was admitted
)
PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def opened_as(plugin: str, data: bytes | None, source: Source) -> ImageFile.ImageFile:
    """The picture as one "module:Class" of Pillow sees it; only the header is parsed.

    The class is called directly because Image.open has a limit on pixels of its own, kept in a global variable.
    """
    module, _, name = plugin.partition(":")
    factory = getattr(importlib.import_module(f"PIL.{module}"), name)
    source.stream.seek(0)
    try:
        return cast(ImageFile.ImageFile, factory(source.stream if data is None else io.BytesIO(data)))
    except DAMAGE:
        raise source.damaged("its header makes no sense") from None


def page_of(image: Image.Image, source: Source, icc: bytes | None = None) -> tuple[Page, list[str]]:
    """The decoded page and the notes on what was converted. `icc` is used to convert CMYK, and is then spent;
    a palette that has one stays colour."""
    load(image, source)
    lines: list[str] = []
    if image.mode not in PLAIN and not image.mode.startswith("I;16"):
        image, lines = _converted(image, source, icc)
    array = _array(image)
    if image.mode in ("LA", "RGBA"):
        pixels = array[:, :, 0] if image.mode == "LA" else array[:, :, :3]
        return Page(np.ascontiguousarray(pixels), np.ascontiguousarray(array[:, :, -1])), lines
    return Page(array), lines


def load(image: Image.Image, source: Source) -> None:
    """Decodes the pixels. Raises InputError where they are damaged."""
    try:
        image.load()
    except DAMAGE as error:
        if ran_out(error):  # Pillow raises OSError for it where a decoder says so
            raise MemoryError from None
        raise source.damaged("its pixels are incomplete or cannot be unpacked") from None


def _converted(image: Image.Image, source: Source, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    if image.mode == "1":
        return image.convert("L"), ["1-bit black and white was converted to 8-bit gray."]
    if image.mode in ("P", "PA"):
        clear = image.mode == "PA" or "transparency" in image.info
        mode = ("L" if _has_gray_palette(image) and icc is None else "RGB") + "A" * clear
        name = "8-bit gray" + " with alpha" * clear if mode.startswith("L") else mode
        return image.convert(mode), [f"Palette colours were converted to {name}."]
    if image.mode == "CMYK":
        return _from_cmyk(image, icc)
    if image.mode == "YCbCr":
        return image.convert("RGB"), ["YCbCr was converted to RGB."]
    raise source.unfit(f"its pixels are of the kind {image.mode}", "Convert it to gray, RGB or RGBA first.")


def _has_gray_palette(image: Image.Image) -> bool:
    """Whether all colours that the picture uses have three equal channels."""
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.flatnonzero(image.histogram()[: len(colours)])
    return bool((colours[used] == colours[used, :1]).all())


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    if icc:
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, inks, screen, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted, ["CMYK was converted to sRGB through its colour profile."]
    return image.convert("RGB"), ["CMYK was converted to RGB without a colour profile."]


def _array(image: Image.Image) -> Array:
    """The pixels as an array, taken in bands: Pillow's own way makes two further copies of the whole."""
    width, height = image.size
    channels = PLAIN.get(image.mode, 1)
    result: Array = np.empty((height, width, channels), np.uint16 if image.mode.startswith("I;16") else np.uint8)
    for rows in bands(result):
        band = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        result[rows] = band.reshape(-1, width, channels)
    return result[:, :, 0] if channels == 1 else result
