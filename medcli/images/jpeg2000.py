"""JPEG 2000: OpenJPEG codes the pixels through imagecodecs; the boxes around them are read and written here.

Sources: ISO/IEC 15444-1 annex I (boxes); the UUIDs of EXIF and XMP are Adobe's and the JPEG 2000 community's.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from medcli.errors import OutputError
from medcli.images import exif, thumbnail
from medcli.images.avif import page_of
from medcli.images.boxes import box, boxes, found
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.depth import narrowed, widened
from medcli.images.pillow import opened_as
from medcli.images.pillow import page_of as pillow_page
from medcli.images.raster import interleaved
from medcli.images.source import ImageBytes

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
EXIF_ID, XMP_ID = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
PLAIN = (16, 17)  # sRGB, gray: of enumerated colour spaces those that need no conversion
INCH = 0.0254


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page. Raises InputError for a damaged file."""
    data = source.content()
    start = data.find(CODESTREAM)
    if start < 0 or len(data) < start + 42:
        raise source.damaged("its header is incomplete")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    channels, size = struct.unpack_from(">HB", data, start + 40)
    bits = (size & 0x7F) + 1
    source.admit(right - left, bottom - top, most=source.most_pixels(len(data)))
    meta = _metadata(data, right - left, bottom - top)
    meta.bits = None if bits in (8, 16) else bits
    if size & 0x80 or bits > 16:
        raise source.unfit(f"it has {'signed ' * (size >> 7)}samples of {bits} bits", "Convert it to TIFF first.")
    colours = [content for content in found(data, b"jp2h", b"colr") if content[:1] == b"\1"]
    odd = colours and int.from_bytes(colours[0][3:7], "big") not in PLAIN
    if odd or found(data, b"jp2h", b"pclr") or channels > 4:
        page, lines = pillow_page(opened_as("Jpeg2KImagePlugin:Jpeg2KImageFile", data, source), source)
        return DecodedImage([page], "jp2", meta, lines)
    try:
        array = np.asarray(imagecodecs.jpeg2k_decode(data[start:]))  # without boxes, or it would apply the profile
    except (RuntimeError, ValueError):
        raise source.damaged("its pixels cannot be unpacked") from None
    return DecodedImage([page_of(widened(array, bits))], "jp2", meta)


def _metadata(data: bytes, width: int, height: int) -> Metadata:
    meta = Metadata()
    coding = data.find(b"\xff\x52")
    meta.lossless = 0 <= coding < len(data) - 13 and data[coding + 13] == 1  # the reversible 5/3 transform
    if not data.startswith(SIGNATURE):
        return meta
    profiles = [content[3:] for content in found(data, b"jp2h", b"colr") if content[:1] == b"\2"]
    meta.icc = profiles[0] if profiles else None
    for content in found(data, b"uuid"):
        if content.startswith(XMP_ID):
            meta.xmp = content[16:]
        elif content.startswith(EXIF_ID):
            block = content[16:]
            meta.exif = exif.upright(exif.tidied(block, width, height))
            meta.thumbnail = thumbnail.size_of(block)
    for content in found(data, b"jp2h", b"res ", b"resc"):
        down, down_by, across, across_by, down_ten, across_ten = struct.unpack(">4H2b", content[:10])
        if down and across and down_by and across_by:
            meta.dpi = (across / across_by * 10**across_ten * INCH, down / down_by * 10**down_ten * INCH)
    return meta


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one upright page: lossless where the source was or came from a lossless format, else in the quality given.

    Raises OutputError where the encoder gives up.
    """
    page, meta = image.pages[0], image.metadata
    bits = meta.bits or 16 if page.pixels.dtype == np.uint16 else 8
    alpha = None if page.alpha is None else narrowed(page.alpha, bits)
    array = interleaved(Page(narrowed(page.pixels, bits), alpha), slice(None))
    level = 0 if quality in (None, 100) else 25 + quality // 2  # dB of PSNR: 70 for the best
    try:
        options: dict[str, Any] = {"codecformat": "jp2", "reversible": not level, "mct": page.pixels.ndim == 3}
        options["bitspersample"] = None if bits in (8, 16) else bits
        packed = bytes(imagecodecs.jpeg2k_encode(array, level, **options))
    except (RuntimeError, ValueError):
        raise OutputError("The image cannot be coded as JPEG 2000.", "Write PNG or TIFF.") from None
    for part in boxes(packed):
        whole = packed[part.start : part.stop]
        if part.kind == b"jp2h":
            whole = box(b"jp2h", _header(packed[part.body : part.stop], meta))
        if part.kind == b"jp2c":
            for name, block in ((EXIF_ID, meta.exif), (XMP_ID, meta.xmp)):
                stream.write(box(b"uuid", name + block) if block else b"")
        stream.write(whole)


def _header(content: bytes, meta: Metadata) -> bytes:
    """The boxes of the header, with the profile and the resolution of `meta`."""
    parts = []
    for part in boxes(content):
        profile = part.kind == b"colr" and meta.icc
        parts.append(box(b"colr", b"\2\0\0" + meta.icc) if profile and meta.icc else content[part.start : part.stop])
    if meta.dpi:
        fractions = [(round(value * 10), 254) for value in meta.dpi]  # pixels a metre are 100 / 2.54 of those an inch
        (across, by), (down, _) = fractions
        if max(across, down) < 65536:
            parts.append(box(b"res ", box(b"resc", struct.pack(">4H2b", down, by, across, by, 3, 3)[:10])))
    return b"".join(parts)
