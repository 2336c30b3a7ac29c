"""Files of a broken structure are read or refused, within bounds of time and memory."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from sample_images import by_pillow, coded, exif_block, metadata, noise, page
from structure_fuzz import failures

from medcli.errors import InputError
from medcli.images import DecodedImage, read

RGB = Image.fromarray(noise("uint8", (13, 17, 3)))
CASES = 300


def jpegs() -> list[bytes]:
    further = [Image.new("L", (9, 7), 10)]
    kinds: list[dict[str, Any]] = [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"exif": exif_block()}]
    plain = [by_pillow(RGB.convert(mode), "jpeg", **kind) for mode in ("L", "RGB", "CMYK") for kind in kinds]
    full = coded(DecodedImage([page()], "jpeg", metadata("icc exif xmp dpi")))
    return [*plain, full, by_pillow(RGB, "mpo", save_all=True, append_images=further)]


def pngs() -> list[bytes]:
    kinds = [(depth, kind) for depth in ("uint8", "uint16") for kind in ("L", "LA", "RGB", "RGBA")]
    full = [coded(DecodedImage([page(*kind)], "png", metadata("icc exif xmp dpi"))) for kind in kinds]
    odd = [by_pillow(RGB.convert(mode), "png") for mode in ("1", "P")]
    return [*full, *odd, by_pillow(RGB, "png", save_all=True, append_images=[RGB.rotate(180)], transparency=(1, 2, 3))]


def webps() -> list[bytes]:
    kinds: list[dict[str, Any]] = [{"lossless": True}, {"quality": 50}, {"quality": 90, "exif": exif_block()}]
    more = {"save_all": True, "append_images": [RGB.rotate(180)]}
    return [
        by_pillow(RGB.convert(mode), "webp", **kind, **extra)
        for mode in ("RGB", "RGBA")
        for kind in kinds
        for extra in ({}, more)
    ]


@pytest.mark.parametrize(("format", "samples"), [("jpeg", jpegs), ("png", pngs), ("webp", webps)])
def test_a_broken_structure_is_read_or_refused(format: str, samples: Any) -> None:
    assert failures(format, samples(), range(CASES)) == []


def test_repeated_chunks_do_not_make_huge_sides_likely() -> None:
    small = by_pillow(RGB, "webp", quality=50)
    chunk = bytearray(small[12:])
    chunk[8 + 6 : 8 + 10] = b"\xff\x3f\xff\x3f"
    body = b"WEBP" + bytes(chunk) * 500
    with pytest.raises(InputError, match="too short"):
        read(b"RIFF" + len(body).to_bytes(4, "little") + body)
