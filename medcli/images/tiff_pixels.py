"""The samples of one TIFF page as gray or RGB pages: tifffile and imagecodecs unpack them, Pillow fax and old JPEG.

What has too many samples for gray or RGB with alpha becomes one gray page for each of its bands.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageFile
from tifffile import TiffPage

from medcli.images import exif
from medcli.images.decoded_image import DecodedImage, Page
from medcli.images.pillow import DAMAGE as PILLOW_DAMAGE
from medcli.images.pillow import opened_as, page_of
from medcli.images.raster import Array
from medcli.images.source import ImageBytes
from medcli.images.tiff_structure import RATIOS
from medcli.images.tiff_tags import ICC

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
LABS = (CIELAB, ICCLAB)
PHOTOMETRIC, INK_SET, INKS_OF_CMYK = 262, 332, 1
ALPHAS = (1, 2)  # further samples that are said to be alpha, associated or not
DEPTHS = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
FAX, OLD_JPEG, UPRIGHT = (2, 3, 4), 6, 1
JPEGS = (7, 33007)  # their YCbCr is RGB once unpacked
MOST_BANDS = 4096
WITH_ALPHA = {RGB: (3, 4), YCBCR: (3, 4), WHITE_IS_ZERO: (1, 2), BLACK_IS_ZERO: (1, 2), MASK: (1,)}
SAMPLES = {
    **{RGB: range(3, MOST_BANDS), YCBCR: (3, 4), PALETTE: (1,), MASK: (1,), CMYK: range(1, MOST_BANDS)},
    **{WHITE_IS_ZERO: (1, 2), BLACK_IS_ZERO: range(1, MOST_BANDS), CIELAB: (3, 4), ICCLAB: (3, 4)},
}

# D50, the white of CIELAB in TIFF, and XYZ of D50 to linear sRGB, adapted after Bradford
D50 = (0.96422, 1.0, 0.82521)
TO_SRGB = ((3.1338561, -1.6168667, -0.4906146), (-0.9787684, 1.9161415, 0.0334540), (0.0719453, -0.2289914, 1.4052427))


def decoded(page: TiffPage, index: int, source: ImageBytes, image: DecodedImage, by_pillow: PillowPages) -> list[Page]:
    """What the page at `index` holds. Notes on conversions go to `image`. Raises InputError for other kinds."""
    differences = page.photometric == YCBCR and page.compression not in JPEGS
    if page.compression in (*FAX, OLD_JPEG) or (differences and page.compression in RATIOS):
        return [by_pillow.page(index, image)]
    samples = SAMPLES.get(page.photometric, range(0))
    inks_or_lab = page.photometric in (CMYK, *LABS) and str(page.dtype) not in ("uint8", "uint16")
    unknown = str(page.dtype) not in DEPTHS or page.samplesperpixel not in samples or page.imagedepth > 1
    if unknown or differences or inks_or_lab:
        kind = f"{page.samplesperpixel} x {page.bitspersample}-bit {page.dtype}"
        raise source.unfit(
            f"page {index + 1} is of the kind {kind}, {getattr(page.photometric, 'name', page.photometric)}",
            "Convert it to gray or RGB, with 8 or 16 bits or float.",
        )
    return arranged(page.asarray(), page, source, image)


def completed(page: TiffPage) -> list[str]:
    """Says of a page without the tag that should tell what samples mean: black is zero, or three of them are RGB."""
    if PHOTOMETRIC in page.tags or page.compression == OLD_JPEG:
        return []
    page.photometric = RGB if page.samplesperpixel > 2 else BLACK_IS_ZERO
    return [f"It does not say what its samples mean: taken for {'RGB' if page.photometric == RGB else 'gray'}."]


def arranged(array: Array, page: TiffPage, source: ImageBytes, image: DecodedImage) -> list[Page]:
    """Samples as tifffile gives them, planes or pixels first, as pages."""
    planes, _, height, width, samples = page.shaped
    array = array.reshape(planes, height, width, samples)
    array = array[0] if planes == 1 else np.moveaxis(array[..., 0], 0, -1)
    if page.photometric == PALETTE:
        image.remark("Palette colours were converted to RGB.")
        return [Page(_looked_up(array[:, :, 0], page))]
    array = _deepened(array, page, image)
    if page.photometric == CMYK and array.shape[2] in (4, 5) and page.tags.valueof(INK_SET, INKS_OF_CMYK) == 1:
        return [_from_cmyk(array, page, source, image)]
    if page.photometric in LABS:
        return [_from_lab(array, page, image)]
    if page.photometric == WHITE_IS_ZERO:
        image.remark("Gray that counts from white was turned to count from black.")
        array = np.concatenate([_negative(array[:, :, :1], page.bitspersample), array[:, :, 1:]], axis=2)
    if array.shape[2] in WITH_ALPHA.get(page.photometric, ()):
        if 0 in page.extrasamples:
            image.remark("A further sample of no stated meaning is kept as it is.")
        return [_split(array, 3 if array.shape[2] > 2 else 1)]
    return _bands(array, page, image)


def _deepened(array: Array, page: TiffPage, image: DecodedImage) -> Array:
    """Samples of fewer than 8 bits are stretched to 8, others keep their values."""
    bits = page.bitspersample
    if bits == 1 and page.photometric != MASK:
        image.remark("1-bit black and white was converted to 8-bit gray.")
    elif isinstance(bits, int) and bits < 8:
        image.remark(f"{bits}-bit gray was converted to 8-bit.")
    if isinstance(bits, int) and bits < 8:
        full = 2**bits - 1
        stretched: Array = ((array.astype(np.uint16) * 255 + full // 2) // full).astype(np.uint8)
        return stretched
    if bits != array.dtype.itemsize * 8:
        image.remark(f"{bits}-bit samples become {array.dtype.itemsize * 8}-bit ones of the same values.")
    return array


def _split(array: Array, colours: int) -> Page:
    alpha = np.ascontiguousarray(array[:, :, colours]) if array.shape[2] > colours else None
    return Page(np.ascontiguousarray(array[:, :, :3] if colours == 3 else array[:, :, 0]), alpha)


def _bands(array: Array, page: TiffPage, image: DecodedImage) -> list[Page]:
    """A gray page for each band; a last band that is alpha belongs to the one before it."""
    has_alpha = page.extrasamples and page.extrasamples[-1] in ALPHAS
    image.remark(f"Its {array.shape[2]} bands are treated one by one, as gray.")
    pages = [Page(np.ascontiguousarray(array[:, :, band])) for band in range(array.shape[2])]
    if has_alpha and len(pages) > 1:
        alpha = pages.pop().pixels
        pages[-1].alpha = alpha
    return pages


def _negative(values: Array, bits: int) -> Array:
    if values.dtype.kind == "f":
        return 1 - values
    return (2**bits - 1 - values).astype(values.dtype) if 8 < bits < 16 else ~values


def _looked_up(indices: Array, page: TiffPage) -> Array:
    """(H, W, 3) uint8 of a palette of 16-bit colours; some old programs write 8-bit ones."""
    table = np.asarray(page.colormap)
    table = table >> 8 if table.max(initial=0) > 255 else table
    return np.ascontiguousarray(table.T.astype(np.uint8)[indices])


def _from_cmyk(array: Array, page: TiffPage, source: ImageBytes, image: DecodedImage) -> Page:
    if array.dtype == np.uint16:
        image.remark("16-bit CMYK was converted by way of 8 bit.")
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pillow_image = Image.frombytes("CMYK", array.shape[1::-1], np.ascontiguousarray(array[:, :, :4]).tobytes())
    result, lines = page_of(pillow_image, source, page.tags.valueof(ICC))
    _drop_profile(page, image)
    image.remark(*lines)
    result.alpha = np.ascontiguousarray(array[:, :, 4]) if array.shape[2] > 4 else None
    return result


def _drop_profile(page: TiffPage, image: DecodedImage) -> None:
    """The profile describes what was converted; further pages' are left out with their tags."""
    if page.index == 0:
        image.metadata.icc = None


