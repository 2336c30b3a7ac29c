"""Files come back as they were, and bad ones get an error."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from sample_images import HEIGHT, ICC, WIDTH, XMP, by_pillow, coded, exif_block, metadata, noise, page

from medcli.errors import InputError, OutputError
from medcli.images import DecodedImage, Metadata, Page, exif, format_of, others, read, supported, write
from medcli.images.formats import FORMATS

LOSSLESS = [
    *[("png", depth, kind) for depth in ("uint8", "uint16") for kind in ("L", "LA", "RGB", "RGBA")],
    *[("tiff", depth, kind) for depth in ("uint8", "uint16", "float32") for kind in ("L", "LA", "RGB", "RGBA")],
    *[("webp", "uint8", kind) for kind in ("RGB", "RGBA")],
    *[("bmp", "uint8", kind) for kind in ("L", "RGB", "RGBA")],
]
CLASSIC = ("png", "tiff", "jpeg", "webp", "bmp")  # the others: test_formats.py
SIZES = [(1, 1), (3, 7), (60, 20000), (20000, 2)]
RGB = Image.fromarray(noise("uint8", (HEIGHT, WIDTH, 3)))


def same(one: Page, other: Page) -> None:
    assert one.pixels.dtype == other.pixels.dtype
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None and other.alpha is not None:
        assert one.alpha.dtype == other.alpha.dtype
        np.testing.assert_array_equal(one.alpha, other.alpha)


@pytest.mark.parametrize("names", ["", "icc", "exif", "xmp", "dpi", "icc exif xmp dpi"])
@pytest.mark.parametrize(("format", "depth", "kind"), LOSSLESS)
def test_what_is_written_is_read_again(format: str, depth: str, kind: str, names: str) -> None:
    names = " ".join(name for name in names.split() if name in FORMATS[format].carries)
    first = DecodedImage([page(depth, kind)], format, metadata(names))
    before = first.pages[0].pixels.copy()
    second = read(coded(first))
    np.testing.assert_array_equal(first.pages[0].pixels, before)
    same(first.pages[0], second.pages[0])
    assert first.notes == second.notes == []
    for name in ("icc", "xmp"):
        assert getattr(second.metadata, name) == getattr(first.metadata, name)
    assert second.metadata.dpi == (pytest.approx((300, 150), rel=1e-3) if "dpi" in names else None)
    assert exif.orientation(second.metadata.exif) == (6 if "exif" in names else 1)
    third = read(coded(second))
    same(second.pages[0], third.pages[0])
    assert third.metadata == second.metadata


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", CLASSIC)
def test_every_shape(format: str, size: tuple[int, int]) -> None:
    if max(size) > FORMATS[format].longest:
        pytest.skip("beyond the format")
    first = DecodedImage([page(size=size)], format, Metadata(lossless=True, quality=100))
    second = read(coded(first))
    assert second.pages[0].pixels.shape == (*size, 3)
    if format != "jpeg":
        same(first.pages[0], second.pages[0])


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp"])
def test_exif_stays_readable_for_others(format: str) -> None:
    written = coded(DecodedImage([page()], format, metadata("exif xmp icc")))
    held = Image.open(io.BytesIO(written)).getexif()
    assert (held[271], held[272], held[274]) == ("Maker", "Model with a long name", 6)
    assert held.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    assert held.get_ifd(0x8769)[0x927C] == b"\1\2\3\4" * 9
    assert [float(value) for value in held.get_ifd(0x8825)[2]] == [48.0, 8.0, 12.5]
    assert Image.open(io.BytesIO(written)).info["icc_profile"] == ICC


def test_thumbnail_goes_and_sides_are_true() -> None:
    block = exif_block(thumbnail=True)
    result = read(by_pillow(RGB, "jpeg", exif=b"Exif\0\0" + block)).metadata.exif
    assert b"\xff\xd8\xff" in block
    assert result is not None
    assert b"\xff\xd8\xff" not in result
    held = Image.Exif()
    held.load(b"Exif\0\0" + result)
    assert not held.get_ifd(ExifTags.IFD.IFD1)
    assert (held.get_ifd(0x8769)[0xA002], held.get_ifd(0x8769)[0xA003]) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_the_thumbnail_shows_the_new_pixels(format: str, kind: str) -> None:
    block = exif_block(thumbnail=True)
    image = read(by_pillow(RGB.convert(kind), format, exif=b"Exif\0\0" + block))
    image.pages[0].pixels = np.full_like(image.pages[0].pixels, 200)
    written = Image.open(io.BytesIO(coded(image)))
    held = written.getexif()
    small = held.get_ifd(ExifTags.IFD.IFD1)
    packed = written.info["exif"].removeprefix(b"Exif\0\0")[small[0x0201] :][: small[0x0202]]
    shown = Image.open(io.BytesIO(packed)).convert("L")
    assert shown.size == (8, 8)
    assert shown.getpixel((4, 4)) == pytest.approx(200, abs=3)
    assert held.get_ifd(0x8769)[0x927C] == b"\1\2\3\4" * 9
    assert image.notes == []


def test_thumbnails_that_cannot_be_kept_are_named() -> None:
    image = read(by_pillow(RGB, "jpeg", exif=b"Exif\0\0" + exif_block(thumbnail=True)))
    coded(image, format="tiff")
    assert image.notes == ["TIFF cannot hold thumbnail: dropped."]
    plain = by_pillow(RGB, "jpeg")
    jfif = plain[:4] + b"\0\x13" + plain[6:18] + b"\1\1\xff\0\0" + plain[20:]
    jfxx = plain[:20] + b"\xff\xe0\0\x0cJFXX\0\x11\1\1\1\1" + plain[20:]
    for data in (jfif, jfxx):
        assert read(data).notes == ["The thumbnail of the JFIF header was dropped."]


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
def test_pixels_stay_as_they_are_stored(format: str) -> None:
    lossless = {"lossless": True} if format == "webp" else {}
    second = read(by_pillow(RGB, format, exif=b"Exif\0\0" + exif_block(orientation=6), **lossless))
    expected = Image.open(io.BytesIO(by_pillow(RGB, format, **lossless)))
    np.testing.assert_array_equal(second.pages[0].pixels, np.asarray(expected))
    assert exif.orientation(second.metadata.exif) == 6


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pixels_that_libtiff_unpacks_stay_as_they_are_stored(turn: int, depth: str) -> None:
    values = noise(depth, (5, 7, 3))
    data = bytearray(_lzw(values))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[284].offset  # PlanarConfiguration has its default here: make it the orientation
    data[place : place + 12] = struct.pack("<HHII", 274, 3, 1, turn)
    second = read(bytes(data))
    same(second.pages[0], Page(values))
    assert exif.orientation(second.metadata.exif) == turn


def _lzw(values: Any) -> bytes:
    import cv2

    done, packed = cv2.imencode(".tif", values[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    with tifffile.TiffFile(io.BytesIO(packed.tobytes())) as file:
        assert file.pages[0].compression == 5
    return bytes(packed)


@pytest.mark.parametrize("turn", range(1, 9))
def test_bmp_without_a_tag_is_turned(turn: int) -> None:
    from PIL import ImageOps

    source = read(by_pillow(RGB, "png", exif=b"Exif\0\0" + exif_block(orientation=turn)))
    second = read(coded(source, format="bmp"))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(by_pillow(RGB, "png", exif=exif_block(orientation=turn)))))
    np.testing.assert_array_equal(second.pages[0].pixels, np.asarray(upright))
    assert any("upright" in line for line in source.notes) == (turn != 1)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [35, 75, 92, 100])
def test_jpeg_keeps_quality_and_subsampling(quality: int, subsampling: int) -> None:
    original = by_pillow(RGB, "jpeg", quality=quality, subsampling=subsampling, dpi=(118, 118), comment=b"hello")
    first = read(original)
    np.testing.assert_array_equal(first.pages[0].pixels, np.asarray(Image.open(io.BytesIO(original))))
    second = read(coded(first))
    assert first.metadata.quantization == by_table(original)
    assert first.metadata.subsampling == ("4:4:4", "4:2:2", "4:2:0")[subsampling]
    assert second.metadata == first.metadata
    assert first.metadata.dpi == pytest.approx((118, 118))
    half = by_pillow(RGB, "jpeg", quality=50)
    assert read(coded(first, quality=50)).metadata.quantization == by_table(half)


def by_table(data: bytes) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table) for table in Image.open(io.BytesIO(data)).quantization.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
@pytest.mark.parametrize("locked", [False, True])
def test_writing_leaves_the_image_as_it_was(format: str, locked: bool) -> None:
    first = page()
    first.pixels.flags.writeable = not locked
    before = first.pixels.copy()
    coded(DecodedImage([first], format), quality=100)
    np.testing.assert_array_equal(first.pixels, before)
    smooth = np.full((8, 8, 3), (200, 30, 90), np.uint8)
    second = read(coded(DecodedImage([Page(smooth)], format), quality=100))
    assert np.abs(second.pages[0].pixels.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    ("marker", "bits", "word"), [(0xC3, 8, "lossless"), (0xF7, 8, "lossless"), (0xC1, 12, "12 bits")]
)
def test_jpegs_of_other_kinds_are_refused(marker: int, bits: int, word: str) -> None:
    data = bytearray(by_pillow(RGB, "jpeg"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    with pytest.raises(InputError, match=word) as message_lines:
        read(bytes(data))
    assert "Convert" in message_lines.value.hint


def test_gray_jpeg_stays_gray() -> None:
    first = read(by_pillow(RGB.convert("L"), "jpeg"))
    assert first.pages[0].pixels.ndim == 2
    assert read(coded(first)).pages[0].pixels.ndim == 2


@pytest.mark.parametrize("table", [1, 60])
def test_foreign_quantization_tables_are_used_again(table: int) -> None:
    tables = [[table + index for index in range(64)], [2 * table + index for index in range(64)]]
    original = by_pillow(RGB, "jpeg", qtables=tables)
    assert by_table(coded(read(original))) == by_table(original) == tuple(map(tuple, tables))
    gray = by_pillow(RGB.convert("L"), "jpeg", qtables=tables[:1])
    assert by_table(coded(read(gray))) == (tuple(tables[0]),)


@pytest.mark.parametrize("kind", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_stray_bytes_and_a_missing_end_marker_of_a_jpeg(kind: str, progressive: bool) -> None:
    plain = by_pillow(RGB.convert(kind), "jpeg", progressive=progressive, comment=b"hello")
    first, at = read(plain), plain.index(b"\xff\xfe\0\x07hello")
    for broken in (plain[:at] + b"\0stray\xff\xff" + plain[at:], plain[:-2], plain[:-1]):
        second = read(broken)
        same(first.pages[0], second.pages[0])
        assert second.metadata == first.metadata
        assert ("The end marker is missing." in second.notes) == (len(broken) < len(plain))


def test_a_video_behind_a_jpeg_stays_where_its_metadata_say() -> None:
    video = b"\0\0\0\x18ftypmp42" + bytes(500) + b"\xff\xd8\xff\xd9"
    first = read(by_pillow(RGB, "jpeg", xmp=XMP) + video)
    assert coded(first).endswith(b"\xff\xd9" + video)
    assert first.notes == ["The file holds a video: it is not denoised."]
    coded(first, format="png")
    assert "PNG cannot hold what JPEG alone has: further images or video: dropped." in first.notes


def test_further_images_of_a_jpeg_stay_where_its_index_says() -> None:
    others = [Image.new("L", (9, 7), gray) for gray in (10, 200)]
    original = by_pillow(RGB, "mpo", save_all=True, append_images=others, quality=90)
    first = read(original)
    written = coded(first, quality=30)
    assert abs(len(written) - len(original)) > 100
    with Image.open(io.BytesIO(written)) as file:
        assert file.format == "MPO"
        assert (file.n_frames, file.mpinfo[0xB002][0]["Size"]) == (3, written.index(b"\xff\xd9") + 2)  # type: ignore[attr-defined]
        for number, other in enumerate(others, 1):
            file.seek(number)
            assert np.asarray(file).tolist() == np.asarray(other).tolist()
    assert first.notes == ["The file holds further images (previews, a gain map): they are not denoised."]
    assert read(written).metadata.native == first.metadata.native


def test_an_index_of_images_that_points_nowhere_is_dropped_with_a_note() -> None:
    plain = by_pillow(RGB, "jpeg")
    index = b"MPF\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0xB002, 7, 32, 9999) + bytes(4)
    broken = plain[:2] + struct.pack(">BBH", 255, 0xE2, len(index) + 2) + index + plain[2:]
    first = read(broken)
    assert first.notes == ["The index of further images could not be read: dropped."]
    assert b"MPF" not in coded(first)


def test_other_jpeg_segments() -> None:
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x02\x1c\x02"
    signature = b"JP\0\1 a signature over the old pixels"
    plain = by_pillow(RGB, "jpeg")
    blocks = b"".join(struct.pack(">BBH", 255, m, len(c) + 2) + c for m, c in ((0xED, iptc), (0xEB, signature)))
    first = read(plain[:2] + blocks + plain[2:])
    assert first.notes == ["Signatures or other data about the old pixels (APP11) were dropped."]
    second = read(coded(first))
    assert (b"\xed", iptc) in second.metadata.native
    assert all(kind != b"\xeb" for kind, _ in second.metadata.native)


def test_png_colour_chunks_and_text() -> None:
    plain = by_pillow(RGB, "png")
    added = [(b"gAMA", (45455).to_bytes(4, "big")), (b"cICP", b"\1\x0d\0\1"), (b"tEXt", b"Title\0night")]
    added += [(b"tIME", bytes(7)), (b"pHYs", struct.pack(">IIB", 2835, 2835, 1))]
    head = plain[:33] + b"".join(
        struct.pack(">I4s", len(c), k) + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in added
    )
    first = read(head + plain[33:])
    assert first.metadata.native == tuple(each for each in added if each[0] != b"tIME")
    assert read(coded(first)).metadata == first.metadata
    assert first.metadata.dpi == pytest.approx((72.009, 72.009))


def with_chunks(plain: bytes, *added: tuple[bytes, bytes]) -> bytes:
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in added)
    return plain[:33] + b"".join(packed) + plain[33:]


def test_png_chunks_that_belong_to_the_pixels_are_named() -> None:
    scale = (b"sCAL", b"\x011e-6\x001e-6")
    first = read(
        with_chunks(by_pillow(RGB, "png"), scale, (b"caBX", b"signed"), (b"bKGD", bytes(6)), (b"tIME", bytes(7)))
    )
    assert first.metadata.native == (scale,)
    assert first.notes == ["Chunks that belong to the old pixels were dropped: caBX, bKGD."]
    assert read(by_pillow(RGB, "png") + b"behind").notes == ["6 bytes behind the end of the image were dropped."]
    assert read(with_chunks(by_pillow(RGB, "png"), (b"iCCP", b"x\0\0not packed"))).notes == [
        "The colour profile could not be read: dropped."
    ]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_png_of_few_bits(bits: int) -> None:
    rows = b"".join(b"\0" + bytes([row * 37 % 256, row * 91 % 256]) for row in range(8))
    width = 16 // bits
    head = struct.pack(">IIBBBBB", width, 8, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + with_chunks(bytes(33), *chunks)[33:]
    first = read(data)
    packed = np.unpackbits(np.array([list(rows[at + 1 : at + 3]) for at in range(0, 24, 3)], np.uint8), axis=1)
    values = packed.reshape(8, width, bits) @ (1 << np.arange(bits)[::-1])
    np.testing.assert_array_equal(first.pages[0].pixels, values * (255 // (2**bits - 1)))
    assert len(first.notes) == 1


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_packed_pixels_of_a_png_that_are_wrong_print_nothing(depth: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = zlib.compress(bytes(HEIGHT * (1 + 3 * WIDTH * (2 if depth == "uint16" else 1))))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16 if depth == "uint16" else 8, 2, 0, 0, 0)
    for broken in (rows[:-4] + bytes(4), rows[:-6], b"nothing packed"):
        chunks = [(b"IHDR", head), (b"IDAT", broken), (b"IEND", b"")]
        with pytest.raises(InputError, match="pixels"):
            read(b"\x89PNG\r\n\x1a\n" + with_chunks(bytes(33), *chunks)[33:])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_palettes_of_a_bmp(colours: int) -> None:
    image = RGB.quantize(colours)
    first = read(by_pillow(image, "bmp"))
    np.testing.assert_array_equal(first.pages[0].pixels, np.asarray(image.convert("RGB")))
    assert first.notes == ["Palette colours were converted to RGB."] or colours == 2


@pytest.mark.parametrize("format", ["bmp", "png"])
@pytest.mark.parametrize("levels", [2, 16, 200])
def test_palettes_of_grays_become_gray(format: str, levels: int) -> None:
    values = noise("uint8", (13, 17)) % levels
    image = Image.fromarray(values).convert("P")
    image.putpalette([255 - level for level in range(levels) for _ in range(3)] + [9, 8, 7])
    first = read(by_pillow(image, format))
    np.testing.assert_array_equal(first.pages[0].pixels, 255 - values)
    if format == "png":  # a profile of colours says nothing of grays
        assert read(by_pillow(image, format, icc_profile=ICC)).pages[0].pixels.ndim == 3


def test_a_profile_in_a_bmp_is_read_by_others_where_the_header_says() -> None:
    written = coded(DecodedImage([page()], "bmp", Metadata(icc=ICC)))
    at, size = struct.unpack_from("<II", written, 14 + 112)
    assert written[14 + at : 14 + at + size] == ICC
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(written))), page().pixels)
    calibrated = bytearray(written)
    calibrated[14 + 56 : 14 + 64] = b"\0\0\0\0what"
    assert read(bytes(calibrated)).notes == ["The colour space in the header could not be kept: dropped."]
    assert read(written[: -len(ICC)]).notes == ["The colour space in the header could not be kept: dropped."]


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 100])
def test_webp_keeps_its_quality(quality: int) -> None:
    smooth = Image.fromarray(np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)).convert("RGB")
    for image in (
        RGB,
        smooth,
        Image.merge("RGB", Image.effect_mandelbrot((96, 96), (-3, -2.5, 2, 2.5), 30).split() * 3),
    ):
        first = read(by_pillow(image, "webp", quality=quality))
        assert first.metadata.quality is not None
        assert quality - 1 <= first.metadata.quality <= quality + 10
        assert coded(first) == coded(first, quality=first.metadata.quality)
        assert first.notes == []


@pytest.mark.parametrize("lossless", [True, False])
def test_animated_webp_gives_its_first_frame_and_stays_lossless(lossless: bool) -> None:
    further = Image.fromarray(255 - np.asarray(RGB))
    first = read(by_pillow(RGB, "webp", save_all=True, append_images=[further], lossless=lossless, quality=80))
    assert first.notes == ["Only the first frame of the animation is kept."]
    assert first.metadata.lossless == lossless
    if lossless:
        np.testing.assert_array_equal(read(coded(first)).pages[0].pixels, np.asarray(RGB))
    else:
        assert first.metadata.quality in range(78, 86)


def test_what_a_webp_holds_beside_its_image_is_named() -> None:
    plain = by_pillow(RGB, "webp", lossless=True, exif=exif_block())
    more = plain[:4] + struct.pack("<I", len(plain) + 4) + plain[8:] + b"ODD \4\0\0\0what"
    assert read(more + b"behind").notes == [
        "Chunks that are unknown were dropped: ODD.",
        "6 bytes behind the end of the image were dropped.",
    ]


@pytest.mark.parametrize("mode", ["1", "P", "PA", "L2"])
def test_odd_png_says_what_was_done(mode: str) -> None:
    image = RGB.convert("1") if mode == "1" else RGB.quantize(4) if mode == "L2" else RGB.convert("P")
    options: dict[str, Any] = {"transparency": 1} if mode == "PA" else {}
    first = read(by_pillow(image, "png", **options))
    assert len(first.notes) == 1
    if mode == "1":
        np.testing.assert_array_equal(first.pages[0].pixels, np.asarray(image.convert("L")))
    else:
        np.testing.assert_array_equal(first.pages[0].pixels, np.asarray(image.convert("RGB")))
    assert (first.pages[0].alpha is not None) == (mode == "PA")


@pytest.mark.parametrize("kind", ["L", "RGB", "I;16"])
def test_transparent_colour_becomes_alpha(kind: str) -> None:
    image = Image.fromarray(noise("uint16", (5, 5))) if kind == "I;16" else RGB.convert(kind)
    values = np.asarray(image)
    key = tuple(int(v) for v in values[2, 2]) if kind == "RGB" else int(values[2, 2])
    first = read(by_pillow(image, "png", transparency=key))
    np.testing.assert_array_equal(first.pages[0].pixels, values)
    hit = values == values[2, 2]
    hit = hit.all(axis=2) if kind == "RGB" else hit
    assert first.pages[0].alpha is not None
    np.testing.assert_array_equal(first.pages[0].alpha == 0, hit)


@pytest.mark.parametrize(("kind", "key"), [("L", b""), ("L", b"abc"), ("RGB", b"\0\1\0\1"), ("RGB", b"\0\1")])
def test_a_transparent_colour_of_the_wrong_length_is_damage(kind: str, key: bytes) -> None:
    with pytest.raises(InputError, match="transparent colour"):
        read(_with_key(kind, key))


def test_a_transparent_colour_beside_alpha_is_no_more_than_noise() -> None:
    same(read(_with_key("LA", b"\0\1")).pages[0], page(kind="LA"))


def _with_key(kind: str, key: bytes) -> bytes:
    data = coded(DecodedImage([page(kind=kind)], "png"))
    chunk = struct.pack(">I", len(key)) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("format", ["jpeg", "tiff"])
def test_cmyk_is_converted_and_loses_its_profile(format: str) -> None:
    first = read(by_pillow(RGB.convert("CMYK"), format, icc_profile=b"not a profile at all"))
    assert first.notes == ["CMYK was converted to RGB without a colour profile."]
    assert first.metadata.icc is None
    expected = Image.open(io.BytesIO(by_pillow(RGB.convert("CMYK"), format))).convert("RGB")
    np.testing.assert_array_equal(first.pages[0].pixels, np.asarray(expected))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_tiff_compressions_of_others(mode: str, compression: str | None) -> None:
    image = RGB.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(noise("uint8", (HEIGHT, WIDTH), 5)))
    options = {"compression": compression} if compression else {}
    first = read(by_pillow(image, "tiff", **options))
    expected = page_of(np.asarray(image))
    same(first.pages[0], expected)
    again = read(coded(first))
    same(again.pages[0], expected)
    assert not first.notes
    assert first.metadata.tiff[0].compression == again.metadata.tiff[0].compression


def page_of(values: Any) -> Page:
    colours = {2: (values, None)}.get(values.ndim) or (values[..., :-1], values[..., -1])
    if values.ndim == 3 and values.shape[2] == 3:
        return Page(values)
    return Page(colours[0][..., 0] if values.ndim == 3 and values.shape[2] == 2 else colours[0], colours[1])


@pytest.mark.parametrize("depth", ["uint16", "float32"])
def test_lzw_of_deep_pixels(depth: str) -> None:
    values = noise(depth, (HEIGHT, WIDTH, 3))
    same(read(_lzw(values)).pages[0], Page(values))


@pytest.mark.parametrize("meaning", [0, 1, 2])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_further_sample_that_libtiff_unpacks_stays_as_it_is_stored(mode: str, meaning: int) -> None:
    expected = page(kind=mode)
    image = Image.fromarray(np.dstack([expected.pixels, expected.alpha]), mode)
    data = bytearray(by_pillow(image, "tiff", compression="tiff_lzw"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[338].valueoffset
    data[place : place + 2] = struct.pack("<H", meaning)
    first = read(bytes(data))
    same(first.pages[0], expected)
    assert any("no stated meaning" in line for line in first.notes) == (meaning == 0)
    with tifffile.TiffFile(io.BytesIO(coded(first))) as file:
        assert file.pages[0].extrasamples == (meaning,)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_stack(byteorder: Literal["<", ">"], compression: str | None) -> None:
    stack = noise("uint16", (4, 5, 6))
    stream = io.BytesIO()
    options: dict[str, Any] = {
        "resolution": (5.5, 5.5),
        "metadata": {"unit": "um", "Info": "a note", "Labels": list("abcd")},
    }
    tifffile.imwrite(stream, stack, imagej=True, byteorder=byteorder, compression=compression, **options)
    first = read(stream.getvalue())
    written = coded(first)
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as old, tifffile.TiffFile(io.BytesIO(written)) as new:
        assert new.imagej_metadata == old.imagej_metadata
        assert new.byteorder == byteorder
        assert new.pages[0].tags[282].value == old.pages[0].tags[282].value
        np.testing.assert_array_equal(new.asarray(), stack)
        if compression is None:  # ImageJ reads the slices from one block behind the first
            starts = [each.dataoffsets[0] for each in new.pages]
            assert np.diff(starts).tolist() == [60, 60, 60]
    assert read(written).metadata == first.metadata


def test_stack_with_one_directory() -> None:
    stack = noise("uint8", (4, 5, 6))
    stream = io.BytesIO()
    tifffile.imwrite(stream, stack, truncate=True, photometric="minisblack")
    assert [each.pixels.tolist() for each in read(stream.getvalue()).pages] == stack.tolist()


def test_pages_of_different_kinds_and_ome() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=True) as writer:
        xml = "<OME>\u00b5m</OME>".encode()
        writer.write(noise("uint8", (3, 4)), description=xml, metadata=None, software="one")
        writer.write(noise("float32", (5, 6, 3)), photometric="rgb", planarconfig="contig", metadata=None)
        writer.write(noise("uint16", (3, 5, 6)), photometric="rgb", planarconfig="separate", compression="zlib")
    first = read(stream.getvalue())
    assert [str(each.pixels.dtype) for each in first.pages] == ["uint8", "float32", "uint16"]
    np.testing.assert_array_equal(first.pages[2].pixels, np.moveaxis(noise("uint16", (3, 5, 6)), 0, -1))
    written = coded(first)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.is_bigtiff
        assert file.pages[0].tags[270].value == xml.decode()
        assert [int(each.compression) for each in file.pages] == [1, 1, 8]
    for one, other in zip(first.pages, read(written).pages, strict=True):
        same(one, other)


def test_every_page_keeps_its_own_profile_and_xmp() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for number, profile in enumerate((ICC, ICC[:-1] + b"!", None)):
            note = b"<note>%d</note>" % number
            writer.write(noise("uint8", (4, 5, 3)), iccprofile=profile, extratags=[(700, 1, len(note), note, True)])
    data = stream.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as old, tifffile.TiffFile(io.BytesIO(coded(read(data)))) as new:
        for code in (700, 34675):
            assert [page.tags.valueof(code) for page in new.pages] == [page.tags.valueof(code) for page in old.pages]


def test_one_bit_becomes_eight() -> None:
    values = noise("float32", (4, 5)).astype("bool")
    first = read(by_pillow(Image.fromarray(values), "tiff"))
    assert "1-bit" in first.notes[0]
    np.testing.assert_array_equal(first.pages[0].pixels, values * np.uint8(255))


def _tiff(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def test_white_is_zero_is_turned() -> None:
    values = noise("uint8", (4, 5))
    assert read(_tiff(values, photometric="miniswhite")).pages[0].pixels.tolist() == (255 - values).tolist()


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="complex64"):
        read(_tiff(np.zeros((4, 5), "complex64")))


def test_depth_is_decided_by_the_type_alone() -> None:
    dark = Page(noise("uint8", (4, 5)).astype("uint16"))
    assert read(coded(DecodedImage([dark], "png"))).pages[0].pixels.dtype == np.uint16


@pytest.mark.parametrize(("format", "depth"), [("png", "uint16"), ("jpeg", "uint8"), ("bmp", "uint8")])
def test_float_is_scaled_with_a_note(format: str, depth: str) -> None:
    values = np.array([[-1.0, 0.0, 0.25], [0.5, 1.0, np.nan]], "float32")
    image = DecodedImage([Page(values)], "tiff")
    second = read(coded(image, format=format, quality=100))
    full = np.iinfo(depth).max
    expected = np.rint(np.nan_to_num(values).clip(0, 1) * full)
    assert second.pages[0].pixels.dtype == depth
    assert np.abs(second.pages[0].pixels - expected).max() <= (2 if format == "jpeg" else 0)
    assert "float" in image.notes[0]


def test_sixteen_bit_is_rounded_with_a_note() -> None:
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = DecodedImage([Page(wide)], "png")
    second = read(coded(image, format="bmp"))
    np.testing.assert_array_equal(second.pages[0].pixels, np.rint(wide / 257).astype(np.uint8))
    assert "16 bit was rounded to 8 bit" in image.notes[0]


@pytest.mark.parametrize(
    ("image", "format", "word"),
    [
        (DecodedImage([page(kind="RGBA")], "png"), "jpeg", "transparency"),
        (DecodedImage([page(), page()], "tiff"), "png", "2 pages"),
        (DecodedImage([page(size=(1, 16384))], "png"), "webp", "16383"),
        (DecodedImage([page()], "png"), "pmg", "pmg"),
    ],
)
def test_what_a_format_cannot_hold(image: DecodedImage, format: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=word) as message_lines:
        write(image, tmp_path / "x", format=format)
    assert message_lines.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp"])
@pytest.mark.parametrize("source", ["png", "tiff", "jpeg", "webp"])
def test_metadata_crosses_formats(source: str, format: str) -> None:
    first = read(coded(DecodedImage([page()], source, metadata("icc exif xmp dpi"))))
    second = read(coded(first, format=format)).metadata
    assert second.icc == ICC
    assert second.xmp == XMP
    assert exif.orientation(second.exif) == 6
    assert second.exif is not None
    assert b"2024:05:06 07:08:09" in second.exif
    if "webp" not in (source, format):
        assert second.dpi == pytest.approx((300, 150), rel=1e-3)


def test_what_stays_behind_with_its_format_is_named() -> None:
    stream = io.BytesIO()
    caption, iptc = "Vega", (33723, "B", 8, b"\x1c\x02\x78\0\x03abc", True)
    tifffile.imwrite(stream, np.asarray(RGB), photometric="rgb", description=caption, extratags=[iptc], metadata=None)
    for data, format, words in (
        (stream.getvalue(), "jpeg", "JPEG cannot hold what TIFF alone has: description, IPTC: dropped."),
        (by_pillow(RGB, "jpeg", comment=b"Vega"), "png", "PNG cannot hold what JPEG alone has: comment: dropped."),
    ):
        image = read(data)
        coded(image, format=image.format)
        assert image.notes == []
        coded(image, format=format)
        assert image.notes == [words]
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.asarray(RGB), photometric="rgb")  # describes its shape
    image = read(stream.getvalue())
    coded(image, format="png")
    assert image.notes == []


def test_a_profile_of_gray_is_not_given_to_colour() -> None:
    image = DecodedImage([page(kind="L")], "png", Metadata(icc=ICC[:16] + b"GRAY" + ICC[20:]))
    assert read(coded(image, format="tiff")).metadata.icc == image.metadata.icc
    assert read(coded(image, format="webp")).metadata.icc is None
    assert "WEBP cannot hold a colour profile of gray: dropped." in image.notes


@pytest.mark.parametrize(("format", "dpi"), [("png", 1.1e8), ("bmp", 5.5e7), ("jpeg", 65536)])
def test_a_resolution_beyond_the_format_is_dropped_with_a_note(format: str, dpi: float) -> None:
    for value, kept in ((dpi, False), (dpi * 0.99, True)):
        image = DecodedImage([page()], "tiff", Metadata(dpi=(300.0, value)))
        assert (read(coded(image, format=format)).metadata.dpi is not None) == kept
        assert [line for line in image.notes if "resolution" in line] == [
            f"{format.upper()} cannot hold a resolution of {dpi:,.0f} dpi: dropped."
        ] * (not kept)


@pytest.mark.parametrize("source", ["jpeg", "webp", "png"])
def test_caption_and_resolution_of_exif_reach_a_tiff(source: str) -> None:
    held = Image.Exif()
    held.update({270: "A caption", 282: 240.0, 283: 120.0, 296: 3})
    written = coded(read(by_pillow(RGB, source, exif=held)), format="tiff")
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        tags = {tag.code: tag.value for tag in file.pages[0].tags}
    assert [tags[code] for code in (270, 282, 283, 296)] == ["A caption", (240, 1), (120, 1), 3]


def test_exif_that_points_at_itself_is_dropped_with_a_note() -> None:
    links = [(26, 0x8769), (26, 0xA005)]
    block = b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HHHIII", 1, tag, 4, 1, at, 0) for at, tag in links)
    first = read(by_pillow(RGB, "png", exif=b"Exif\0\0" + block))
    assert read(coded(first, format="tiff")).metadata.exif is None
    assert first.notes == ["The EXIF could not be read: dropped."]


def _samples() -> dict[str, bytes]:
    full = {
        name: coded(DecodedImage([page()], name, metadata("icc exif xmp dpi"))) for name in CLASSIC if name != "bmp"
    }
    palette = RGB.convert("P")
    full |= {"bmp": coded(DecodedImage([page()], "bmp")), "lossy webp": by_pillow(RGB, "webp", quality=80)}
    full |= {f"palette {name}": by_pillow(palette, name) for name in ("png", "bmp", "tiff")}
    full |= {"lzw tiff": by_pillow(RGB, "tiff", compression="tiff_lzw"), "cmyk": by_pillow(RGB.convert("CMYK"), "jpeg")}
    return full


@pytest.mark.parametrize(("name", "data"), _samples().items())
def test_truncated(name: str, data: bytes) -> None:
    plain = len(data) - (len(exif_block()) + 2 if name == "tiff" else 0)  # EXIF lies last: it is lost with a note
    plain -= 2 if name in ("jpeg", "cmyk") else 0  # the end marker alone may be missing
    assert read(data).pages
    for stop in {1, 3, 12, 30, *range(40, plain, max(1, plain // 23)), plain - 4}:
        with pytest.raises(InputError):
            read(data[:stop], name="half.png")


def test_one_wrong_byte_in_the_pixels_of_a_png() -> None:
    data = bytearray(coded(DecodedImage([page()], "png")))
    data[data.index(b"IDAT") + 60] ^= 1
    with pytest.raises(InputError, match="checksum"):
        read(bytes(data))


def test_truncated_exif_of_a_tiff_is_noted() -> None:
    data = coded(DecodedImage([page()], "tiff", metadata("exif")))
    assert read(data[:-40]).notes == ["The EXIF could not be read: dropped."]


@pytest.mark.parametrize(("name", "data"), _samples().items())
def test_garbled_bytes_never_give_another_error(name: str, data: bytes) -> None:
    generator = np.random.default_rng(1)
    for _ in range(25):
        broken = bytearray(data)
        for at in generator.integers(0, min(len(data), 400), 3):
            broken[at] = generator.integers(0, 256)
        with contextlib.suppress(InputError):
            assert read(bytes(broken)).pages


def test_bad_inputs_by_path(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello, this is no image at all")
    for name, word in [("none.png", "no file"), ("empty.png", "empty"), ("text.png", "not an image"), ("", "folder")]:
        with pytest.raises(InputError, match=word) as message_lines:
            read(tmp_path / name)
        assert message_lines.value.hint
        assert str(tmp_path) in message_lines.value.problem


@pytest.mark.parametrize("other", others.OTHERS, ids=lambda other: other.name)
def test_other_formats_are_named_with_the_way(other: others.Other) -> None:
    for at, mark in other.marks:
        with pytest.raises(InputError, match=other.name) as message_lines:
            read(bytes(at) + mark + bytes(600))
        assert other.way in message_lines.value.hint


@pytest.mark.parametrize("format", ["ico", "pdf", "dds"])
def test_files_of_other_programs_are_recognised(format: str) -> None:
    with pytest.raises(InputError, match="is not read by medcli"):
        read(by_pillow(RGB, format))
    with pytest.raises(InputError, match="SVG is not read"):
        read(b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>')


def test_random_bytes_are_no_image() -> None:
    generator = np.random.default_rng(0)
    for mark in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM", b"RIFF\0\0\0\0WEBP"):
        with pytest.raises(InputError):
            read(mark + generator.bytes(200))


@pytest.mark.parametrize("format", CLASSIC)
def test_limit_is_checked_before_decoding(format: str) -> None:
    data = coded(DecodedImage([page()], format))
    assert read(data, max_pixels=HEIGHT * WIDTH).pages
    with pytest.raises(InputError, match="limit"):
        read(data, max_pixels=HEIGHT * WIDTH - 1)


def test_bomb_in_a_few_bytes() -> None:
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(InputError, match="10,000 megapixels"):
        read(b"\x89PNG\r\n\x1a\n" + chunk)


def test_pages_count_together() -> None:
    data = coded(DecodedImage([page(), page()], "tiff"))
    with pytest.raises(InputError, match="limit"):
        read(data, max_pixels=HEIGHT * WIDTH)


def test_wrong_suffix_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(coded(DecodedImage([page()], "png")))
    assert "PNG" in read(path).notes[0]


def test_unicode_paths_and_links(tmp_path: Path) -> None:
    path = tmp_path / "Fotoğraf 写真 é.tif"
    path.write_bytes(b"old")
    link = tmp_path / "link.tif"
    link.symlink_to(path)
    first = DecodedImage([page()], "tiff")
    write(first, link)
    assert link.is_symlink()
    same(first.pages[0], read(path).pages[0])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(DecodedImage([page()], "png"), target)
    assert [each.name for each in tmp_path.iterdir()] == ["x.png"]
    assert target.read_bytes() == b"old"


class Pipe(io.BytesIO):
    """A stream that cannot be rewound."""

    def seekable(self) -> bool:
        return False


def test_a_pipe_gets_what_a_file_gets() -> None:
    pipe, file = Pipe(), io.BytesIO()
    for stream in (pipe, file):
        write(DecodedImage([page()], "tiff"), stream)
    assert pipe.getvalue() == file.getvalue() != b""


def test_a_failed_write_gives_a_pipe_nothing() -> None:
    stream = Pipe()
    broken = DecodedImage([Page(np.zeros((2, 2), np.complex64))], "tiff")
    broken.pages[0].pixels = np.zeros((2, 2, 5), np.uint8)
    with pytest.raises(OutputError):
        write(broken, stream)
    assert stream.getvalue() == b""


@pytest.mark.parametrize("name", ["file/x.png", ""])
def test_unwritable_places(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as message_lines:
        write(DecodedImage([page()], "png"), tmp_path / name, format="png")
    assert message_lines.value.hint
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_names() -> None:
    assert format_of("A/B.JPG") == "jpeg"
    assert supported("x.TIFF")
    assert not supported("x.psd")
    assert not supported(".medcli-00.part")


def test_profile_of_inks_is_used() -> None:
    assert ImageCms.ImageCmsProfile(io.BytesIO(ICC))  # an RGB profile on CMYK is a wrong one: reported, not followed
    first = read(by_pillow(RGB.convert("CMYK"), "jpeg", icc_profile=ICC))
    assert first.metadata.icc is None


def test_import_is_light() -> None:
    code = "import sys, medcli.images; print([m for m in ('torch', 'tifffile', 'PIL.Image') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
