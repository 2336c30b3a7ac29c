"""The table of image formats: how each is recognised, named, and what it can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """What a format can hold. `codec` is the module with `decode(source)` and `encode(image, stream, quality)`.

    result: the format that results of such files get by default, where this one is only read.
    upright: whether the orientation in EXIF is ignored by readers, so that pixels are stored as they are shown.
    streams: whether it is written row by row. linear: whether values are linear light.
    colour_managed: whether values mean colours, not counts of something.
    """

    codec: str
    suffixes: tuple[str, ...]
    marks: tuple[tuple[int, bytes], ...]  # (position, bytes) of which one must be found
    depths: tuple[str, ...] = ("uint8",)  # the last one is for pixels of another type
    alpha: bool = True
    gray: bool = True
    pages: bool = False
    longest: int = 2**31 - 1  # pixels a side
    densest: float = math.inf  # pixels per inch
    carries: tuple[str, ...] = ("icc", "exif", "thumbnail", "xmp", "dpi")
    result: str = ""
    upright: bool = False
    streams: bool = False
    linear: bool = False
    colour_managed: bool = True


BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NETPBM = tuple((0, b"P%d%c" % (kind, space)) for kind in range(1, 8) for space in b" \t\r\n#")
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
FORMATS: Mapping[str, Format] = {
    "png": Format(
        "medcli.images.png",
        (".png", ".apng"),
        ((0, b"\x89PNG\r\n\x1a\n"),),
        depths=("uint8", "uint16"),
        densest=(2**32 - 1) * 0.0254,
        streams=True,
    ),
    "tiff": Format(
        "medcli.images.tiff",
        (".tif", ".tiff"),
        ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
        depths=("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float64", "float32"),
        pages=True,
        carries=("icc", "exif", "xmp", "dpi"),
        streams=True,
    ),
    "jpeg": Format(
        "medcli.images.jpeg",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
        ((0, b"\xff\xd8\xff"),),
        alpha=False,
        longest=65535,
        densest=65535,
    ),
    "webp": Format(
        "medcli.images.webp",
        (".webp",),
        ((8, b"WEBP"),),
        gray=False,
        longest=16383,
        carries=("icc", "exif", "thumbnail", "xmp"),
    ),
    "bmp": Format(
        "medcli.images.bmp", (".bmp", ".dib"), ((0, b"BM"),), carries=("icc", "dpi"), densest=(2**31 - 1) / 39.3701
    ),
    "avif": Format(
        "medcli.images.avif",
        (".avif",),
        ((4, b"ftypavif"), (4, b"ftypavis")),
        depths=("uint8", "uint16"),
        longest=65536,
        carries=("icc", "exif", "xmp"),
        upright=True,
    ),
    "heic": Format(
        "medcli.images.heif",
        (".heic", ".heif", ".hif"),
        tuple((4, b"ftyp" + brand) for brand in BRANDS),
        depths=("uint8", "uint16"),
        longest=16384,
        carries=("icc", "exif", "thumbnail", "xmp"),
        upright=True,
    ),
    "jxl": Format(
        "medcli.images.jpegxl",
        (".jxl",),
        ((0, b"\xff\x0a"), (4, b"JXL \r\n\x87\n")),
        depths=("uint8", "uint16", "float16", "float32"),
        carries=("exif", "thumbnail", "xmp"),
        upright=True,
    ),
    "jp2": Format(
        "medcli.images.jpeg2000",
        (".jp2", ".jpx", ".jpf", ".j2k", ".j2c"),
        ((4, b"jP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51")),
        depths=("uint8", "uint16"),
        upright=True,
    ),
    "pnm": Format(
        "medcli.images.pnm",
        (".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
        NETPBM,
        depths=("uint8", "uint16"),
        carries=(),
    ),
    "pfm": Format(
        "medcli.images.pnm",
        (".pfm",),
        ((0, b"PF\n"), (0, b"Pf\n")),
        depths=("float32",),
        alpha=False,
        carries=(),
        linear=True,
    ),
    "gif": Format("medcli.images.gif", (".gif",), ((0, b"GIF87a"), (0, b"GIF89a")), result="png"),
    "exr": Format(
        "medcli.images.openexr",
        (".exr",),
        ((0, b"v/1\x01"),),
        depths=("float16", "float32"),
        carries=(),
        linear=True,
    ),
    "fits": Format(
        "medcli.images.fits",
        (".fits", ".fit", ".fts"),
        ((0, b"SIMPLE  ="),),
        depths=("uint8", "uint16", "uint32", "int16", "int32", "float64", "float32"),
        alpha=False,
        pages=True,
        carries=(),
        colour_managed=False,
    ),
    "raw": Format(
        "medcli.images.raw_file",
        RAW_SUFFIXES,
        (),
        result="tiff",
    ),
    "dng": Format("medcli.images.dng", (".dng",), (), depths=("float32",), pages=True, carries=("exif",)),
}
SUFFIXES: Mapping[str, str] = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
KNOWN = "PNG, TIFF, JPEG, WebP, BMP, AVIF, HEIC, JPEG XL, JPEG 2000, PNM, OpenEXR and FITS"


def format_of(path: str | Path) -> str | None:
    """The format of a file name by its suffix, or None where its suffix is unknown."""
    return SUFFIXES.get(Path(path).suffix.lower())


def result_format(name: str) -> str:
    """The format that the result of an image in the format `name` gets by default: its own, where it can be written."""
    return FORMATS[name].result or name


def supported(path: str | Path) -> bool:
    """Whether a file of this name can be read and written."""
    return format_of(path) is not None


def sniff(head: bytes) -> str | None:
    """The format of a file that begins with `head` (at least 16 bytes), or None."""
    for name, each in FORMATS.items():
        if any(head[at : at + len(mark)] == mark for at, mark in each.marks):
            return name
    return None
