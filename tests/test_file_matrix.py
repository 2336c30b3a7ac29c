"""Files of every kind: none is read wrongly, and what is refused is refused for its kind."""

from __future__ import annotations

import itertools
import random

import pytest
from file_matrix import CODECS, READ, REFUSED, UNWRITTEN, WRONG, Case, cases, comparison

ALL = list(cases())
BY_KIND = {(case.compression, case.depth, case.name): case for case in ALL}
REFUSED_LAYOUTS = ("CMYK", "CIELAB")  # in other depths than uint8 and uint16


def test_no_tiff_of_a_thousand_is_read_wrongly() -> None:
    drawn = random.Random(0).sample([case for case in ALL if case.format == "TIFF"], 1000)
    found = {case: comparison(case) for case in drawn}
    assert [case for case in drawn if found[case] == WRONG] == []
    assert [case for case in drawn if found[case] == REFUSED and not case.name.startswith(REFUSED_LAYOUTS)] == []
    assert sum(result == READ for result in found.values()) > 150


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP", "BMP"])
def test_files_of_other_libraries_are_read(format: str) -> None:
    drawn = [case for case in ALL if case.format == format]
    assert [case for case in drawn[:: max(1, len(drawn) // 12)] if comparison(case) != READ] == []


@pytest.mark.parametrize(
    ("compression", "depth"),
    list(itertools.product(("none", "lzw", "zlib", "zstd", "lzma", "packbits"), ("uint8", "uint16", "float32"))),
)
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_every_depth_in_every_lossless_packing(compression: str, depth: str, planes: str) -> None:
    predictor = "none" if compression in ("none", "packbits") else "float" if depth == "float32" else "horizontal"
    for layout, frame in itertools.product(("RGB", "gray, alpha", "4 bands"), ("strips", "tiles")):
        assert comparison(_case(compression, depth, f"{layout}, {predictor}, {planes}, {frame}")) == READ


@pytest.mark.parametrize("compression", CODECS)
def test_codecs_of_images_inside_a_tiff(compression: str) -> None:
    assert comparison(_case(compression, "uint8", "RGB, none, contig, strips")) == READ


@pytest.mark.parametrize("depth", ["uint2", "uint4", "uint6", "uint10", "uint12", "uint14"])
@pytest.mark.parametrize("layout", ["gray", "white is zero"])
def test_packed_samples(depth: str, layout: str) -> None:
    for compression in ("none", "lzw", "zlib"):
        assert comparison(_case(compression, depth, f"{layout}, none, contig, strips")) == READ


@pytest.mark.parametrize("layout", ["CMYK", "CMYK, alpha", "CIELAB", "palette", "6 bands", "RGB, associated alpha"])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_layouts(layout: str, depth: str) -> None:
    assert comparison(_case("zlib", depth, f"{layout}, none, contig, strips")) == READ


def test_fax() -> None:
    drawn = [case for case in ALL if "by Pillow" in case.name and case.format == "TIFF"]
    assert {comparison(case) for case in drawn} == {READ}


def test_a_kind_that_no_library_writes_is_not_counted() -> None:
    assert comparison(_case("webp", "float32", "gray, none, contig, strips")) == UNWRITTEN


def _case(compression: str, depth: str, name: str) -> Case:
    return BY_KIND[compression, depth, name]
