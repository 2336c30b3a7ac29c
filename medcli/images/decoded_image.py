"""What an image is between a file and a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medcli.images.development import Development
    from medcli.images.values import ValueRange

GDAL_NODATA = 42113

ROWS_AT_ONCE = 256
ByteOrder = Literal["<", ">"]  # least significant byte first, or last


@dataclass
class Page:
    """One raster. `pixels` is (H, W) gray or (H, W, 3) RGB in one of the types of `medcli.images.values`.

    `alpha`, where there is one, is (H, W) in the same dtype and passes untouched. `nodata`: pixels of this value in all
    channels mean nothing.
    """

    pixels: NDArray[np.generic]
    alpha: NDArray[np.generic] | None = None
    nodata: float | None = None


def is_gray(pixels: NDArray[Any]) -> bool:
    """Whether (H, W) or (H, W, C) has one channel, or equal ones; ends at the first rows that differ."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return True
    import numpy as np

    floats = pixels.dtype.kind == "f"
    for top in range(0, len(pixels), ROWS_AT_ONCE):
        first, *others = np.moveaxis(pixels[top : top + ROWS_AT_ONCE], 2, 0)
        if not all(np.array_equal(first, other, equal_nan=floats) for other in others):
            return False
    return True


@dataclass(frozen=True)
class TiffLayout:
    """How one page lay in its TIFF: tags as (code, type, count, raw bytes in the file's order), and the packing."""

    tags: tuple[tuple[int, int, int, bytes], ...] = ()
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None = None  # X and Y as fractions, and the unit's code
    compression: str | None = "zlib"
    predictor: bool = False
    extrasamples: tuple[str, ...] = ("unassalpha",)
    bands: int = 1  # gray pages, from this one on, that were samples of one page; 0: this one was of an earlier page
    mask: bool = False  # alpha was a page of its own, of one bit


@dataclass
class Metadata:
    """What a file carries beside its pixels."""

    icc: bytes | None = None
    exif: bytes | None = None  # from its byte-order mark on, without the prefix "Exif\0\0" that JPEG puts before it
    thumbnail: tuple[int, int] | None = None  # width and height of the one that EXIF had
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None  # pixels per inch, across and down
    native: tuple[tuple[bytes, bytes], ...] = ()  # (kind, content) of blocks that only the same format understands
    quantization: tuple[tuple[int, ...], ...] = ()  # JPEG: tables of 64 steps for luma and chroma, row by row
    subsampling: str | None = None  # JPEG: "4:4:4" "4:2:2" "4:2:0"
    lossless: bool = False  # WebP, JPEG 2000
    quality: int | None = None  # lossy WebP, 1 to 100, as the steps of its quantizer tell
    tiff: tuple[TiffLayout, ...] = ()  # one for each page
    byteorder: ByteOrder = "<"  # TIFF
    bigtiff: bool = False
    bits: int | None = None  # of a sample in the file, where that is neither 8 nor 16
    transfer: Literal["linear", "pq", "hlg"] | None = None  # how numbers encode light, where a format implies it
    development: Development | None = None  # raw
    nclx: tuple[int, int, int, int] | None = None  # HEIF, AVIF: primaries, transfer, matrix, full range

    def nodata(self, number: int) -> float | None:
        """The value that means nothing on this page, counted from 0, as GDAL's tag says; None where none does.

        Pages without the tag are as the last one before them that has it: slices share a directory.
        """
        before = (tag for layout in reversed(self.tiff[: number + 1]) for tag in layout.tags)
        text = next((content for code, _, _, content in before if code == GDAL_NODATA), b"")
        try:
            return float(text.partition(b"\0")[0])
        except ValueError:
            return None


@dataclass
class DecodedImage:
    """A file's content. `notes` has one line for each conversion that reading, and later writing, had to make.

    values: which values of all pages are black and white, where that has been found out; else the type decides.
    residual: what was removed from each page, where it is wanted. written: whether it went into its file while it was
    being denoised; its pixels are gone then.
    """

    pages: list[Page]
    format: str
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    values: ValueRange | None = None
    residual: list[Page] = field(default_factory=list)
    written: bool = False

    def remark(self, *lines: str) -> None:
        """Add notes; a line that is there already is not said twice."""
        self.notes.extend(line for line in dict.fromkeys(lines) if line not in self.notes)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first page, in pixels."""
        height, width = self.pages[0].pixels.shape[:2]
        return width, height
