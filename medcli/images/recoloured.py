"""Colours of an image in a format that cannot say how its numbers encode them: converted, so that it looks the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.images import encoding
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.formats import FORMATS
from medcli.images.raster import bands
from medcli.images.values import ValueRange, dtype_range

Array = NDArray[Any]
CONVERTIBLE = ("uint8", "uint16", "float32")
SIGNALLED = ("avif", "heic", "png")  # formats that can say PQ and HLG by the numbers of H.273


def recoloured(image: DecodedImage, name: str) -> tuple[DecodedImage, list[str]]:
    """`image` with pixels and metadata as the format `name` understands them, and notes.

    Shares what needs no change: that is everything but linear light, PQ, HLG, and profiles that cannot be embedded.
    """
    form, meta = FORMATS[name], image.metadata
    transfer = meta.transfer
    if form.linear:
        return _to_linear(image) if transfer != "linear" else (image, [])
    if transfer in ("pq", "hlg") and not meta.icc:
        return _signalled(image, name) if name in SIGNALLED else _to_srgb(image, _primaries(meta))
    if transfer == "linear" and not meta.icc and form.colour_managed:
        if name == "tiff" and image.pages[0].pixels.dtype.kind == "f":
            profile = encoding.linear_profile(gray=image.pages[0].pixels.ndim == 2)
            return replace(image, metadata=replace(meta, icc=profile)), []
        return _to_srgb(image, 1)
    if meta.icc and "icc" not in form.carries and form.colour_managed and not encoding.is_srgb(meta.icc):
        return _through_profile(image, meta.icc, name)
    return image, []


def _signalled(image: DecodedImage, name: str) -> tuple[DecodedImage, list[str]]:
    meta = image.metadata
    marks = [content for kind, content in meta.native if kind == b"cICP"]
    numbers = meta.nclx or (marks[0][0], marks[0][1], marks[0][2], 1)
    if name == "png":
        native = meta.native if marks else ((b"cICP", bytes((numbers[0], numbers[1], 0, 1))),)
        return replace(image, metadata=replace(meta, native=native), format="png"), []
    return replace(image, metadata=replace(meta, nclx=numbers)), []


def _to_linear(image: DecodedImage) -> tuple[DecodedImage, list[str]]:
    """sRGB primaries in linear light, 1 for white: half floats where there were 8 bits."""
    meta, lines = image.metadata, ["The pixels were converted to linear light."]
    pages = []
    for page in image.pages:
        kind = np.float16 if page.pixels.dtype.itemsize == 1 else np.float32
        values = _unit(page.pixels, image.values)
        if meta.transfer is None:
            values = _profiled(values, meta.icc)
            values = encoding.from_perceptual(values, "linear")
        else:
            values = _as_srgb_light(values, meta.transfer, _primaries(meta))
        alpha = None if page.alpha is None else _unit(page.alpha, None).astype(kind)
        pages.append(Page(values.astype(kind), alpha))
    return replace(image, pages=pages, metadata=replace(meta, icc=None, transfer="linear"), values=None), lines


def _to_srgb(image: DecodedImage, primaries: int) -> tuple[DecodedImage, list[str]]:
    """Highlights above diffuse white are clipped when the result is rounded to integers."""
    meta = image.metadata
    assert meta.transfer is not None
    pages = []
    for page in image.pages:
        kind = page.pixels.dtype if page.pixels.dtype.kind == "f" else np.dtype(np.float32)
        values = _as_srgb_light(_unit(page.pixels, None), meta.transfer, primaries)
        curved = encoding.to_perceptual(values, "linear").astype(kind)
        alpha = page.alpha
        if alpha is not None and alpha.dtype.kind != "f":
            alpha = _unit(alpha, None).astype(kind)
        pages.append(Page(curved, alpha))
    what = {"linear": "Linear light was", "pq": "PQ was", "hlg": "HLG was"}[meta.transfer]
    note = f"{what} converted to sRGB; what is brighter than white may be clipped."
    return replace(image, pages=pages, metadata=replace(meta, transfer=None, nclx=None), values=None), [note]


def _through_profile(image: DecodedImage, icc: bytes, name: str) -> tuple[DecodedImage, list[str]]:
    pages = []
    for page in image.pages:
        if page.pixels.dtype.name not in CONVERTIBLE or (page.pixels.ndim == 2) != (icc[16:20] == b"GRAY"):
            return image, []
        try:
            result = np.empty_like(page.pixels)
            for rows in bands(page.pixels):
                result[rows] = encoding.converted(page.pixels[rows], icc, b"")
        except ValueError:
            return image, []
        pages.append(replace(page, pixels=result))
    note = f"{name.upper()} is written without a colour profile: the colours were converted to sRGB."
    return replace(image, pages=pages, metadata=replace(image.metadata, icc=None, transfer=None)), [note]


def _profiled(values: Array, icc: bytes | None) -> Array:
    if not icc or encoding.is_srgb(icc) or (values.ndim == 2) != (icc[16:20] == b"GRAY"):
        return values
    try:
        return encoding.converted(values, icc, b"")
    except ValueError:
        return values


def _as_srgb_light(values: Array, transfer: encoding.Transfer, primaries: int) -> Array:
    """Signal -> linear light in the primaries of sRGB, float32."""
    light = encoding.from_perceptual(encoding.to_perceptual(values, transfer), "linear").astype(np.float32)
    if light.ndim == 2 or primaries not in encoding.PRIMARIES or primaries == 1:
        return np.asarray(light)
    return np.asarray(light @ encoding.to_srgb_matrix(primaries).T, np.float32)


def _primaries(meta: Metadata) -> int:
    marks = [content[0] for kind, content in meta.native if kind == b"cICP" and content]
    return meta.nclx[0] if meta.nclx else marks[0] if marks else 1


def _unit(pixels: Array, values: ValueRange | None) -> Array:
    return (values or dtype_range(pixels.dtype)).to_unit(pixels)
