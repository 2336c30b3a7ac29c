"""Reading: from a file or bytes to a `DecodedImage`."""

from __future__ import annotations

import importlib
import struct
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from medcli.errors import InputError
from medcli.images import encoding, others, raw
from medcli.images.decoded_image import DecodedImage
from medcli.images.development import Development
from medcli.images.formats import FORMATS, KNOWN, format_of, sniff
from medcli.images.source import MAX_PIXELS, ImageBytes, opened

READER = "med-read"  # how the names of threads that decode begin


def read(
    source: Path | bytes,
    *,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    development: Development | None = None,
    lazy: bool = False,
) -> DecodedImage:
    """Decode an image with everything it carries; the content decides the format, not the name.

    Pixels come as they are stored: the orientation tag stays in the metadata and is not applied.
    The thumbnail inside EXIF, which would show the old pixels, is left out; `write` makes a new one.
    `name` stands for bytes in messages;
    `max_pixels` bounds width x height summed over all pages, and is checked before anything is decoded.
    development: of raw files.
    lazy: whether the pixels of a large image may be `medcli.images.rows.Rows`, read when they are needed.
    Called in the main thread, it decodes in another one, so that a signal is heard even while a C library decodes.
    Raises InputError: missing, empty, truncated, not an image, of an unsupported kind, or too large.
    """
    label = name or (str(source) if isinstance(source, Path) else "The input")
    if threading.current_thread() is not threading.main_thread():
        return _read(source, label, max_pixels, development, lazy)
    future: Future[DecodedImage] = Future()
    arguments = (future, source, label, max_pixels, development, lazy)
    threading.Thread(target=_resolve, args=arguments, name=READER, daemon=True).start()
    return future.result()


def pixels_of(path: Path) -> int | None:
    """Pixels of all pages, as the header says; None where it cannot be read, or says what is hardly true."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pages = int(getattr(image, "n_frames", 1))
            return int(image.width) * int(image.height) * pages
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, struct.error):
        return None


def _resolve(future: Future[DecodedImage], *what: Any) -> None:
    try:
        future.set_result(_read(*what))
    except BaseException as error:  # whatever it is, it is raised in the calling thread
        future.set_exception(error)


def _read(
    source: Path | bytes, label: str, max_pixels: int, development: Development | None, lazy: bool
) -> DecodedImage:
    with opened(source, label, max_pixels, development, lazy=lazy) as opening:
        try:
            return _decoded(opening)
        except MemoryError:
            raise InputError(f"{label} needs more memory than there is.", "Close other programs, or crop it.") from None
        except OSError as error:
            raise InputError(f"{label} cannot be read: {error.strerror or error}.", "Check the disk.") from None


def _decoded(source: ImageBytes) -> DecodedImage:
    head = source.head()
    if not head:
        raise InputError(f"{source.name} is empty.", "It may not have been copied to the end.")
    format = sniff(head)
    if format in (None, "tiff") and raw.is_raw(source.name, head):
        format = "raw"
    if format is None and (other := others.named(source.head(others.HEAD))):
        raise others.refusal(source, other)
    if format is None:
        raise InputError(f"{source.name} is not an image that medcli knows.", f"{KNOWN} are read.")
    image = cast(DecodedImage, importlib.import_module(FORMATS[format].codec).decode(source))
    if image.metadata.tiff:
        for number, page in enumerate(image.pages):
            page.nodata = image.metadata.nodata(number)
    image.metadata.transfer = encoding.transfer_of(image.metadata)
    named = format_of(source.name)
    if named not in (None, image.format) and not (named == "dng" and image.format == "raw"):
        image.remark(f"{source.name} holds a {image.format.upper()} image, whatever its name says.")
    return image
