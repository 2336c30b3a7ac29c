"""HEIC and HEIF of 8, 10 and 12 bits, read and written by libheif through pillow-heif."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from medcli.errors import InputError, OutputError
from medcli.images import encoding, exif, thumbnail
from medcli.images.avif import note_limits, page_of
from medcli.images.decoded_image import DecodedImage, Metadata
from medcli.images.depth import narrowed, widened
from medcli.images.plugins import plugin
from medcli.images.raster import interleaved
from medcli.images.source import ImageBytes

DEFAULT_QUALITY = 90
DEEPEST = 10  # bits that every decoder of phones and browsers knows
MODES = {(2, False): "L", (2, True): "LA", (3, False): "RGB", (3, True): "RGBA"}


def decode(source: ImageBytes) -> DecodedImage:
    """The primary image as one page, turned upright by libheif. Raises InputError for a damaged file."""
    heif = plugin("pillow_heif", "pillow-heif", "HEIC", InputError)
    data = source.content()
    try:
        file: Any = heif.open_heif(data, convert_hdr_to_8bit=False)
        primary = file[file.primary_index]
        source.admit(*primary.size, most=source.most_pixels(len(data)))
        array = np.asarray(primary)
    except (ValueError, RuntimeError, OSError, EOFError, LookupError, SyntaxError):
        raise source.damaged("its header or pixels cannot be unpacked") from None
    info = primary.info
    bits = int(info.get("bit_depth", 8))
    if bits > 8:  # the samples come in the upper bits
        array = widened(array >> (16 - bits), bits)
    meta = Metadata(icc=info.get("icc_profile") or None, xmp=info.get("xmp") or None, bits=bits if bits > 8 else None)
    if nclx := info.get("nclx_profile"):
        names = ("color_primaries", "transfer_characteristics", "matrix_coefficients", "full_range_flag")
        meta.nclx = tuple(int(nclx[name]) for name in names)  # type: ignore[assignment]
        meta.icc = meta.icc or encoding.profile_of(meta.nclx)
    if info.get("exif"):
        block = info["exif"].removeprefix(exif.PREFIX)
        meta.exif = exif.upright(exif.tidied(block, *primary.size))
        meta.thumbnail = thumbnail.size_of(block)
    image = DecodedImage([page_of(array)], "heic", meta)
    if len(file) > 1:
        image.remark(f"Of {len(file)} images in the file, the primary one is kept.")
    if extras := [name for name in ("aux", "depth_images") if info.get(name)]:
        words = {"aux": "gain map or other auxiliary images", "depth_images": "depth map"}
        image.remark(f"Dropped: {', '.join(words[name] for name in extras)}.")
    return image


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one upright page, 4:4:4, uint16 in 10 bits (12 where the source had them). Quality 100 is lossless."""
    heif = plugin("pillow_heif", "pillow-heif", "HEIC", OutputError)
    page, meta = image.pages[0], image.metadata
    height, width = page.pixels.shape[:2]
    deep = page.pixels.dtype == np.uint16
    bits = (12 if (meta.bits or 0) > DEEPEST else DEEPEST) if deep else 8
    note_limits(image, bits)
    mode = MODES[page.pixels.ndim, page.alpha is not None]
    array = interleaved(page, slice(None))
    if mode == "LA":
        array, mode = np.dstack([array[:, :, :1]] * 3 + [array[:, :, 1:]]), "RGBA"
    if deep:
        array, mode = narrowed(array, bits) << (16 - bits), "I;16" if mode == "L" else f"{mode};16"
    options: dict[str, Any] = {"quality": -1 if quality == 100 else quality or DEFAULT_QUALITY, "chroma": 444}
    options |= {"exif": meta.exif and exif.PREFIX + meta.exif, "xmp": meta.xmp, "icc_profile": meta.icc}
    if meta.nclx:
        options |= {"color_primaries": meta.nclx[0], "transfer_characteristic": meta.nclx[1]}
    if quality == 100 and page.pixels.ndim == 3:
        options["matrix_coefficients"] = 0  # the colours themselves: no other matrix is without rounding
    before = heif.options.SAVE_HDR_TO_12_BIT
    try:
        heif.options.SAVE_HDR_TO_12_BIT = bits == 12
        packed = io.BytesIO()
        file = heif.from_bytes(mode=mode, size=(width, height), data=np.ascontiguousarray(array).tobytes())
        file.save(packed, **{name: value for name, value in options.items() if value is not None})
    except (ValueError, RuntimeError, OSError) as error:
        raise OutputError(f"The image cannot be coded as HEIC: {error}.", "Write PNG or TIFF.") from None
    finally:
        heif.options.SAVE_HDR_TO_12_BIT = before
    stream.write(packed.getbuffer())
