"""FITS: single planes of any of its types; cubes as pages. Read and written by astropy."""

from __future__ import annotations

import io
import warnings
from typing import Any, BinaryIO

import numpy as np

from medcli.errors import InputError, OutputError
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.plugins import plugin
from medcli.images.source import ImageBytes

HEADER = b"fits"  # kind of the block of `Metadata.native` that holds the header, card by card
LARGEST = 2**31 - 1


def decode(source: ImageBytes) -> DecodedImage:
    """The first image of the file, a page for each plane. Integers with BZERO come as unsigned.

    Raises InputError for a damaged file, one without an image, or with more than three axes.
    """
    fits = plugin("astropy.io.fits", "astropy", "FITS", InputError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(source.content()), memmap=False, ignore_blank=True) as units:
                return _image(units, source)
    except (OSError, ValueError, TypeError, LookupError, fits.VerifyError):
        raise source.damaged("its header or data are not complete") from None


def _image(units: Any, source: ImageBytes) -> DecodedImage:
    unit = next((each for each in units if each.is_image and each.header["NAXIS"] >= 2), None)
    if unit is None:
        raise source.unfit("it holds no image", "Tables are not images.")
    sides = [int(unit.header[f"NAXIS{number}"]) for number in range(1, unit.header["NAXIS"] + 1)]
    if len(sides) > 3 and any(side > 1 for side in sides[3:]):
        raise source.unfit(f"it has {len(sides)} axes", "Split it into images or cubes first.")
    source.admit(sides[0], sides[1], int(np.prod(sides)), most=source.most_pixels(len(source.content())))
    array = np.asarray(unit.data)
    array = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(-1, sides[1], sides[0])
    header = b"" if unit.header is None else unit.header.tostring(sep="\n").encode("ascii", "replace")
    meta = Metadata(native=((HEADER, header),), lossless=True)
    blank = unit.header.get("BLANK") if array.dtype.kind in "iu" else None
    pages = [Page(np.ascontiguousarray(plane[::-1]), nodata=blank) for plane in array]  # the first row is the lowest
    image = DecodedImage(pages, "fits", meta)
    if len(units) > 1:
        image.remark(f"Of {len(units)} parts of the file, the first image is kept.")
    return image


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """One plane or a cube, in the type of the pixels, with the cards of the source. Colour becomes three planes."""
    fits = plugin("astropy.io.fits", "astropy", "FITS", OutputError)
    if image.pages[0].pixels.ndim == 3:
        image.remark("FITS knows no colour: red, green and blue were written as planes.")
    planes = [plane for page in image.pages for plane in _planes(page)]
    array = np.stack(planes) if len(planes) > 1 else planes[0]
    cards = next((content for kind, content in image.metadata.native if kind == HEADER), b"")
    header = fits.Header.fromstring(cards.decode("ascii"), sep="\n") if cards else None
    for name in ("BZERO", "BSCALE", "SIMPLE", "XTENSION", "EXTEND", "PCOUNT", "GCOUNT", "CHECKSUM", "DATASUM"):
        if header is not None:
            header.remove(name, ignore_missing=True, remove_all=True)
    packed = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.PrimaryHDU(array, header).writeto(packed, output_verify="silentfix")
    stream.write(packed.getbuffer())


def _planes(page: Page) -> list[Any]:
    pixels = page.pixels if page.pixels.ndim == 3 else page.pixels[:, :, None]
    return [pixels[::-1, :, channel] for channel in range(pixels.shape[2])]
