"""An opened input: its name for messages, its bytes, and the limit on its pixels."""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from medcli.errors import InputError
from medcli.images.development import Development
from medcli.images.formats import KNOWN

MAX_PIXELS = 500_000_000


@dataclass
class ImageBytes:
    """What a codec reads from. `max_pixels` bounds the sum over all pages.

    path: of the file, where pixels may be read from it later; None where they must be decoded now.
    """

    name: str
    stream: BinaryIO
    max_pixels: int = MAX_PIXELS
    development: Development = field(default_factory=Development)
    path: Path | None = None

    def head(self, count: int = 32) -> bytes:
        """The first bytes, with the position back at the start."""
        self.stream.seek(0)
        start = self.stream.read(count)
        self.stream.seek(0)
        return start

    def content(self) -> bytes:
        """The whole file."""
        self.stream.seek(0)
        return self.stream.read()

    def mapped(self) -> bytes:
        """The whole file, without a copy in memory where it may be read later."""
        if self.path is None or self.path.stat().st_size == 0:
            return self.content()
        with self.path.open("rb") as file:  # slices of a map are bytes
            return cast(bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    @staticmethod
    def most_pixels(packed: int) -> int:
        """An upper bound on the pixels in `packed` bytes, for codecs without a limit on compression."""
        return (1 << 24) + (packed << 12)

    def admit(self, width: int, height: int, pixels: int | None = None, *, most: float = math.inf) -> None:
        """Refuse an image without area, or with more pixels than allowed, before anything is decoded.

        most: number of pixels that the bytes of the file can hold.
        """
        if width < 1 or height < 1:
            raise self.damaged(f"its header says {width}x{height} pixels")
        pixels = width * height if pixels is None else pixels
        if pixels > self.max_pixels:
            raise InputError(
                f"{self.name} has {pixels / 1e6:,.0f} megapixels ({width}x{height}); "
                f"the limit is {self.max_pixels / 1e6:,.0f}.",
                "A small file that claims to be huge may be meant to fill the memory. Raise the limit if you trust it.",
            )

        if pixels > most:
            raise self.damaged(f"it is too short for the {width}x{height} pixels of its header")

    def damaged(self, reason: str) -> InputError:
        """The error for a file that is truncated or contradicts itself."""
        return InputError(f"{self.name} is damaged: {reason}.", "Copy it again from its origin, or repair it.")

    def unfit(self, reason: str, hint: str) -> InputError:
        """The error for an intact file of a kind that is not read."""
        return InputError(f"{self.name} cannot be read: {reason}.", hint)


@contextmanager
def opened(
    origin: Path | bytes, name: str, max_pixels: int, development: Development | None = None, *, lazy: bool = False
) -> Iterator[ImageBytes]:
    """A seekable `ImageBytes` on a file or on bytes. Raises InputError where it cannot be opened."""
    how = development or Development()
    if isinstance(origin, bytes):
        yield ImageBytes(name, io.BytesIO(origin), max_pixels, how)
        return
    try:
        file = origin.open("rb")
    except FileNotFoundError:
        raise InputError(f"There is no file {name}.", "Check the spelling and the folder.") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder, not an image.", f"Name a file: {KNOWN} are read.") from None
    except OSError as error:
        raise InputError(f"{name} cannot be opened: {error.strerror or error}.", "Check its permissions.") from None
    with file:
        path = origin if lazy and file.seekable() else None
        yield ImageBytes(name, file if file.seekable() else io.BytesIO(file.read()), max_pixels, how, path)
