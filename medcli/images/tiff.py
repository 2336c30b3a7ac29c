"""TIFF: every page, gray or RGB in the depth it has, with the tags that still hold for new pixels.

tifffile reads and writes, imagecodecs packs and unpacks.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
from tifffile import TiffFile, TiffFileError, TiffPage

from medcli.errors import ran_out
from medcli.images import exif, raw, raw_file
from medcli.images.decoded_image import DecodedImage, Metadata, Page, TiffLayout
from medcli.images.raster import Array
from medcli.images.source import ImageBytes
from medcli.images.tiff_pixels import CMYK, LABS, MASK, PillowPages, arranged, completed, decoded
from medcli.images.tiff_rows import rows_of
from medcli.images.tiff_structure import admit, chain
from medcli.images.tiff_tags import ICC, XMP, kept, losses
from medcli.images.tiff_writing import encode

__all__ = ["decode", "encode"]

DAMAGE = (  # what tifffile and imagecodecs raise
    *(TiffFileError, struct.error, ValueError, LookupError, TypeError, AttributeError),
    *(OSError, ArithmeticError, RuntimeError, AssertionError),
)
COMPRESSIONS = {1: None, 8: "zlib", 32946: "zlib", 34925: "lzma", 32773: "packbits", 5: "lzw", 50000: "zstd"}
EXTRA = {0: "unspecified", 1: "assocalpha", 2: "unassalpha"}
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
NO_UNIT, INCH, CENTIMETRE = UNITS = 1, 2, 3
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it has to say is said here, in notes


def decode(source: ImageBytes) -> DecodedImage:
    """Every page. Raises InputError for damage, for raw files and for kinds such as complex numbers."""
    count, lost = chain(source)
    source.stream.seek(0)
    try:
        with np.errstate(all="ignore"), TiffFile(source.stream) as tif:  # tags of others divide by zero
            pages = [tif.pages.get(index) for index in range(count)]
            if not pages:
                raise source.damaged("it has no pages")
            if raw.is_raw_tiff(pages[0]):
                return raw_file.decode(source)
            lost += [line for page in pages for line in completed(page)]
            admit(pages, source)
            image = _assembled(tif, pages, source)
    except DAMAGE as error:
        if ran_out(error):
            raise MemoryError from None
        raise source.damaged(_said(error)) from None
    image.remark(*lost)
    image.metadata.exif = _exif(source, image)
    return image


def _said(error: Exception) -> str:
    """What tifffile says of the damage, where it says it in words."""
    line = " ".join(str(error).split()).rstrip(".")
    worded = isinstance(error, TiffFileError) and line and not set(line) & set("<@()[]_'")
    return line if worded else "its pixels cannot be unpacked"


def _assembled(tif: TiffFile, pages: list[TiffPage], source: ImageBytes) -> DecodedImage:
    """Pages with their layouts and the file's metadata. A mask becomes the alpha channel of the page before it."""
    first = pages[0]
    meta = Metadata(
        icc=_raw(tif, first, ICC), xmp=_raw(tif, first, XMP), byteorder=tif.byteorder, bigtiff=tif.is_bigtiff
    )
    image = DecodedImage([], "tiff", meta)
    image.remark(*losses(pages))
    layouts: list[TiffLayout] = []
    by_pillow = PillowPages(source, pages)
    for index, page in enumerate(pages):
        if page.photometric == MASK and image.pages:
            _take_mask(page, image, layouts)
            continue
        stack: list[Array | None] = [*_stack(tif, pages, source)] or [None]
        layout = _layout(tif, page)
        for array in stack:
            rows = rows_of(page, source) if array is None and len(pages) == 1 else None
            if rows is not None:
                found = [Page(cast(Array, rows))]
            elif array is None:
                found = decoded(page, index, source, image, by_pillow)
            else:
                found = arranged(array, page, source, image)
            image.pages += found
            layouts += [replace(layout, bands=len(found)), *[replace(layout, tags=(), bands=0)] * (len(found) - 1)]
            layout = replace(layout, tags=())
    meta.tiff = tuple(layouts)
    meta.dpi = _dpi(layouts[0])
    if tif.is_bigtiff and exif.EXIF_IFD in first.tags:
        image.remark("The EXIF of a BigTIFF is not kept.")
    return image


