"""TIFF: the structure is checked, nothing is lost without a note, and what is read is written again."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from sample_images import by_pillow, coded, metadata, noise, page
from structure_fuzz import failures

from medcli.errors import InputError
from medcli.images import DecodedImage, read

GRAY = noise("uint8", (9, 11))
RGB = noise("uint8", (9, 11, 3))


def tiff(*pages: tuple[Any, dict[str, Any]], **options: Any) -> bytes:
    """A file of pages, each with the options of tifffile's write."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **options) as writer:
        for values, details in pages:
            writer.write(values, **{"metadata": None, "photometric": "minisblack", **details})
    return stream.getvalue()


def chained(*links: int) -> bytes:
    """Pages of 2x2 pixels; the link of each is the number of the page it leads to, -1 for none, else a place."""
    entries = [(256, 2), (257, 2), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 4)]
    size = 2 + 12 * len(entries) + 4
    places = {**{number: 12 + number * size for number in range(len(links))}, -1: 0}
    body = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in entries)
    directories = [struct.pack("<H", 9) + body + struct.pack("<I", places.get(link, link)) for link in links]
    return struct.pack("<2sHI", b"II", 42, 12) + b"\1\2\3\4" + b"".join(directories)


@pytest.mark.parametrize("links", [(0,), (1, 0), (1, 2, 1), (1, 2, 2), (*range(1, 200), 150)])
def test_a_chain_that_leads_back_is_damage(links: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="damaged: its chain of directories leads back"):
        read(chained(*links))


@pytest.mark.parametrize("link", [10**6, 9, 2**32 - 1])
def test_a_broken_link_costs_only_what_follows(link: int) -> None:
    image = read(chained(1, link))
    assert len(image.pages) == 2
    assert "page 2 is broken" in image.notes[0]
    with pytest.raises(InputError, match="has no pages"):
        read(b"II*\0" + struct.pack("<I", link) + bytes(20))