def _from_lab(array: Array, page: TiffPage, image: DecodedImage) -> Page:
    """sRGB in the same depth from CIELAB of 8 or 16 bits, with a and b signed, or counted from the middle (ICC)."""
    image.remark("CIELAB was converted to sRGB.")
    _drop_profile(page, image)
    full = np.iinfo(array.dtype).max
    unit = (full + 1) / 256
    white = float(full) if page.photometric == CIELAB or full == 255 else 65280.0
    light = array[:, :, 0] * np.float32(100 / white)
    signed = array[:, :, 1:3] ^ array.dtype.type(0 if page.photometric == ICCLAB else (full + 1) // 2)
    a, b = np.moveaxis(signed.astype(np.float32) / np.float32(unit) - 128, -1, 0)
    height = (light + 16) / 116
    curve = np.stack([height + a / 500, height, height - b / 200], axis=-1)
    xyz = np.where(curve > 6 / 29, curve**3, (curve - 4 / 29) * (3 * (6 / 29) ** 2)) * np.array(D50, np.float32)
    linear = np.clip(xyz @ np.array(TO_SRGB, np.float32).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    alpha = np.ascontiguousarray(array[:, :, 3]) if array.shape[2] > 3 else None
    return Page(np.rint(np.clip(encoded, 0, 1) * full).astype(array.dtype), alpha)


class PillowPages:
    """The pages of one file as Pillow opens it, once for all of them, said to be upright: it would turn the pixels."""

    def __init__(self, source: ImageBytes, pages: list[TiffPage]) -> None:
        self._source, self._pages = source, pages
        self._image: ImageFile.ImageFile | None = None

    def page(self, index: int, image: DecodedImage) -> Page:
        if self._image is None:
            self._image = opened_as("TiffImagePlugin:TiffImageFile", self._upright(), self._source)
        try:
            self._image.seek(index)
        except PILLOW_DAMAGE as error:
            raise self._source.damaged(str(error)) from None
        result, lines = page_of(self._image, self._source)
        image.remark(*lines)
        return result

    def _upright(self) -> bytes | None:
        tags = [page.tags[exif.ORIENTATION] for page in self._pages if exif.ORIENTATION in page.tags]
        turned = [tag for tag in tags if tag.valuebytecount == 2 and tag.value != UPRIGHT]
        if not turned:
            return None
        data = bytearray(self._source.content())
        mark = "<" if data[:2] == b"II" else ">"
        for tag in turned:
            struct.pack_into(f"{mark}H", data, tag.valueoffset, UPRIGHT)
        return bytes(data)
