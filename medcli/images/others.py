"""Formats that are not read: recognised, so that the message can name the way."""

from __future__ import annotations

from dataclasses import dataclass

from medcli.errors import InputError
from medcli.images.source import ImageBytes

HEAD = 512  # bytes that `named` wants


@dataclass(frozen=True)
class Other:
    """marks: (position, bytes) of which one must be found. way: a command or program that converts it."""

    name: str
    way: str
    marks: tuple[tuple[int, bytes], ...]


ANY = "'magick FILE image.png' (ImageMagick)"
VECTOR = "'{} -o image.png FILE' draws it"
OTHERS = (
    Other("JPEG XR", "'JxrDecApp -i FILE -o image.tif' (jxrlib)", ((0, b"II\xbc"),)),
    Other("Radiance HDR", "'oiiotool FILE -o image.tif' (OpenImageIO)", ((0, b"#?RADIANCE"), (0, b"#?RGBE"))),
    Other("DPX", "'oiiotool FILE -o image.tif' (OpenImageIO)", ((0, b"SDPX"), (0, b"XPDS"))),
    Other("DICOM", "'dcm2img FILE image.png' (DCMTK), or saved as 16-bit TIFF from a viewer", ((128, b"DICM"),)),
    Other("Photoshop", "TIFF or PNG saved from Photoshop or GIMP, or " + ANY, ((0, b"8BPS"),)),
    Other("GIMP", "TIFF or PNG exported from GIMP", ((0, b"gimp xcf"),)),
    Other("Icon", ANY, ((0, b"\0\0\1\0"), (0, b"\0\0\2\0"), (0, b"icns"))),
    Other("QOI", ANY, ((0, b"qoif"),)),
    Other("DDS", ANY, ((0, b"DDS "),)),
    Other("PDF", "'pdfimages -all FILE image' or 'pdftoppm -r 300 -png FILE page' (poppler)", ((0, b"%PDF"),)),
    Other("DjVu", "'ddjvu -format=tiff FILE pages.tif' (DjVuLibre)", ((0, b"AT&TFORM"),)),
    Other("PostScript", VECTOR.format("gs -sDEVICE=png16m -r300"), ((0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6"))),
    Other("SVG", VECTOR.format("rsvg-convert"), ((0, b"<svg"),)),
    Other("Zeiss CZI", "'bfconvert FILE image.ome.tif' (Bio-Formats)", ((0, b"ZISRAWFILE"),)),
    Other("Nikon ND2", "'bfconvert FILE image.ome.tif' (Bio-Formats)", ((0, b"\xda\xce\xbe\n"),)),
    Other("HDF5", "TIFF saved by the program that made it, or by h5py and tifffile", ((0, b"\x89HDF\r\n\x1a\n"),)),
    Other("NumPy", "TIFF ('tifffile.imwrite'), or medcli.denoise(array) in Python", ((0, b"\x93NUMPY"),)),
    Other(
        "Video",
        "its frames: 'ffmpeg -i FILE frames/%05d.png', then the folder",
        ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"\0\0\1\xba"), (4, b"moov"), (4, b"mdat")),
    ),
    Other("ZIP", "the images in it, unpacked", ((0, b"PK\3\4"),)),
)


def named(head: bytes) -> Other | None:
    """The format of a file that begins with `head` (up to 512 bytes), or None."""
    if b"<svg" in head:
        head = head[head.index(b"<svg") :]
    return next((each for each in OTHERS if any(head[at : at + len(mark)] == mark for at, mark in each.marks)), None)


def refusal(source: ImageBytes, other: Other) -> InputError:
    """The error for a file of a format that is not read."""
    return source.unfit(f"{other.name} is not read by medcli", f"Convert it first: {other.way}.")