def test_directories_that_overlap_are_damage() -> None:
    data = bytearray(tiff((GRAY, {"extratags": [(65000, 7, 400, bytes(400), True)] * 1})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages.first
        entry = first.tags[65000].offset
        count = len(first.tags)
    place = len(data)
    extra = data[entry : entry + 12] * 40
    start = bytes(data[first.offset + 2 : first.offset + 2 + 12 * count])
    data[4:8] = struct.pack("<I", place)
    data += struct.pack("<H", count + 40) + start + extra + bytes(4)
    with pytest.raises(InputError, match="tags overlap"):
        read(bytes(data))


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [
        (256, 60000, "cannot hold 60000x9 pixels"),
        (257, 60000, "lacks|cannot hold"),
        (277, 60000, "cannot hold|kind"),
        (322, 2**24, "tiles of 16777216x16 pixels do not fit"),
        (322, 1, "lacks"),
    ],
)
def test_sizes_that_the_data_cannot_have_are_damage(code: int, value: int, words: str) -> None:
    data = bytearray(tiff((GRAY, {"compression": "zlib", "tile": (16, 16) if code == 322 else None})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[code].offset
    data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, value)
    with pytest.raises(InputError, match=words):
        read(bytes(data))


def test_a_packing_tag_beyond_the_end_is_damage_and_another_one_a_note() -> None:
    for code, length in ((258, 3), (33432, 40)):
        data = bytearray(tiff((RGB, {"photometric": "rgb", "extratags": [(33432, 2, 40, "by" * 20, True)]})))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            place = file.pages.first.tags[code].offset
        data[place + 4 : place + 12] = struct.pack("<II", length, len(data) - 1)
        if code == 33432:
            assert "Tag 33432 cannot be read: dropped." in read(bytes(data)).notes
        else:
            with pytest.raises(InputError, match="tag 258"):
                read(bytes(data))


def test_a_long_stack_opens_each_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = noise("uint16", (60, 8, 8))
    data = tiff((stack, {"compression": "lzw"}))
    taken = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal taken
            found = super().read(size)
            taken += len(found)
            return found

    monkeypatch.setattr("medcli.images.source.io.BytesIO", Counted)
    image = read(data)
    np.testing.assert_array_equal(np.stack([each.pixels for each in image.pages]), stack)
    assert taken < 20 * len(data)


def test_fuzzed_structure() -> None:
    assert failures("tiff", fuzz_samples(), range(300)) == []


def fuzz_samples() -> list[bytes]:
    """Strips and tiles, packings, byte orders, EXIF, fax."""
    deep, real = noise("uint16", (32, 20)), noise("float32", (20, 30))
    tiles = {"photometric": "rgb", "tile": (16, 16)}
    colours = noise("uint8", (32, 48, 3))
    options: list[tuple[Any, dict[str, Any]]] = [
        *[(colours, {**tiles, "compression": name}) for name in ("lzw", "zstd", "lzma", "jpeg", "jpeg2000", "jpegxl")],
        *[(deep, {"compression": "lzw", "predictor": True, "rowsperstrip": 5}), (noise("uint8", (4, 9, 9)), {})],
        *[(colours[:, :, :1] > 99, {}), (GRAY, {"photometric": "palette", "colormap": np.zeros((3, 256), "uint16")})],
        (noise("uint8", (4, 9, 9)), {"photometric": "separated", "planarconfig": "separate", "extrasamples": []}),
    ]
    made = [tiff(each) for each in options] + [tiff((real, {"compression": "zlib", "predictor": True}), bigtiff=True)]
    made += [by_pillow(Image.fromarray(GRAY > 99), "tiff", compression=name) for name in ("group3", "group4")]
    return [*made, coded(DecodedImage([page(), page("uint16")], "tiff", metadata("icc exif xmp dpi")))]


@pytest.mark.parametrize("suffix", [".nef", ".dng", ".CR2", ".arw", ".orf", ".rw2", ".raf", ".pef", ".cr3", ".tif"])
def test_raw_files_go_to_libraw_by_their_content_or_name(suffix: str, tmp_path: Path) -> None:
    thumbnail = (RGB, {"photometric": "rgb", "subfiletype": 1, "subifds": 1})
    sensor = (noise("uint16", (20, 30)), {"photometric": "cfa"})
    heads = {".orf": b"IIRO", ".rw2": b"IIU\0", ".raf": b"FUJIFILMCCD-RAW ", ".cr3": b"\0\0\0\x18ftypcrx "}
    data = heads.get(suffix, b"") + bytes(64) if suffix in heads else tiff(thumbnail, sensor)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"LibRaw does not know|damaged"):  # not its thumbnail
        read(path)


@pytest.mark.parametrize(
    "details",
    [
        {"extratags": [(50706, 1, 4, b"\1\4\0\0", True)]},
        {"photometric": "cfa"},
        {"photometric": "linear_raw", "planarconfig": "contig"},
        {"subifds": 1},
    ],
)
def test_raw_files_are_known_by_any_sign(details: dict[str, Any]) -> None:
    child = [(GRAY, {"photometric": "cfa"})] if "subifds" in details else []
    with pytest.raises(InputError, match=r"LibRaw does not know|damaged"):
        read(tiff((RGB if "planarconfig" in details else GRAY, details), *child))


@pytest.mark.parametrize("code", [34118, 34680, 34682, 65000])
def test_private_text_is_kept(code: int) -> None:
    text = "[Scan]\r\nPixelWidth=1e-9\r\n"
    first = read(tiff((GRAY, {"extratags": [(code, 2, 0, text, True)]})))
    assert not first.notes
    written = coded(first)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        place = file.pages.first.tags[code].valueoffset
    assert written[place:].startswith(text.strip().encode())


def test_place_on_the_sheet_is_kept() -> None:
    places = [(286, 5, 1, (3, 2), True), (287, 5, 1, (5, 4), True)]
    with tifffile.TiffFile(io.BytesIO(coded(read(tiff((GRAY, {"extratags": places})))))) as file:
        assert [file.pages.first.tags[code].value for code in (286, 287)] == [(3, 2), (5, 4)]


@pytest.mark.parametrize(
    ("code", "words"),
    [(33560, "33560 OlympusSIS"), (37724, "Photoshop's layers"), (65000, "65000")],
)
def test_what_may_point_into_the_old_file_goes_with_a_note(code: int, words: str) -> None:
    first = read(tiff((GRAY, {"extratags": [(code, 7, 64, bytes(64), True)]})))
    assert len(first.notes) == 1
    assert words in first.notes[0]
    assert not read(coded(first)).notes


def test_a_pyramid_below_the_image_goes_with_a_note() -> None:
    first = read(
        tiff((GRAY, {"subifds": 2}), (GRAY[::2, ::2], {"subfiletype": 1}), (GRAY[::4, ::4], {"subfiletype": 1}))
    )
    assert [each.pixels.shape for each in first.pages] == [GRAY.shape]
    assert "(SubIFDs: 2)" in first.notes[0]


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_a_mask_page_is_alpha_and_a_page_again(depth: str) -> None:
    colours, mask = noise(depth, (9, 11, 3)), GRAY > 99
    hidden = (mask, {"photometric": "mask", "subfiletype": 4, "compression": "zlib"})
    first = read(tiff((colours, {"photometric": "rgb", "compression": "zlib"}), hidden, (GRAY, {})))
    assert not first.notes
    opaque = 1 if depth == "float32" else np.iinfo(depth).max
    np.testing.assert_array_equal(first.pages[0].alpha, np.where(mask, opaque, 0).astype(depth))
    assert [each.alpha is None for each in first.pages] == [False, True]
    with tifffile.TiffFile(io.BytesIO(coded(first))) as file:
        assert [(int(each.photometric), each.subfiletype) for each in file.pages] == [(2, 0), (4, 4), (1, 0)]
        np.testing.assert_array_equal(file.pages[1].asarray(), mask)
        np.testing.assert_array_equal(file.pages[0].asarray(), colours)


def test_a_mask_of_another_size_goes_with_a_note() -> None:
    first = read(tiff((GRAY, {}), (GRAY[::2] > 99, {"photometric": "mask", "subfiletype": 4})))
    assert first.pages[0].alpha is None
    assert "mask" in first.notes[0]


@pytest.mark.parametrize(
    ("samples", "details"),
    [
        (4, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 3}),
        (4, {"photometric": "minisblack", "extrasamples": ["unspecified", "unspecified", "unassalpha"]}),
        (6, {"photometric": "rgb", "extrasamples": ["unspecified"] * 3}),
        (3, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 2}),
    ],
)
def test_bands_are_pages_and_bands_again(samples: int, details: dict[str, Any]) -> None:
    values = noise("uint16", (9, 11, samples))
    first = read(tiff((values, {"planarconfig": "contig", **details}), (GRAY, {})))
    assert all(each.pixels.ndim == 2 for each in first.pages)
    with tifffile.TiffFile(io.BytesIO(coded(first))) as file:
        assert len(file.pages) == 2
        kinds = {"unspecified": 0, "unassalpha": 2}
        assert file.pages.first.extrasamples == tuple(kinds[each] for each in details["extrasamples"])
        assert file.pages.first.photometric == {"minisblack": 1, "rgb": 2}[details["photometric"]]
        np.testing.assert_array_equal(file.pages.first.asarray(), values)
        np.testing.assert_array_equal(file.pages[1].asarray(), GRAY)


