"""Small image files of every kind that the libraries write: compression x depth x layout x predictor x planes.

Each comes with the pixels that a right reader gets: computed from what was written, or read by another library where
the format loses something.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from medcli.errors import InputError
from medcli.images import read

Array = NDArray[Any]
SHAPE = (11, 13)
READ, REFUSED, WRONG, UNWRITTEN = "read", "refused", "wrong", "not written"  # the last: no library writes such a file

COMPRESSIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("none", "lzw", "zlib", "zstd", "lzma", "packbits", "lerc", "png", "jpeg2000")},
    **{"jpegxl": {"lossless": True}, "webp": {"lossless": True}, "jpeg": {"level": 95}},
}
LOSSY = ("jpeg",)
CODECS = ("lerc", "png", "jpeg2000", "jpegxl", "webp")  # some encoders drop what they cannot hold, without a word
PACKED = ("uint2", "uint4", "uint6", "uint10", "uint12", "uint14")
DEPTHS = (
    *("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"),
    *PACKED,
)
LAYOUTS = {  # samples, and what tifffile is given
    "gray": (1, {"photometric": "minisblack"}),
    "white is zero": (1, {"photometric": "miniswhite"}),
    "gray, alpha": (2, {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    "RGB": (3, {"photometric": "rgb"}),
    "RGB, alpha": (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "RGB, associated alpha": (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    "RGB, further sample": (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "4 bands": (4, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 3}),
    "6 bands": (6, {"photometric": "rgb", "extrasamples": ["unspecified"] * 3}),
    "palette": (1, {"photometric": "palette"}),
    "CMYK": (4, {"photometric": "separated"}),
    "CMYK, alpha": (5, {"photometric": "separated", "extrasamples": ["unassalpha"]}),
    "CIELAB": (3, {"photometric": "cielab"}),
}
PREDICTORS = {"none": False, "horizontal": 2, "float": 3}
PLANES = ("contig", "separate")
FRAMES: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 4},
    "tiles": {"tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
}


@dataclass(frozen=True)
class Case:
    """A file to be. `make` gives it with its pages, (pixels, alpha) each, or None where no library writes it."""

    format: str
    compression: str
    depth: str
    name: str
    make: Callable[[], tuple[bytes, list[tuple[Array, Array | None]]] | None]
    tolerance: int = 0  # largest difference that a lossy format, or another colour engine, may show


def comparison(case: Case) -> str:
    """READ, REFUSED (by InputError), WRONG or UNWRITTEN."""
    made = case.make()
    if made is None:
        return UNWRITTEN
    data, expected = made
    try:
        pages = read(data).pages
    except InputError:
        return REFUSED
    same = len(pages) == len(expected) and all(
        _close(page.pixels, pixels, case.tolerance) and _close(page.alpha, alpha, case.tolerance)
        for page, (pixels, alpha) in zip(pages, expected, strict=True)
    )
    return READ if same else WRONG


def _close(found: Array | None, expected: Array | None, tolerance: int) -> bool:
    if found is None or expected is None:
        return found is expected
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not tolerance:
        return bool(np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"))
    return bool(np.abs(found.astype(np.int64) - expected).max() <= tolerance)


def cases() -> Iterator[Case]:
    """All of them, TIFF first."""
    yield from _tiffs()
    yield from _faxes()
    yield from _others()


def _tiffs() -> Iterator[Case]:
    for compression, depth, layout, predictor, planes, frame in itertools.product(
        COMPRESSIONS, DEPTHS, LAYOUTS, PREDICTORS, PLANES, FRAMES
    ):
        if planes == "separate" and LAYOUTS[layout][0] == 1:
            continue
        kind = (compression, depth, layout, predictor, planes, frame)
        tolerance = 4 if layout == "CIELAB" else 0
        tolerance = 257 * tolerance if depth == "uint16" else tolerance
        yield Case("TIFF", compression, depth, ", ".join((layout, predictor, planes, frame)), _Tiff(*kind), tolerance)


@dataclass(frozen=True)
class _Tiff:
    compression: str
    depth: str
    layout: str
    predictor: str
    planes: str
    frame: str

    def __call__(self) -> tuple[bytes, list[tuple[Array, Array | None]]] | None:
        values = _values(self.depth, LAYOUTS[self.layout][0])
        if self.layout == "palette" and values.dtype not in (np.uint8, np.uint16):
            return None
        if self.depth == "bool" and (self.predictor != "none" or (values.shape[2] > 1 and self.planes == "contig")):
            return None  # without meaning; packed wrongly by tifffile
        if self.layout == "CIELAB" and values.dtype in (np.uint8, np.uint16):
            values = _mild(values)
        try:
            data = self._packed(values) if self.depth in PACKED else self._written(values)
        except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, struct.error):
            return None
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            right = (page.predictor == (PREDICTORS[self.predictor] or 1), page.samplesperpixel == values.shape[2])
            if not all(right):
                return None
        if self.compression in LOSSY:
            found = _by_pillow(data)
            if found is None or found.size != values.size:
                return None
            found = found.reshape(values.shape)
            found = 255 - found if self.layout == "white is zero" else found  # Pillow has turned it
            if np.abs(found.astype(int) - values).mean(axis=(0, 1)).max() > 32:
                return None  # Pillow takes one plane for another
            values = found
        elif self.compression in CODECS and not _is_faithful(data, values):
            return None
        return data, _expected(values, self.depth, self.layout)

    def _written(self, values: Array) -> bytes:
        options: dict[str, Any] = {**LAYOUTS[self.layout][1], **FRAMES[self.frame]}
        if self.layout == "palette":
            options["colormap"] = _colours(values.dtype.itemsize * 8)
        if values.shape[2] > 1:
            options["planarconfig"] = self.planes
            values = np.moveaxis(values, -1, 0) if self.planes == "separate" else values
        else:
            values = values[:, :, 0]
        if self.compression != "none":
            options |= {"compression": self.compression, "compressionargs": COMPRESSIONS[self.compression]}
        stream = io.BytesIO()
        predictor = PREDICTORS[self.predictor]
        tifffile.imwrite(stream, values, predictor=predictor, metadata=None, **options)
        return stream.getvalue()

    def _packed(self, values: Array) -> bytes:
        """Samples of a width that tifffile only reads: their bytes are written as gray, and the tags then changed."""
        bits = int(self.depth.removeprefix("uint"))
        if self.predictor != "none" or self.planes == "separate" or self.frame in ("tiles", "big-endian"):
            raise ValueError("not a kind that can be made so")
        if self.layout not in ("gray", "white is zero") or self.compression not in ("none", "lzw", "zlib", "packbits"):
            raise ValueError("not a kind that can be made so")
        rows = [imagecodecs.packints_encode(row, bits) for row in values[:, :, 0]]
        data = bytearray(self._written(np.stack([np.frombuffer(row, np.uint8) for row in rows])[:, :, None]))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            for code, value in ((256, SHAPE[1]), (258, bits)):
                tag = file.pages.first.tags[code]
                struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, value)
        return bytes(data)


def _values(depth: str, samples: int) -> Array:
    """Noise that uses the whole range of an integer depth; floats lie around [0, 1]."""
    rng = np.random.default_rng(7)
    shape = (*SHAPE, samples)
    if depth == "bool":
        return rng.random(shape) < 0.5
    if depth.startswith("float"):
        return rng.normal(0.5, 0.5, shape).astype(depth)
    if depth in PACKED:
        bits = int(depth.removeprefix("uint"))
        return rng.integers(0, 2**bits, shape).astype(np.uint8 if bits <= 8 else np.uint16)
    kind = np.iinfo(depth)
    return rng.integers(kind.min, kind.max, shape, depth, endpoint=True)


def _colours(bits: int) -> Array:
    return np.random.default_rng(8).integers(0, 65535, (3, 2**bits), np.uint16, endpoint=True)


def _expected(values: Array, depth: str, layout: str) -> list[tuple[Array, Array | None]]:
    """What the pages are, from what was written."""
    if layout == "palette":
        return [
            ((_colours(8 * values.dtype.itemsize)[:, values[:, :, 0]] // 256).astype(np.uint8).transpose(1, 2, 0), None)
        ]
    values = _delivered(values, depth, layout)
    if layout.startswith("CMYK") and values.dtype in (np.uint8, np.uint16):
        deep = values.dtype == np.uint16
        inks = np.rint(values / 257).astype(np.uint8) if deep else values
        rgb = np.asarray(Image.frombytes("CMYK", SHAPE[::-1], inks[:, :, :4].tobytes()).convert("RGB"))
        return [(rgb, inks[:, :, 4] if layout.endswith("alpha") else None)]
    if layout == "CIELAB" and values.dtype in (np.uint8, np.uint16):
        return [(_from_lab(values), None)]
    if layout.endswith("bands"):
        return [(values[:, :, band], None) for band in range(values.shape[2])]
    colours = 3 if layout.startswith("RGB") else 1
    alpha = values[:, :, colours] if values.shape[2] > colours else None
    return [(values[:, :, :3] if colours == 3 else values[:, :, 0], alpha)]


def _delivered(values: Array, depth: str, layout: str) -> Array:
    """Integers of less than 8 bits fill 8; white that was zero is the largest value."""
    bits = int(depth.removeprefix("uint")) if depth in PACKED else 1 if depth == "bool" else values.dtype.itemsize * 8
    if layout == "white is zero":
        inverse = 1 - values if depth.startswith("float") else values.astype(np.int64) * -1 + (2**bits - 1)
        inverse = inverse - 2**bits if depth.startswith("int") else inverse
        values = inverse.astype(values.dtype)
    if bits < 8:
        return np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    return values


def _from_lab(values: Array) -> Array:
    """By littleCMS, in 8 bits."""
    deep = values.dtype == np.uint16
    lab = (values >> 8).astype(np.uint8) if deep else values
    image = Image.frombytes("LAB", SHAPE[::-1], lab.tobytes())
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    rgb = np.asarray(ImageCms.profileToProfile(image, *profiles, renderingIntent=1, outputMode="RGB"))
    return rgb.astype(np.uint16) * 257 if deep else rgb


def _is_faithful(data: bytes, values: Array) -> bool:
    """Whether the encoder kept the samples."""
    try:
        found = tifffile.imread(io.BytesIO(data))
    except (ValueError, RuntimeError):
        return False
    found = np.moveaxis(found, 0, -1) if found.ndim == 3 and found.shape[1:] == SHAPE else found
    return found.size == values.size and bool(np.array_equal(found.reshape(values.shape), values))


def _mild(values: Array) -> Array:
    """Lightness and colours that sRGB has too, as 8 bits can say them: engines differ in clipping and in rounding."""
    byte = (values >> (values.dtype.itemsize * 8 - 8)).astype(np.uint8)
    byte = np.dstack([byte[:, :, 0] // 2 + 64, byte[:, :, 1:] // 8 - np.uint8(16)])
    return byte if values.dtype == np.uint8 else byte * np.array([257, 256, 256], np.uint16)


def _by_pillow(data: bytes) -> Array | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)
    except (OSError, ValueError):
        return None


def _faxes() -> Iterator[Case]:
    """Bilevel kinds, and JPEG's old form, that Pillow writes."""
    packings = ("group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate", "raw")
    values = _values("bool", 1)[:, :, 0]
    for packing, inverse in itertools.product(packings, (False, True)):
        options: dict[str, Any] = {"compression": packing, "tiffinfo": {262: 0} if inverse else {}}
        name = "white is zero, by Pillow" if inverse else "gray, by Pillow"
        yield Case("TIFF", packing, "bool", name, _pillow(Image.fromarray(values), "tiff", options))


