"""TIFF: every page, 8 and 16 bit and 32-bit float, with the tags that still hold for new pixels.

tifffile reads and writes; Pillow and OpenCV, which bring libtiff, read the compressions that tifffile leaves to others.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from fractions import Fraction

import cv2
import numpy as np
from tifffile import TiffFile, TiffFileError, TiffPage

from medcli.images import exif
from medcli.images.picture import Metadata, Page, Picture, TiffLayout
from medcli.images.pillow import DAMAGE as PILLOW_DAMAGE
from medcli.images.pillow import opened_as, page_of
from medcli.images.raster import Array, from_bgr
from medcli.images.source import Source
from medcli.images.tiff_writing import encode

__all__ = ["decode", "encode"]

DAMAGE = (
    *(TiffFileError, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError, RuntimeError),
)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COMPRESSIONS = {1: None, 8: "zlib", 32946: "zlib", 34925: "lzma", 32773: "packbits", 5: "lzw"}
OURS = (1, 8, 32946, 34925, 32773)  # compressions that tifffile opens by itself
DEPTHS = {"uint8": "uint8", "uint16": "uint16", "float16": "float32", "float32": "float32", "float64": "float32"}
EXTRA = {0: "unspecified", 1: "assocalpha", 2: "unassalpha"}
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, EXTRA_SAMPLES, XMP, ICC = 282, 283, 296, 338, 700, 34675
UPRIGHT, UNASSOCIATED, PLANES = 1, 2, 2
NO_UNIT, INCH, CENTIMETRE = 1, 2, 3
# Kept word for word: names, dates, orientation; georeference, nodata; ImageJ, Micro-Manager; IPTC, Photoshop.
KEPT = (
    *(254, 269, 270, 271, 272, 274, 285, 297, 305, 306, 315, 316, 33432),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
    *(50838, 50839, 51123, 33723, 34377),
)


def decode(source: Source) -> Picture:
    """A `Picture` of every page. Raises InputError for damage, and for kinds such as CFA or signed integers."""
    try:
        with TiffFile(source.stream) as tif:
            pages = [page for page in tif.pages if isinstance(page, TiffPage)]
            _admit(pages, source)
            picture = Picture([], "tiff", _metadata(tif, pages))
            if tif.is_bigtiff and exif.EXIF_IFD in pages[0].tags:
                picture.remark("The EXIF of a BigTIFF is not kept.")
            stack = _stack(tif, pages)
            for index, page in enumerate(pages):
                picture.pages += [_plain(array, page) for array in stack] or [_page(page, index, source, picture)]
    except DAMAGE as error:
        raise source.damaged(str(error).rstrip(".") or type(error).__name__) from None
    picture.metadata.exif = _exif(source, picture)
    return picture


def _admit(pages: list[TiffPage], source: Source) -> None:
    if not pages:
        raise source.damaged("it has no pages")
    total = sum(page.imagewidth * page.imagelength * page.imagedepth for page in pages)
    source.stream.seek(0, 2)
    size = source.stream.tell()
    for page in pages:
        source.admit(page.imagewidth, page.imagelength, total)
        ends = (at + length for at, length in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=size + 1) > size:
            raise source.damaged(f"it breaks off after {size} bytes")


def _stack(tif: TiffFile, pages: list[TiffPage]) -> list[Array]:
    """The slices of a stack of which only the first has a directory, as ImageJ writes beyond 4 GB; else nothing."""
    if len(pages) > 1 or not (tif.is_imagej or tif.is_shaped) or tif.series[0].size <= pages[0].size:
        return []
    return list(tif.series[0].asarray().reshape(-1, *pages[0].shaped))


def _page(page: TiffPage, index: int, source: Source, picture: Picture) -> Page:
    bits = page.bitspersample
    if page.photometric in (PALETTE, CMYK, YCBCR) or bits == 1:
        return _by_pillow(page, index, source, picture)
    depth = str(page.dtype)
    samples = {WHITE_IS_ZERO: (1, 2), BLACK_IS_ZERO: (1, 2), RGB: (3, 4)}.get(page.photometric, ())
    if depth not in DEPTHS or bits != np.dtype(depth).itemsize * 8 or page.samplesperpixel not in samples:
        kind = f"{page.samplesperpixel} x {bits}-bit {depth}, {getattr(page.photometric, 'name', page.photometric)}"
        raise source.unfit(
            f"page {index + 1} is of the kind {kind}",
            "Gray and RGB, with alpha or without, in uint8, uint16 or float are read; develop raw files first.",
        )
    if 0 in page.extrasamples:
        picture.remark("A further sample of no stated meaning is kept as it is.")
    if page.compression in OURS and page.predictor in (1, 2):
        result = _plain(page.asarray(), page)
    elif depth == "uint8" and (page.photometric == RGB or page.planarconfig != PLANES):
        return _by_pillow(page, index, source, picture)
    else:
        result = _by_opencv(page, index, source)
    if depth != DEPTHS[depth]:
        picture.remark(f"{depth} was converted to {DEPTHS[depth]}.")
    if page.photometric == WHITE_IS_ZERO:
        picture.remark("Gray that counts from white was turned to count from black.")
        result.pixels = _negative(result.pixels)
    return result


def _negative(values: Array) -> Array:
    return 1 - values if values.dtype.kind == "f" else np.iinfo(values.dtype).max - values


def _plain(array: Array, page: TiffPage) -> Page:
    """Samples as tifffile gives them, planes or pixels first, as a page."""
    planes, _, height, width, samples = page.shaped
    array = array.reshape(planes, height, width, samples)
    array = array[0] if planes == 1 else np.moveaxis(array[..., 0], 0, -1)
    depth = DEPTHS[str(page.dtype)]
    colours = 3 if page.photometric == RGB else 1
    alpha = np.ascontiguousarray(array[:, :, colours], depth) if array.shape[2] > colours else None
    return Page(np.ascontiguousarray(array[:, :, :3] if colours == 3 else array[:, :, 0], depth), alpha)


def _by_pillow(page: TiffPage, index: int, source: Source, picture: Picture) -> Page:
    image = opened_as("TiffImagePlugin:TiffImageFile", _as_stored(page, source), source)
    try:
        image.seek(index)
    except PILLOW_DAMAGE as error:
        raise source.damaged(str(error)) from None
    result, lines = page_of(image, source, picture.metadata.icc)
    if page.photometric == CMYK:
        picture.metadata.icc = None  # it describes the inks
    picture.remark(*lines)
    return result


def _as_stored(page: TiffPage, source: Source) -> bytes | None:
    """The file with the page said to be upright and its further sample to be plain alpha, where they are not.

    Both libraries would turn the pixels, and divide colour by associated alpha or leave a sample out.
    """
    wanted = {exif.ORIENTATION: UPRIGHT}
    if page.photometric in (BLACK_IS_ZERO, RGB):
        wanted[EXTRA_SAMPLES] = UNASSOCIATED
    found = [(page.tags[code], value) for code, value in wanted.items() if code in page.tags]
    wrong = [(tag, value) for tag, value in found if tag.valuebytecount == 2 and tag.value not in (value, (value,))]
    if not wrong:
        return None
    data = bytearray(source.content())
    for tag, value in wrong:
        struct.pack_into(f"{page.parent.byteorder}H", data, tag.valueoffset, value)
    return bytes(data)


def _by_opencv(page: TiffPage, index: int, source: Source) -> Page:
    data = _as_stored(page, source) or source.content()
    try:
        done, arrays = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(index, index + 1))
    except cv2.error:
        done, arrays = False, ()
    mixed = page.planarconfig == PLANES and page.samplesperpixel > 1  # OpenCV takes planes for pixels
    shape = arrays[0].shape if done and arrays and not mixed else ()
    if shape[:2] != (page.imagelength, page.imagewidth) or str(arrays[0].dtype) != str(page.dtype):
        raise source.unfit(
            f"page {index + 1} is compressed with {getattr(page.compression, 'name', page.compression)}",
            "Save it without compression, or with Deflate.",
        )
    result = from_bgr(arrays[0])
    depth = DEPTHS[str(page.dtype)]
    return Page(result.pixels.astype(depth, copy=False), None if result.alpha is None else result.alpha.astype(depth))


def _metadata(tif: TiffFile, pages: list[TiffPage]) -> Metadata:
    first = pages[0]
    meta = Metadata(icc=_raw(tif, first, ICC), xmp=_raw(tif, first, XMP))
    meta.byteorder, meta.bigtiff = tif.byteorder, tif.is_bigtiff
    meta.tiff = tuple(_layout(tif, page) for page in pages)
    resolution = meta.tiff[0].resolution
    if resolution and resolution[2] in (INCH, CENTIMETRE):
        scale = 1.0 if resolution[2] == INCH else 2.54
        meta.dpi = (float(Fraction(*resolution[0])) * scale, float(Fraction(*resolution[1])) * scale)
    return meta


def _raw(tif: TiffFile, page: TiffPage, code: int) -> bytes | None:
    """A tag's value as it lies in the file."""
    tag = page.tags.get(code)
    if tag is None:
        return None
    tif.filehandle.seek(tag.valueoffset)
    return bytes(tif.filehandle.read(tag.valuebytecount))