@pytest.mark.parametrize(
    "depth", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "lzma", "packbits"])
def test_depth_and_packing_are_kept(depth: str, compression: str | None) -> None:
    values = noise("uint8", (9, 11, 3)).astype(depth)
    predictor = compression not in (None, "packbits")
    first = read(tiff((values, {"photometric": "rgb", "compression": compression, "predictor": predictor})))
    assert not first.notes
    with tifffile.TiffFile(io.BytesIO(coded(first))) as new:
        only = new.pages.first
        assert only.asarray().dtype == depth
        np.testing.assert_array_equal(only.asarray(), values)
        assert only.predictor == (1 if not predictor else 3 if depth.startswith("float") else 2)
        assert (
            only.compression
            == tifffile.COMPRESSION[{None: "NONE", "zlib": "ADOBE_DEFLATE"}.get(compression, str(compression).upper())]
        )


def test_a_lossy_packing_becomes_deflate_with_a_note() -> None:
    first = read(tiff((noise("uint8", (16, 16, 3)), {"photometric": "rgb", "compression": "jpeg"})))
    assert read(coded(first)).metadata.tiff[0].compression == "zlib"
    assert "Deflate" in first.notes[0]


def test_slices_of_metamorph_are_read() -> None:
    """Its stacks have one directory; tag 33629 counts the planes, which lie one after the other."""
    planes = noise("uint16", (5, 9, 11))
    tags = [(33628, 4, 1, 8, True), (33629, 5, 5, (1, 1) * 5, True), (65000, 7, 99, bytes(99), True)]
    data = bytearray(tiff((planes[0], {"extratags": tags})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        strip = file.pages.first.tags[273]
    data += bytes(len(data) % 2)
    struct.pack_into("<I", data, strip.valueoffset, len(data))
    image = read(bytes(data + planes.tobytes()))
    np.testing.assert_array_equal(np.stack([each.pixels for each in image.pages]), planes)
    assert "UIC1tag" in image.notes[0]
    again = read(coded(image))
    np.testing.assert_array_equal(np.stack([each.pixels for each in again.pages]), planes)


@pytest.mark.parametrize(
    ("code", "words"), [(34682, "the microscope's notes"), (42113, "nodata"), (65000, "private tags")]
)
def test_what_another_format_cannot_hold_is_named(code: int, words: str) -> None:
    first = read(tiff((GRAY, {"extratags": [(code, 2, 0, "12 and more", True)]})))
    coded(first, format="png")
    assert first.notes == [f"PNG cannot hold what TIFF alone has: {words}: dropped."]


def test_pixels_without_a_stated_meaning_keep_their_values() -> None:
    data = bytearray(tiff((GRAY, {})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[262].offset
    data[place : place + 2] = struct.pack("<H", 261)
    first = read(bytes(data))
    np.testing.assert_array_equal(first.pages[0].pixels, GRAY)
    assert "taken for gray" in first.notes[0]


def test_a_resolution_in_an_unknown_unit_does_not_hinder_writing() -> None:
    data = bytearray(tiff((GRAY, {"resolution": (72, 72)})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[296].valueoffset
    data[place : place + 2] = struct.pack("<H", 77)
    assert read(coded(read(bytes(data)))).metadata.dpi is None


def test_a_stack_that_claims_more_slices_than_the_file_has_is_damage() -> None:
    data = tiff((GRAY, {"description": '{"shape": [100000, 9, 11]}'}))
    with pytest.raises(InputError, match="breaks off"):
        read(data)


def test_log_lines_of_libraries_are_not_shown(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(tiff((GRAY, {"extratags": [(42113, 2, 4, "abc", True)]})))
    read(bytes(data))
    assert "".join(capfd.readouterr()) == ""
