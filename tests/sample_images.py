"""Tiny images for tests, with metadata of every kind."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms

from medcli.images import DecodedImage, Metadata, Page, write
from medcli.images.exif import tidied

HEIGHT, WIDTH = 13, 17
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><note>\xc3\xa9</note></x:xmpmeta>'


def noise(depth: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Every value of an integer depth; for float32 also values outside [0, 1]."""
    generator = np.random.default_rng(seed)
    if depth == "float32":
        return generator.normal(0.5, 1.0, shape).astype(np.float32)
    return generator.integers(0, np.iinfo(depth).max, shape, depth, endpoint=True)


def page(depth: str = "uint8", kind: str = "RGB", size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0) -> Page:
    """A page of a `kind` among L, LA, RGB, RGBA."""
    shape = (*size, 3) if kind.startswith("RGB") else size
    return Page(noise(depth, shape, seed), noise(depth, size, seed + 1) if kind.endswith("A") else None)


def exif_block(thumbnail: bool = False, orientation: int = 6) -> bytes:
    """Camera, orientation, date, place and maker's note; the width in it is wrong, as careless tools leave it."""
    held = Image.Exif()
    held[271], held[272], held[274] = "Maker", "Model with a long name", orientation
    held.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA002: 4000, 0xA003: HEIGHT, 0x927C: b"\1\2\3\4" * 9})
    held.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 12.5)})
    held[0x8769], held[0x8825] = held.get_ifd(0x8769), held.get_ifd(0x8825)
    block = held.tobytes().removeprefix(b"Exif\0\0")
    return with_thumbnail(block) if thumbnail else tidied(block, WIDTH, HEIGHT)


def with_thumbnail(block: bytes) -> bytes:
    """`block` with a second directory that holds a small JPEG at the end."""
    mark: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    first = int.from_bytes(block[4:8], mark)
    link = first + 2 + 12 * int.from_bytes(block[first : first + 2], mark)
    packed = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(packed, "jpeg")
    start = len(block) + 30
    fields = [(0x0201, 4, 1, start), (0x0202, 4, 1, len(packed.getvalue()))]
    second = (2).to_bytes(2, mark)
    for tag, kind, count, value in fields:
        second += tag.to_bytes(2, mark) + kind.to_bytes(2, mark) + count.to_bytes(4, mark) + value.to_bytes(4, mark)
    second += bytes(4)
    return block[:link] + len(block).to_bytes(4, mark) + block[link + 4 :] + second + packed.getvalue()


def metadata(names: str) -> Metadata:
    """What the words in `names` say: any of icc, exif, xmp, dpi."""
    held: dict[str, Any] = {"icc": ICC, "exif": exif_block(), "xmp": XMP, "dpi": (300.0, 150.0)}
    return Metadata(lossless=True, **{name: held[name] for name in names.split()})


def coded(image: DecodedImage, **options: Any) -> bytes:
    """The bytes of `image` as a file."""
    stream = io.BytesIO()
    write(image, stream, **options)
    return stream.getvalue()


def by_pillow(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of `image` as another program would write them."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