def _layout(tif: TiffFile, page: TiffPage) -> TiffLayout:
    own = () if page.index == 0 else (XMP,) if page.photometric == CMYK else (XMP, ICC)  # the first's are `Metadata`'s
    kept = [page.tags[code] for code in (*KEPT, *own) if code in page.tags]
    tags = tuple((tag.code, int(tag.dtype), tag.count, _raw(tif, page, tag.code) or b"") for tag in kept)
    name = getattr(page.compression, "name", str(page.compression)).lower()
    return TiffLayout(
        tags,
        _resolution(page),
        COMPRESSIONS.get(int(page.compression), name),
        page.predictor == 2,
        EXTRA.get(int(page.extrasamples[0]), "unspecified") if page.extrasamples else "unassalpha",
    )


def _resolution(page: TiffPage) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    found = [page.tags.valueof(code) for code in (X_RESOLUTION, Y_RESOLUTION)]
    if not all(isinstance(each, tuple) and len(each) == 2 and all(each) for each in found):
        return None
    across, down = (Fraction(*each) for each in found)
    unit = int(page.tags.valueof(RESOLUTION_UNIT, INCH))
    if unit == NO_UNIT and across == down == 1:  # what is written where nothing is known
        return None
    return across.as_integer_ratio(), down.as_integer_ratio(), unit


def _exif(source: Source, picture: Picture) -> bytes | None:
    """EXIF as other formats hold it, gathered from the tags and sub-directories of the first page."""
    if picture.metadata.bigtiff:
        return None
    try:
        block = exif.gathered(source.stream, picture.metadata.byteorder, exif.MAIN_TAGS)
    except (struct.error, RecursionError):
        picture.remark("The EXIF could not be read: dropped.")
        return None
    return exif.tidied(block, *picture.size) if block else None