def _take_mask(page: TiffPage, image: DecodedImage, layouts: list[TiffLayout]) -> None:
    """GDAL's masks, and those of libtiff: where they are 0 the page before has no image."""
    last = image.pages[-1]
    if last.alpha is not None or last.pixels.shape[:2] != (page.imagelength, page.imagewidth):
        image.remark("A transparency mask that does not fit its page was dropped.")
        return
    kind: np.dtype[Any] = last.pixels.dtype
    opaque = 1 if kind.kind == "f" else np.iinfo(kind).max
    last.alpha = (page.asarray().reshape(last.pixels.shape[:2]) != 0).astype(kind) * kind.type(opaque)
    layouts[-1] = replace(layouts[-1], mask=True)


def _stack(tif: TiffFile, pages: list[TiffPage], source: ImageBytes) -> list[Array]:
    """The slices of a stack of which only the first has a directory; else nothing.

    ImageJ writes so beyond 4 GB, and MetaMorph always.
    """
    whole = tif.is_imagej or tif.is_shaped or tif.is_stk
    if len(pages) > 1 or not whole or tif.series[0].size <= pages[0].size:
        return []
    if tif.series[0].nbytes > tif.filehandle.size:
        raise source.damaged(f"it breaks off after {tif.filehandle.size} bytes")
    source.admit(pages[0].imagewidth, pages[0].imagelength, tif.series[0].size // pages[0].samplesperpixel)
    return list(tif.series[0].asarray().reshape(-1, *pages[0].shaped))


def _raw(tif: TiffFile, page: TiffPage, code: int) -> bytes | None:
    """A tag's value as it lies in the file."""
    tag = page.tags.get(code)
    if tag is None:
        return None
    tif.filehandle.seek(tag.valueoffset)
    return bytes(tif.filehandle.read(tag.valuebytecount))


def _layout(tif: TiffFile, page: TiffPage) -> TiffLayout:
    converted = page.photometric in (CMYK, *LABS)  # their profile describes other colours
    own = () if page.index == 0 else (XMP,) if converted else (XMP, ICC)  # the first's are `Metadata`'s
    found = ((tag, _raw(tif, page, tag.code) or b"") for tag in kept(page, own))
    tags = tuple((tag.code, int(tag.dtype), tag.count, raw) for tag, raw in found if len(raw) == tag.valuebytecount > 0)
    name = getattr(page.compression, "name", str(page.compression)).lower()
    return TiffLayout(
        tags,
        _resolution(page),
        COMPRESSIONS.get(int(page.compression), name),
        page.predictor in (2, 3),
        tuple(EXTRA.get(int(each), "unspecified") for each in page.extrasamples) or ("unassalpha",),
    )


def _dpi(layout: TiffLayout) -> tuple[float, float] | None:
    if not layout.resolution or layout.resolution[2] not in (INCH, CENTIMETRE):
        return None
    scale = 1.0 if layout.resolution[2] == INCH else 2.54
    return float(Fraction(*layout.resolution[0])) * scale, float(Fraction(*layout.resolution[1])) * scale


def _resolution(page: TiffPage) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    found = [page.tags.valueof(code) for code in (X_RESOLUTION, Y_RESOLUTION)]
    if not all(isinstance(each, tuple) and len(each) == 2 and all(each) for each in found):
        return None
    across, down = (Fraction(*each) for each in found)
    unit = int(page.tags.valueof(RESOLUTION_UNIT, INCH))
    if unit not in UNITS or (unit == NO_UNIT and across == down == 1):  # what is written where nothing is known
        return None
    return across.as_integer_ratio(), down.as_integer_ratio(), unit


def _exif(source: ImageBytes, image: DecodedImage) -> bytes | None:
    """EXIF as other formats hold it, gathered from the tags and sub-directories of the first page."""
    if image.metadata.bigtiff:
        return None
    try:
        block = exif.gathered(source.stream, image.metadata.byteorder, exif.MAIN_TAGS)
    except (struct.error, RecursionError):
        image.remark("The EXIF could not be read: dropped.")
        return None
    return exif.tidied(block, *image.size) if block else None
