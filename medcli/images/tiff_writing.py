"""Writing TIFF: page after page by tifffile, then EXIF, for which tifffile has no place, is appended and linked."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from tifffile import TiffWriter

from medcli.errors import OutputError
from medcli.images import exif
from medcli.images.decoded_image import ByteOrder, DecodedImage, Page, TiffLayout
from medcli.images.raster import Array, interleaved
from medcli.images.rows import Rows, rows_in

ROOM = 2**32 - 2**25  # bytes that classic TIFF can address, less some for the tags
NAMES = {exif.EXIF_IFD: "ExifTag", exif.GPS_IFD: "GPSTag"}  # tifffile refuses these two by number
SUBFILE, DESCRIPTION, XMP = 254, 270, 700
BYTE, LONG, RATIONALS = 1, 4, (5, 10)
UNIT, UNITS, INCH = 296, (1, 2, 3), 2
COMPRESSIONS = (None, "zlib", "lzma", "lzw", "packbits", "zstd")  # without loss, and read by libtiff too
TILE = 256  # side in pixels of the tiles of large images
PACKED_AT_ONCE = 8 << 20  # bytes of tiles
MASK_FILE = 4  # bit of NewSubfileType

Tag = tuple[int | str, int, int, Any, bool]


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write every page, uint8, uint16 or float32, in the byte order and with the packing of the source."""
    meta = image.metadata
    mark: ByteOrder = meta.byteorder if meta.tiff else (exif.order(meta.exif or b"") or "<")
    big = meta.bigtiff or sum(page.pixels.nbytes * 4 // 3 for page in image.pages) > ROOM
    block = linkable(image, mark, big)
    layouts = meta.tiff or tuple(_new_layout(image, mark) for _ in image.pages)
    try:
        with TiffWriter(stream, byteorder=mark, bigtiff=big) as writer:
            for data, options in _series(image, layouts, mark):
                options["extratags"] += links(block) if stream.tell() <= 16 else []
                writer.write(data, **options)
    except (ValueError, struct.error) as error:
        raise OutputError(f"The image cannot be written as TIFF: {error}.", "Write PNG.") from None
    if block:
        attach(stream, block, mark)


def _series(
    image: DecodedImage, layouts: tuple[TiffLayout, ...], mark: ByteOrder
) -> Iterator[tuple[Array | Iterator[Array], dict[str, Any]]]:
    """What is written in one go, with its options: a page, or the whole stack where ImageJ expects it in one block."""
    first = image.pages[0]
    if _is_imagej_stack(image, layouts):
        options = _options(image, first, layouts[0], mark, True)
        options["shape"] = (len(image.pages), *_samples(first, mark).shape)
        options["dtype"] = first.pixels.dtype.newbyteorder(mark)
        yield (_samples(page, mark) for page in image.pages), options
        return
    for at, group in _groups(image, layouts):
        last = replace(group[-1], alpha=None) if layouts[at + len(group) - 1].mask else group[-1]
        options = _options(image, group[0] if len(group) > 1 else last, layouts[at], mark, at == 0)
        if len(group) > 1:
            options |= _band_options(group, layouts[at])
        if (rows := rows_in(last.pixels)) is not None:
            yield _pieces(rows, mark, options), options
            continue
        samples = [_samples(page, mark) for page in (*group[:-1], last)]
        yield samples[0] if len(group) == 1 else np.dstack(samples), options
        if last is not group[-1] and group[-1].alpha is not None:
            yield group[-1].alpha != 0, _mask_options(options)


def _pieces(pixels: Rows, mark: ByteOrder, options: dict[str, Any]) -> Iterator[Array]:
    """Bands of a large image, or its tiles where it is packed: tifffile takes no strips one by one."""
    options["shape"], options["dtype"] = pixels.shape, pixels.dtype.newbyteorder(mark)
    if options["compression"]:
        options |= {"tile": (TILE, TILE), "buffersize": PACKED_AT_ONCE}
    order = options["dtype"]

    def pieces() -> Iterator[Array]:
        for top in range(0, len(pixels), TILE):
            band = pixels[top : top + TILE].astype(order, copy=False)
            lefts = range(0, pixels.shape[1], TILE) if options["compression"] else ()
            yield from (np.ascontiguousarray(band[:, left : left + TILE]) for left in lefts)
            if not lefts:
                yield np.ascontiguousarray(band)

    return pieces()


def _groups(image: DecodedImage, layouts: tuple[TiffLayout, ...]) -> Iterator[tuple[int, list[Page]]]:
    """Where each page of the file begins among the pages of the image, of which several may be its bands."""
    at = 0
    while at < len(image.pages):
        group = image.pages[at : at + layouts[at].bands]
        kinds = {(page.pixels.shape, page.pixels.dtype) for page in group}
        loose = len(kinds) != 1 or group[0].pixels.ndim != 2 or any(page.alpha is not None for page in group[:-1])
        group = image.pages[at : at + 1] if loose else group
        yield at, group
        at += len(group)


def _band_options(group: list[Page], layout: TiffLayout) -> dict[str, Any]:
    """RGB with further samples where it was so, else gray with as many as there are."""
    samples = len(group) + (group[-1].alpha is not None)
    if samples - len(layout.extrasamples) == 3:
        return {"photometric": "rgb", "planarconfig": "contig", "extrasamples": list(layout.extrasamples)}
    further = [*["unspecified"] * (samples - 1), *layout.extrasamples[-1:]][1 - samples :]
    return {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": further}


def _mask_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the page that holds the mask of the page written with `options`."""
    plain: dict[str, Any] = {
        "photometric": "mask",
        "compression": "zlib",
        "metadata": None,
        "software": False,
        "extratags": [],
    }
    return {**plain, "subfiletype": (options["subfiletype"] or 0) | MASK_FILE}


def _is_imagej_stack(image: DecodedImage, layouts: tuple[TiffLayout, ...]) -> bool:
    named = any(tag[0] == DESCRIPTION and tag[3].startswith(b"ImageJ=") for tag in layouts[0].tags)
    kinds = {(page.pixels.shape, page.pixels.dtype, page.alpha is None) for page in image.pages}
    return named and len(image.pages) > 1 and len(kinds) == 1 and not any(each.compression for each in layouts)


def _samples(page: Page, mark: ByteOrder) -> Array:
    block = interleaved(page, slice(None))
    return block.astype(block.dtype.newbyteorder(mark), copy=False)


def _options(image: DecodedImage, page: Page, layout: TiffLayout, mark: ByteOrder, first: bool) -> dict[str, Any]:
    """The arguments of tifffile's write for one page, the `first` of its file or another."""
    meta = image.metadata
    tags: list[Tag] = [as_extra(each, mark) for each in layout.tags if each[0] != SUBFILE]
    if meta.xmp and first:
        tags.append((XMP, BYTE, len(meta.xmp), meta.xmp, True))
    compression = layout.compression if layout.compression in COMPRESSIONS else "zlib"
    if compression != layout.compression:
        image.remark(f"TIFF compression {layout.compression} is read only: Deflate was used.")
    options: dict[str, Any] = {
        "photometric": "rgb" if page.pixels.ndim == 3 else "minisblack",
        "planarconfig": None if page.pixels.ndim == 2 and page.alpha is None else "contig",
        "extrasamples": [] if page.alpha is None else list(layout.extrasamples[:1]),
        "compression": compression,
        "compressionargs": {"level": 1} if compression == "zlib" else None,
        "predictor": bool(layout.predictor) and compression not in (None, "packbits"),
        "iccprofile": meta.icc if first else None,
        "subfiletype": next((_number(each, mark) for each in layout.tags if each[0] == SUBFILE), None),
        "metadata": None,
        "software": False,
        "extratags": tags,
    }
    if layout.resolution:
        options |= {"resolution": layout.resolution[:2], "resolutionunit": layout.resolution[2]}
    return options


def _number(tag: tuple[int, int, int, bytes], mark: ByteOrder) -> int:
    return int.from_bytes(tag[3], "little" if mark == "<" else "big")


def as_extra(tag: tuple[int, int, int, bytes], mark: ByteOrder) -> Tag:
    """A tag with its bytes as tifffile wants it."""
    code, kind, count, raw = tag
    value = struct.unpack(f"{mark}{2 * count}{'I' if kind == RATIONALS[0] else 'i'}", raw) if kind in RATIONALS else raw
    return code, kind, count, value, True


def _new_layout(image: DecodedImage, mark: ByteOrder) -> TiffLayout:
    """The layout for an image that came from another format: with what TIFF keeps among its own tags.

    That is the caption, camera, date and orientation of EXIF, and its resolution where the format itself states none.
    """
    dpi, held = image.metadata.dpi, main_tags(image.metadata.exif, mark)
    tags = tuple(each for each in held if each[0] in (DESCRIPTION, *exif.MAIN_TAGS))
    across, down = ((round(value * 1000), 1000) for value in dpi) if dpi else ((1, 1), (1, 1))
    return TiffLayout(tags, (across, down, INCH) if dpi else _resolution(held, mark), "zlib", predictor=True)


def main_tags(block: bytes | None, mark: ByteOrder) -> list[exif.Tag]:
    try:
        first = struct.unpack_from(f"{mark}I", block or b"", 4)[0]
        return exif.values(io.BytesIO(block or b""), first, mark)
    except struct.error:
        return []


def _resolution(held: list[exif.Tag], mark: ByteOrder) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    fractions = {
        code: struct.unpack(f"{mark}II", raw) for code, kind, _, raw in held if kind == exif.RATIONAL and len(raw) == 8
    }
    unit = next((_number(each, mark) for each in held if each[0] == UNIT), INCH)
    across, down = (fractions.get(code, (0, 0)) for code in exif.RESOLUTIONS)
    return (across, down, unit) if all((*across, *down)) and unit in UNITS else None


def linkable(image: DecodedImage, mark: ByteOrder, big: bool) -> bytes | None:
    """The EXIF block, where it has directories that this TIFF can link to."""
    block = image.metadata.exif
    if not block:
        return None
    try:
        places = exif.moved(block, 0)[1]
    except (struct.error, RecursionError):
        image.remark("The EXIF could not be read: dropped.")
        return None
    if places and not big and exif.order(block) == mark:
        return block
    if places:
        image.remark("EXIF cannot be linked to in this TIFF: dropped.")
    return None


def links(block: bytes | None) -> list[Tag]:
    """Placeholders for the links, to be filled in when it is known where the block lies."""
    places = exif.moved(block, 0)[1] if block else {}
    return [(NAMES[code], LONG, 1, 0, True) for code in places]


def attach(stream: BinaryIO, block: bytes, mark: ByteOrder) -> None:
    """Append the block and fill in the links in the first directory."""
    base = stream.seek(0, 2)
    base += stream.write(b"\0" * (base % 2))
    shifted, places = exif.moved(block, base)
    stream.write(shifted)
    stream.seek(4)
    (first,) = struct.unpack(f"{mark}I", stream.read(4))
    stream.seek(first)
    (count,) = struct.unpack(f"{mark}H", stream.read(2))
    stream.seek(first)
    for entry in exif.directory(stream.read(2 + 12 * count), 0, mark)[0]:
        if entry.tag in places:
            stream.seek(first + entry.at)
            stream.write(struct.pack(f"{mark}I", places[entry.tag]))
