"""EXIF of raw files: most are TIFF with other first bytes; Canon's CR3 has boxes, Fujifilm's RAF a whole JPEG."""

from __future__ import annotations

import io
import struct

from medcli.images import boxes, exif

MAIN = (*exif.MAIN_TAGS, 270)
CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")  # the box of CR3 that holds directories of TIFF
FLIPS = {0: 1, 3: 3, 5: 8, 6: 6}  # what LibRaw calls a turn, and EXIF's orientation


def block(data: bytes, flip: int) -> bytes | None:
    """An EXIF block with camera, lens, place, maker's note; None where there is none.

    flip: the turn that LibRaw found, which stands in the block, for pixels come as the sensor has them.
    """
    try:
        found = _block(data)
    except (struct.error, LookupError, RecursionError):
        found = None
    return exif.with_orientation(found, FLIPS.get(flip, 1)) if found else None


def _block(data: bytes) -> bytes | None:
    if data[:2] in (b"II", b"MM"):
        return exif.gathered(io.BytesIO(data), "<" if data[:2] == b"II" else ">", MAIN)
    if data[4:8] == b"ftyp":
        return _of_boxes(data)
    if data.startswith(b"FUJIFILM"):
        at = data.find(b"Exif\0\0", 0, 1 << 20)
        start = at + 6
        mark = exif.order(data[start : start + 16])
        return exif.gathered(io.BytesIO(data[start:]), mark, MAIN) if at >= 0 and mark else None
    return None


def _of_boxes(data: bytes) -> bytes | None:
    """CMT1 is the first directory, CMT2 that of EXIF, CMT4 that of GPS: each a TIFF of its own, here joined."""
    held = [content[16:] for content in boxes.found(data, b"moov", b"uuid") if content.startswith(CANON)]
    parts = {box.kind: held[0][box.body : box.stop] for box in boxes.boxes(held[0])} if held else {}
    first = parts.get(b"CMT1")
    mark = exif.order(first) if first else None
    if first is None or mark is None:
        return None
    return exif.joined({0: first, exif.EXIF_IFD: parts.get(b"CMT2"), exif.GPS_IFD: parts.get(b"CMT4")}, mark, MAIN)
