"""Making an image fit a format that holds less than it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medcli.errors import OutputError
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.encoding import is_srgb
from medcli.images.exif import orientation, upright
from medcli.images.formats import FORMATS
from medcli.images.raster import bands, turned
from medcli.images.raw_file import developed
from medcli.images.recoloured import recoloured
from medcli.images.values import ValueRange, dtype_range

LOSSES = {"icc": "colour profile", "exif": "EXIF", "thumbnail": "thumbnail", "xmp": "XMP", "dpi": "resolution"}
NATIVE: Mapping[int | bytes, str] = {  # what stays behind with its format: tags of TIFF, chunks of PNG, marks of JPEG
    270: "description", 33723: "IPTC", 34377: "Photoshop's blocks",
    50839: "ImageJ's notes", 51123: "Micro-Manager's notes",
    **dict.fromkeys((33550, 33922, 34264, 34735, 34736, 34737), "georeference"),
    **dict.fromkeys((34118, 34680, 34682), "the microscope's notes"), 42112: "GDAL's notes", 42113: "nodata",
    **dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), "text"),
    b"fits": "FITS cards", b"head": "OpenEXR header",
    b"trailer": "further images or video", b"\xfe": "comment", b"\xed": "Photoshop's blocks with IPTC",
}  # fmt: skip
CARRIED = (32781, 33432, 50838)  # image's identity; copyright, which EXIF has too; lengths of ImageJ's notes
SHAPE = b'{"shape": '  # how tifffile describes what needs no description


def fit(image: DecodedImage, name: str) -> DecodedImage:
    """`image` as the format `name` can hold it, with its own notes. Pages that fit already are shared, not copied.

    Raises OutputError as `check` does.
    """
    check(image, name)
    form = FORMATS[name]
    if image.format == "raw" and image.metadata.native and name != "dng":
        image = developed(image)
    image, lines = recoloured(image, name)
    keeps_turn = "exif" in form.carries and not form.upright
    turn = 1 if keeps_turn else orientation(image.metadata.exif)
    pages = [turned(deepened(page, form.depths, image.values), turn) for page in image.pages]
    fitted = DecodedImage(pages, name, image.metadata, lines)
    if form.upright and image.metadata.exif:
        fitted.metadata = replace(image.metadata, exif=upright(image.metadata.exif))
    elif turn != 1:
        fitted.remark(f"{name.upper()} has no orientation tag: the pixels were turned upright.")
    if image.format != name and name != "dng":
        fitted.metadata = replace(fitted.metadata, native=())
    if not form.gray and (image.metadata.icc or b"")[16:20] == b"GRAY":
        fitted.metadata = replace(fitted.metadata, icc=None)
        fitted.remark(f"{name.upper()} cannot hold a colour profile of gray: dropped.")
    if image.metadata.dpi and max(image.metadata.dpi) > form.densest:
        fitted.metadata = replace(fitted.metadata, dpi=None)
        fitted.remark(f"{name.upper()} cannot hold a resolution of {max(image.metadata.dpi):,.0f} dpi: dropped.")
    fitted.remark(*_losses(image, fitted, name))
    return fitted


def check(image: DecodedImage, name: str) -> None:
    """Raises OutputError where something to be seen would be lost: alpha, further pages, a side beyond the limit."""
    form = FORMATS[name]
    is_mosaic = image.format == "raw" and bool(image.metadata.native)
    if name == "dng" and not is_mosaic:
        raise OutputError("DNG is written for raw files with a mosaic of 2 x 2 pixels alone.", "Write TIFF.")
    if is_mosaic:
        return
    for page in image.pages:
        if page.alpha is not None and not form.alpha:
            raise OutputError(f"{name.upper()} cannot hold transparency.", "Write PNG, TIFF or WebP.")
        check_sides(name, *page.pixels.shape[:2])
    if len(image.pages) > 1 and not form.pages:
        raise OutputError(f"{name.upper()} cannot hold {len(image.pages)} pages.", "Write TIFF.")


def check_sides(name: str, height: int, width: int) -> None:
    """Raises OutputError where a side is too long for the format."""
    longest = FORMATS[name].longest
    if max(height, width) > longest:
        problem = f"{name.upper()} holds at most {longest} pixels a side; this image has {width}x{height}."
        raise OutputError(problem, "Write PNG or TIFF.")


def _losses(image: DecodedImage, fitted: DecodedImage, name: str) -> list[str]:
    form, label = FORMATS[name], name.upper()
    lines = []
    if behind := _native(image.metadata) if image.format != name else ():
        lines.append(f"{label} cannot hold what {image.format.upper()} alone has: {', '.join(behind)}: dropped.")
    lost = [field for field in LOSSES if field not in form.carries and getattr(image.metadata, field)]
    dropped = [LOSSES[field] for field in lost if field != "icc" or not is_srgb(image.metadata.icc)]
    if dropped:
        lines.append(f"{label} cannot hold {', '.join(dropped)}: dropped.")
    if not form.gray and any(page.pixels.ndim == 2 for page in image.pages):
        lines.append(f"{label} knows no gray: written as three equal channels.")
    if name == "bmp" and any(page.pixels.ndim == 2 and page.alpha is not None for page in image.pages):
        lines.append("BMP knows no gray with alpha: written as three equal channels and alpha.")
    for before, after in zip(image.pages, fitted.pages, strict=True):
        if (depth := before.pixels.dtype) != after.pixels.dtype:
            span = image.values or dtype_range(depth)
            plain = depth == "uint16" and span == dtype_range(depth)
            what = "16 bit was rounded" if plain else f"{span.words} was clipped and scaled"
            lines.append(f"{label} cannot hold {depth}: {what} to {after.pixels.dtype.itemsize * 8} bit.")
    return lines


def _native(meta: Metadata) -> Iterable[str]:
    blocks: list[tuple[int | bytes, bytes]] = [(tag[0], tag[3]) for layout in meta.tiff for tag in layout.tags]
    blocks += meta.native
    names = ((NATIVE.get(key) or _private(key), content) for key, content in blocks)
    return dict.fromkeys(name for name, content in names if name and not content.startswith(SHAPE))


def _private(key: int | bytes) -> str | None:
    """What to call a tag of TIFF that no table has, if it is a private one."""
    return "private tags" if isinstance(key, int) and key >= 32768 and key not in CARRIED else None


def deepened(page: Page, depths: tuple[str, ...], values: ValueRange | None = None) -> Page:
    """`page` in its own dtype where `depths` has it, else in the last, deepest one of `depths`.

    values: of the pixels; alpha spans its type.
    """
    if str(page.pixels.dtype) in depths:
        return page
    alpha = None if page.alpha is None else rescaled(page.alpha, depths[-1])
    return Page(rescaled(page.pixels, depths[-1], values), alpha)


def rescaled(pixels: NDArray[np.generic], depth: str, values: ValueRange | None = None) -> NDArray[np.generic]:
    """Values of any shape to the integer `depth`, from end to end of it, clipped and rounded; NaN becomes 0.

    values: which become the ends; None for those of their type.
    """
    span, full = values or dtype_range(pixels.dtype), dtype_range(depth)
    result = np.empty(pixels.shape, depth)
    for rows in bands(pixels):
        unit = np.nan_to_num(span.to_unit(pixels[rows]), nan=0.0, posinf=1.0, neginf=0.0)
        result[rows] = full.from_unit(unit.clip(0, 1), depth)
    return result
