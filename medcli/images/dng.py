"""DNG with the denoised mosaic, for other developers (Adobe, Digital Negative Specification 1.4)."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medcli.images import exif, raw_file
from medcli.images.decoded_image import DecodedImage
from medcli.images.encoding import srgb_matrix
from medcli.images.tiff_writing import as_extra, attach, linkable, links, main_tags

BLACK = 2048  # of 65535, so that values below black survive
D65_LIGHT = 21
COLOUR_TAGS = (  # name of the camera; matrices and light of two profiles; neutral, white point; exposure
    50708, 50721, 50722, 50723, 50724, 50778, 50779, 50964, 50965, 50727, 50728, 50729, 50730,
)  # fmt: skip
BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL = 1, 2, 3, 4, 5, 10

Array = NDArray[Any]


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write the planes of a raw file as a mosaic of 16 bits. Raises OutputError for any other image."""
    data, how = dict(image.metadata.native)[raw_file.MOSAIC], image.metadata.development
    assert how is not None
    with raw_file.opened(data) as raw:
        colours, shape = raw_file.pattern(raw), raw.raw_image_visible.shape
        gain = raw_file.gains(raw, how)
        mosaic = raw_file.mosaic_of([page.pixels for page in image.pages], colours, gain, shape)
        matrix = np.array(raw.rgb_xyz_matrix[:3], float)
        matrix = matrix if matrix.any() else srgb_matrix() / gain[:3, None]
        neutral = 2**how.exposure / gain[:3]
        name = " ".join(text for text in _names(image)) or "camera"
    tags = _colour_tags(data, keep_neutral=how.wb == "camera")
    packed = io.BytesIO()
    write(packed, mosaic, colours, neutral, matrix, name, image, tags)
    if image.metadata.exif and not raw_file.opens(packed.getvalue()):
        image.remark("The maker's note was dropped: its offsets hold for the old file alone.")
        image.metadata = replace(image.metadata, exif=exif.without_maker_note(image.metadata.exif))
        packed = io.BytesIO()
        write(packed, mosaic, colours, neutral, matrix, name, image, tags)
    stream.write(packed.getbuffer())


def write(
    stream: BinaryIO,
    mosaic: Array,
    colours: Array,
    neutral: Array,
    matrix: Array,
    name: str,
    image: DecodedImage | None = None,
    colour_tags: Sequence[exif.Tag] = (),
    *,
    black: int = BLACK,
    white: int = 65535,
) -> None:
    """mosaic: (H, W) from black, 0, to white, 1. colours: (2, 2) as `raw_file.pattern` has them.

    neutral: (3,) what white is in the camera's colours. matrix: (3, 3) from XYZ to them, for D65.
    image: whose EXIF goes along. colour_tags: of the source, which stand in place of `neutral`, `matrix` and `name`.
    """
    from tifffile import TiffWriter

    values = np.rint(mosaic * (white - black) + black).clip(0, 65535)
    cfa = bytes(int(colour) % 3 if colour != raw_file.SECOND_GREEN else 1 for colour in colours.ravel())
    mark = exif.order(image.metadata.exif or b"") or "<" if image is not None else "<"
    block = linkable(image, mark, False) if image is not None else None
    tags: list[Any] = [
        (50706, BYTE, 4, bytes((1, 4, 0, 0)), True),  # DNGVersion
        (50707, BYTE, 4, bytes((1, 1, 0, 0)), True),
        (50708, ASCII, 0, name, True),  # UniqueCameraModel
        (33421, SHORT, 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, BYTE, 4, cfa, True),
        (50710, BYTE, 3, bytes((0, 1, 2)), True),  # CFAPlaneColor
        (50711, SHORT, 1, 1, True),  # CFALayout: rectangular
        (50714, LONG, 1, black, True),
        (50717, LONG, 1, white, True),
        (50721, SRATIONAL, 9, _fractions(matrix.ravel()), True),  # ColorMatrix1
        (50728, RATIONAL, 3, _fractions(neutral), True),  # AsShotNeutral
        (50778, SHORT, 1, D65_LIGHT, True),
    ]
    tags = [tag for tag in tags if tag[0] not in {code for code, _, _, _ in colour_tags}]
    tags += [as_extra(tag, mark) for tag in colour_tags]
    held = main_tags(image.metadata.exif, mark) if image is not None and block else []
    tags += [as_extra(tag, mark) for tag in held if tag[0] in exif.MAIN_TAGS]
    with TiffWriter(stream, byteorder=mark) as writer:
        writer.write(
            values.astype(f"{mark}u2"), photometric=32803, subfiletype=0, metadata=None, software=False,
            extratags=tags + links(block),
        )  # fmt: skip
    if block:
        attach(stream, block, mark)


def _colour_tags(data: bytes, *, keep_neutral: bool) -> list[exif.Tag]:
    """What a DNG says of the colours of its camera; empty for other raw files."""
    mark = exif.order(data[:16])
    if mark is None:
        return []
    try:
        first = struct.unpack(f"{mark}I", data[4:8])[0]
        held = exif.values(io.BytesIO(data), first, mark)
    except struct.error:
        return []
    is_dng = any(tag[0] == 50706 for tag in held)
    return [tag for tag in held if is_dng and tag[0] in COLOUR_TAGS and (keep_neutral or tag[0] != 50728)]


def _names(image: DecodedImage) -> list[str]:
    """Maker and model."""
    held = main_tags(image.metadata.exif, exif.order(image.metadata.exif or b"") or "<")
    found = {
        code: raw.split(b"\0")[0].decode("ascii", "replace").strip() for code, _, _, raw in held if code in (271, 272)
    }
    return [found[code] for code in (271, 272) if found.get(code)]


def _fractions(values: Array) -> tuple[int, ...]:
    parts = [Fraction(float(value)).limit_denominator(1_000_000) for value in values]
    return tuple(number for part in parts for number in (part.numerator, part.denominator))