def _others() -> Iterator[Case]:
    """PNG, JPEG, WebP and BMP as Pillow and OpenCV write them."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        for level, optimize in itertools.product((0, 1, 9), (False, True)):
            options = {"compress_level": level, "optimize": optimize}
            yield Case("PNG", f"level {level}", mode, f"optimize {optimize}", _pillow(_image(mode), "png", options))
    for bits in (1, 2, 4):
        yield Case("PNG", "level 6", "P", f"{bits} bits", _pillow(_image("P", 2**bits), "png", {"bits": bits}))
    for depth, samples in itertools.product(("uint8", "uint16"), (1, 3, 4)):
        yield Case("PNG", "OpenCV", depth, f"{samples} samples", _opencv(depth, samples, ".png"))
        yield Case("TIFF", "OpenCV", depth, f"{samples} samples", _opencv(depth, samples, ".tif"))
    for mode, quality, sampling, progressive in itertools.product(
        ("L", "RGB", "CMYK"), (5, 60, 95, 100), (0, 1, 2), (False, True)
    ):
        options = {"quality": quality, "subsampling": sampling, "progressive": progressive}
        name = f"quality {quality}, sampling {sampling}, progressive {progressive}"
        yield Case(
            "JPEG", "baseline" if not progressive else "progressive", mode, name, _pillow(_image(mode), "jpeg", options)
        )
    for restart, sampling in itertools.product((0, 1, 7), (0x111111, 0x211111, 0x221111, 0x121111, 0x411111)):
        flags = [cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        yield Case("JPEG", "OpenCV", "RGB", f"restart {restart}, {sampling:x}", _opencv("uint8", 3, ".jpg", flags))
    for mode, lossless, quality, method in itertools.product(("RGB", "RGBA"), (False, True), (0, 50, 100), (0, 4, 6)):
        options = {"lossless": lossless, "quality": quality, "method": method, "exact": True}
        name = f"quality {quality}, method {method}"
        yield Case("WebP", "lossless" if lossless else "lossy", mode, name, _pillow(_image(mode), "webp", options))
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield Case("BMP", "none", mode, "by Pillow", _pillow(_image(mode), "bmp", {}))


def _image(mode: str, colours: int = 256) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(_values("uint16", 1)[:, :, 0])
    rgba = Image.fromarray(_values("uint8", 4))
    if mode == "P":
        return rgba.convert("RGB").quantize(colours)
    return rgba.convert({"1": "1", "L": "L", "LA": "LA", "CMYK": "CMYK"}.get(mode, mode))


def _pillow(image: Image.Image, format: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Written and read by Pillow."""

    def make() -> tuple[bytes, list[tuple[Array, Array | None]]]:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        with Image.open(io.BytesIO(stream.getvalue())) as found:
            found.load()
            if found.mode == "CMYK":
                found = found.convert("RGB")
            if found.mode in ("1", "P"):
                found = found.convert("L" if found.mode == "1" else "RGB")
            return stream.getvalue(), [_apart(np.asarray(found))]

    return make


def _opencv(depth: str, samples: int, suffix: str, flags: tuple[int, ...] | list[int] = ()) -> Callable[[], Any]:
    """Written by OpenCV and read by it."""

    def make() -> tuple[bytes, list[tuple[Array, Array | None]]]:
        values = _values(depth, samples)
        data = cv2.imencode(suffix, values, flags)[1].tobytes()
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        order = [2, 1, 0, 3][:samples]
        return data, [_apart(found.reshape(values.shape)[:, :, order] if samples > 1 else found)]

    return make


def _apart(values: Array) -> tuple[Array, Array | None]:
    """Samples of pixels as (pixels, alpha)."""
    if values.ndim == 3 and values.shape[2] in (2, 4):
        return (values[:, :, 0] if values.shape[2] == 2 else values[:, :, :3]), values[:, :, -1]
    return values, None
