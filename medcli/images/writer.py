"""Writing: from a `DecodedImage` to a file that is there whole or not at all."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from medcli.errors import OutputError
from medcli.files.atomic import atomic_write, hint_for
from medcli.images import thumbnail
from medcli.images.decoded_image import DecodedImage
from medcli.images.format_limits import fit
from medcli.images.formats import FORMATS, KNOWN, format_of, result_format
from medcli.registry import nearest


def write(
    image: DecodedImage, destination: Path | BinaryIO, *, format: str | None = None, quality: int | None = None
) -> None:
    """Encode `image` with everything it carries. A path gets the whole file or nothing.

    A stream that can be rewound is written as the encoder goes, so what it holds after an error means nothing; another,
    such as a pipe, gets the whole file or nothing.

    `format` is a name in FORMATS; by default the path's suffix decides, and for a stream the image's own format.
    `quality` (1 to 100) is for JPEG and WebP; by default that of the source (lossless WebP stays lossless), else 95.
    What the format cannot hold is converted, with a line added to `image.notes`: 16 bit is rounded to 8, float in
    [0, 1] goes to the deepest integer. While it is being written, no other thread may use `image`.
    Raises OutputError: unknown format, alpha or pages that it cannot hold, sides too long for it, no rights, no room.
    """
    name = _format(image, destination, format)
    if quality is not None and not 1 <= quality <= 100:
        raise OutputError(f"Quality {quality} is out of range.", "It goes from 1 to 100.")
    fitted = fit(image, name)
    if "thumbnail" in FORMATS[name].carries:
        thumbnail.renew(fitted)
    codec = importlib.import_module(FORMATS[name].codec)
    label = str(destination) if isinstance(destination, Path) else "The output"
    try:
        with _opened(destination, image) as stream:
            codec.encode(fitted, stream, quality)
    except OSError as error:
        raise OutputError(f"{label} cannot be written: {error.strerror or error}.", hint_for(error)) from None
    image.remark(*fitted.notes)


def _format(image: DecodedImage, destination: Path | BinaryIO, format: str | None) -> str:
    if format is not None:
        name = format_of(f"x.{format.lower()}") or format.lower()
        if name not in FORMATS or FORMATS[name].result:
            raise OutputError(f"There is no output format '{format}'.", nearest(format, FORMATS))
        return name
    if not isinstance(destination, Path):
        return result_format(image.format)
    named = format_of(destination)
    if named is None or FORMATS[named].result:
        raise OutputError(f"The name {destination} does not say which format to write.", f"{KNOWN} are written.")
    return named


def _opened(destination: Path | BinaryIO, image: DecodedImage) -> AbstractContextManager[BinaryIO]:
    return atomic_write(destination, remark=image.remark) if isinstance(destination, Path) else _rewindable(destination)


@contextmanager
def _rewindable(destination: BinaryIO) -> Iterator[BinaryIO]:
    """The stream itself if it can be rewound, else a file whose content goes to it when all went well."""
    if destination.seekable():
        yield destination
        return
    with tempfile.NamedTemporaryFile() as stream:
        yield cast(BinaryIO, stream.file)
        stream.seek(0)
        shutil.copyfileobj(stream, destination, 1 << 20)
        destination.flush()
