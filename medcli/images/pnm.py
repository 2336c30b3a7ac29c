"""Netpbm's PBM, PGM, PPM and PAM of 8 and 16 bits, and PFM of floats (Netpbm's manual, netpbm.sourceforge.net/doc)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.depth import narrowed, widened
from medcli.images.raster import bands, interleaved
from medcli.images.source import ImageBytes

Array = NDArray[Any]
TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")
PAM_LINE = re.compile(rb"(WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE|ENDHDR)\b[ \t]*([^\n]*)\n")
HEAD = 1 << 16  # bytes that a header may take
CHANNELS = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3, b"Pf": 1, b"PF": 3}


@dataclass(frozen=True)
class NetpbmHeader:
    """full: the largest value; 0 for floats. body: position of the first sample. big: byte order of floats."""

    kind: bytes
    width: int
    height: int
    channels: int
    full: int
    body: int
    big: bool = True


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page; of several images in a file the first. Raises InputError for a damaged file."""
    data = source.content()
    try:
        head = _pam(data) if data[:2] == b"P7" else _header(data)
    except (ValueError, TypeError, LookupError):
        raise source.damaged("its header is not valid") from None
    source.admit(head.width, head.height, most=8 * len(data))
    if not (head.full < 65536 and 1 <= head.channels <= 4):
        raise source.unfit(f"it has {head.channels} channels up to {head.full}", "Convert it to PNG or TIFF first.")
    array = _samples(data, head, source).reshape(head.height, head.width, head.channels)
    if not head.full:
        array = np.ascontiguousarray(array[::-1])  # PFM begins with the lowest row
    meta = Metadata(bits=None if head.full in (0, 1, 255, 65535) else head.full.bit_length())
    if not head.full:
        meta.transfer = "linear"
    image = DecodedImage([_page(array, head)], "pnm" if head.full else "pfm", meta)
    if head.full == 1:
        image.remark("1-bit black and white was converted to 8-bit gray.")
    elif meta.bits and head.full != 2**meta.bits - 1:
        image.remark(f"The largest value {head.full} becomes {2**meta.bits - 1}.")
    return image


def _header(data: bytes) -> NetpbmHeader:
    kind, at, numbers = data[:2], 2, []
    for _ in range(2 if kind in (b"P1", b"P4") else 3):
        match = TOKEN.match(data, at, HEAD)
        numbers.append(match[1].decode("ascii"))  # type: ignore[index]
        at = match.end()  # type: ignore[union-attr]
    width, height = map(int, numbers[:2])
    if kind in (b"Pf", b"PF"):
        return NetpbmHeader(kind, width, height, CHANNELS[kind], 0, at + 1, big=float(numbers[2]) > 0)
    full = int(numbers[2]) if len(numbers) == 3 else 1
    if full < 1:
        raise ValueError("the largest value is 0")
    return NetpbmHeader(kind, width, height, CHANNELS[kind], full, at + 1)


def _pam(data: bytes) -> NetpbmHeader:
    fields: dict[bytes, bytes] = {}
    for match in PAM_LINE.finditer(data, 0, HEAD):
        fields[match[1]] = match[2]
        if match[1] == b"ENDHDR":
            break
    width, height, channels, full = (int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    if full < 1 or b"ENDHDR" not in fields:
        raise ValueError("no largest value")
    return NetpbmHeader(b"P7", width, height, channels, full, match.end())


def _samples(data: bytes, head: NetpbmHeader, source: ImageBytes) -> Array:
    """(samples,) as they are stored. Raises InputError where some are missing."""
    count = head.width * head.height * head.channels
    values: Array
    if head.kind in (b"P1", b"P2", b"P3"):
        text = re.sub(rb"#[^\n]*", b"", data[head.body :])
        text = re.sub(rb"([01])", rb"\1 ", text) if head.kind == b"P1" else text
        try:
            values = np.array(text.split()[:count], dtype=np.int64)
        except ValueError:
            raise source.damaged("its samples are no numbers") from None
    elif head.kind == b"P4":
        stride = (head.width + 7) // 8
        packed = np.frombuffer(data, np.uint8, offset=head.body)[: stride * head.height]
        rows = np.unpackbits(packed[: len(packed) // stride * stride].reshape(-1, stride), axis=1)
        values = rows[:, : head.width].reshape(-1)
    else:
        dtype = np.dtype((">" if head.big else "<") + ("f4" if not head.full else "u1" if head.full < 256 else "u2"))
        whole = (len(data) - head.body) // dtype.itemsize
        values = np.frombuffer(data, dtype, min(count, max(0, whole)), head.body)
    if len(values) < count:
        raise source.damaged(f"it breaks off after {len(data)} bytes")
    if head.full and (values.max(initial=0) > head.full or values.min(initial=0) < 0):
        raise source.damaged(f"it has samples beyond {head.full}")
    return values


def _page(array: Array, head: NetpbmHeader) -> Page:
    if not head.full:
        array = array.astype(np.float32)
    elif head.kind in (b"P1", b"P4"):
        array = np.where(array > 0, 0, 255).astype(np.uint8)  # 1 is black
    elif head.full & (head.full + 1) == 0:
        array = widened(array, head.full.bit_length())
    else:
        top = 255 if head.full < 256 else 65535
        array = np.rint(array * (top / head.full)).astype(np.uint8 if top == 255 else np.uint16)
    colours = 3 if head.channels > 2 else 1
    pixels = np.ascontiguousarray(array[:, :, :3] if colours == 3 else array[:, :, 0])
    return Page(pixels, np.ascontiguousarray(array[:, :, colours]) if head.channels > colours else None)


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one page: PGM or PPM, PAM where there is alpha, PFM for float32; in the bits of the source."""
    page = image.pages[0]
    height, width = page.pixels.shape[:2]
    channels = (1 if page.pixels.ndim == 2 else 3) + (page.alpha is not None)
    if page.pixels.dtype == np.float32:
        stream.write(b"%s\n%d %d\n-1.0\n" % (b"Pf" if channels == 1 else b"PF", width, height))
        stream.write(np.ascontiguousarray(page.pixels[::-1], "<f4").data)
        return
    bits = image.metadata.bits or 16 if page.pixels.dtype == np.uint16 else 8
    if page.alpha is None:
        stream.write(b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, 2**bits - 1))
    else:
        kind = b"GRAYSCALE_ALPHA" if channels == 2 else b"RGB_ALPHA"
        sizes = width, height, channels, 2**bits - 1
        stream.write(b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH %d\nMAXVAL %d\nTUPLTYPE %s\nENDHDR\n" % (*sizes, kind))
    for rows in bands(page.pixels):
        block = narrowed(interleaved(page, rows), bits)
        stream.write(np.ascontiguousarray(block, ">u2" if block.dtype == np.uint16 else "u1").data)
