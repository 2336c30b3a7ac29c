"""Light in numbers: the same picture in sRGB, in linear floats, in PQ and in HLG gives the same result."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import ImageCms
from sample_images import ICC, coded, page
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

import medcli
from medcli.images import DecodedImage, Metadata, Page, encoding, read, write
from medcli.images.encoding import TRANSFERS, Transfer, from_perceptual, to_perceptual

STEPS = np.linspace(0, 1, 1001)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_there_and_back(transfer: Transfer) -> None:
    signal = np.concatenate([-STEPS[1:200], STEPS, STEPS * 12 if transfer == "linear" else STEPS])
    np.testing.assert_allclose(from_perceptual(to_perceptual(signal, transfer), transfer), signal, atol=3e-6)


def test_known_values() -> None:
    """Diffuse white is 1: 58 % of PQ, 75 % of HLG. The curve of sRGB by its standard; PQ by BT.2100: 100 cd/m2."""
    light = np.array([0, 0.0031308, 0.2140411, 1])
    np.testing.assert_allclose(to_perceptual(light, "linear"), [0, 0.04045, 0.5, 1], atol=1e-5)
    np.testing.assert_allclose(to_perceptual(np.array([0.5806]), "pq"), [1], atol=1e-3)
    np.testing.assert_allclose(to_perceptual(np.array([0.75]), "hlg"), [1], atol=1e-6)
    hundred = to_perceptual(np.array([0.50808]), "pq")
    np.testing.assert_allclose(hundred, to_perceptual(np.array([100 / 203]), "linear"), atol=1e-3)
    assert np.isnan(to_perceptual(np.array([np.nan]), "pq")).all()


def test_above_white_the_curve_goes_on_without_a_step() -> None:
    found = to_perceptual(np.linspace(0.98, 1.02, 41), "linear")
    slopes = np.diff(found) / 0.001
    assert np.abs(np.diff(slopes)).max() < 0.002
    assert to_perceptual(np.array([50.0]), "linear") < 3


def curve_profile(value: bytes) -> bytes:
    """A profile with one tag of gray."""
    tags = struct.pack(">I4sII", 1, b"kTRC", 144, len(value))
    return bytes(16) + b"GRAY" + bytes(108) + tags + value


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (Metadata(), None),
        (Metadata(icc=ICC), None),
        (Metadata(icc=encoding.linear_profile(gray=False)), "linear"),
        (Metadata(icc=encoding.linear_profile(gray=True)), "linear"),
        (Metadata(icc=curve_profile(b"curv\0\0\0\0\0\0\0\0")), "linear"),
        (Metadata(icc=curve_profile(b"curv\0\0\0\0\0\0\0\1\2\x33")), None),
        (Metadata(icc=curve_profile(b"para\0\0\0\0\0\0\0\0\0\1\0\0")), "linear"),
        (Metadata(nclx=(9, 16, 9, 1)), "pq"),
        (Metadata(nclx=(9, 18, 9, 1)), "hlg"),
        (Metadata(nclx=(1, 13, 6, 1)), None),
        (Metadata(native=((b"cICP", bytes((9, 16, 0, 1))),)), "pq"),
        (Metadata(icc=b"short"), None),
    ],
)
def test_metadata_say_how_light_is_encoded(meta: Metadata, expected: str | None) -> None:
    assert encoding.transfer_of(meta) == expected


def test_profiles_are_recognised_by_what_they_do() -> None:
    assert encoding.is_srgb(ICC)
    assert encoding.is_srgb(None)
    assert encoding.is_srgb(encoding.gray_profile())
    assert not encoding.is_srgb(encoding.linear_profile(gray=False))
    assert not encoding.is_srgb(b"no profile")
    wide = encoding.profile_of((12, 13, 6, 1))
    assert wide
    assert not encoding.is_srgb(wide)
    assert encoding.profile_of((1, 13, 6, 1)) is None


def test_matrix_of_bt2020_is_the_published_one() -> None:
    """ITU-R BT.2087, equation 4 has the inverse."""
    published = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    np.testing.assert_allclose(np.linalg.inv(encoding.to_srgb_matrix(9)), published, atol=1e-4)


@pytest.fixture(scope="module")
def srgb() -> np.ndarray:
    """(64, 64, 3) float32 in the curve of sRGB: a ramp with noise."""
    ramp = np.linspace(0.05, 0.95, 64)[:, None, None] * np.ones((64, 64, 3))
    return (ramp + np.random.default_rng(0).normal(0, 0.03, ramp.shape)).clip(0.005, 0.995).astype(np.float32)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_the_same_picture_gives_the_same_result(transfer: Transfer, dtype: str, srgb: np.ndarray) -> None:
    """Within a grey level of 255, as seen."""
    from medcli.batch.denoise.plan import Job
    from medcli.batch.denoise.restore import Denoise, measured
    from medcli.images.values import dtype_range

    denoiser = medcli.load("photo", device="cpu")
    expected = denoiser(srgb)
    span = dtype_range(dtype)
    coded_light = span.from_unit(from_perceptual(srgb, transfer), dtype)
    image = DecodedImage([Page(coded_light)], "tiff", Metadata(transfer=transfer))
    measured(Denoise(), Job(Path("a"), Path("b")), image, denoiser)
    seen = to_perceptual(span.to_unit(image.pages[0].pixels), transfer)
    assert image.pages[0].pixels.dtype == dtype
    assert np.abs(seen - srgb).max() > 0.02
    assert np.abs(seen - expected).max() < 1 / 255
    plain = DecodedImage([Page(coded_light)], "tiff", Metadata(transfer=transfer))
    measured(Denoise(), Job(Path("a"), Path("b")), plain, denoiser, encoding="as-is")
    assert np.abs(to_perceptual(span.to_unit(plain.pages[0].pixels), transfer) - expected).max() > 1 / 255


def test_what_is_no_number_and_what_does_not_change_stays(med: Med, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("OpenEXR", reason="needs the extra 'formats'")
    pixels = page("float32", "RGB", (40, 48)).pixels.clip(0.1, 0.9)
    pixels[3, 4] = np.nan
    pixels[5, 6] = 1e6  # a lone extreme
    image = DecodedImage([Page(pixels)], "exr", Metadata(transfer="linear"))
    write(image, tmp_path / "a.exr")
    assert med("denoise", tmp_path / "a.exr", "--residual", tmp_path / "r.exr").code == 0
    found = read(tmp_path / "a.denoised.exr").pages[0].pixels
    assert np.isnan(found[3, 4]).all()
    np.testing.assert_array_equal(found[5, 6], pixels[5, 6])
    assert not np.array_equal(found, pixels)


def test_linear_light_becomes_srgb_where_a_format_has_no_other(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR", reason="needs the extra 'formats'")
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    curved = Page(np.rint(255 * to_perceptual(ramp, "linear")).astype(np.uint8))
    image = DecodedImage([Page(ramp)], "exr", Metadata(transfer="linear"))
    data = coded(image, format="png")
    assert np.abs(read(data).pages[0].pixels / 65535 * 255 - curved.pixels).max() <= 1
    assert any("converted to sRGB" in note for note in image.notes)
    back = read(coded(DecodedImage([curved], "png"), format="exr"))
    assert back.metadata.transfer == "linear"
    np.testing.assert_allclose(back.pages[0].pixels, ramp, atol=0.01)
    kept = read(coded(image, format="tiff"))
    assert kept.metadata.transfer == "linear"
    np.testing.assert_array_equal(kept.pages[0].pixels, ramp)


@pytest.mark.parametrize("transfer", [16, 18])
def test_pq_and_hlg_keep_their_mark(transfer: int) -> None:
    first = DecodedImage([page("uint16")], "avif", Metadata(nclx=(9, transfer, 9, 1), bits=10))
    second = read(coded(first, quality=100))
    assert second.metadata.nclx is not None
    assert second.metadata.nclx[:2] == (9, transfer)
    assert second.metadata.transfer == encoding.BY_NUMBER[transfer]
    png = coded(second, format="png")
    assert b"cICP" + bytes((9, transfer, 0, 1)) in png
    third = read(png)
    assert third.metadata.transfer == second.metadata.transfer
    again = read(coded(third, format="avif", quality=100))
    assert again.metadata.nclx is not None
    assert again.metadata.nclx[:2] == (9, transfer)


def test_pq_in_wide_colours_is_seen_the_same_as_jpeg() -> None:
    """Against littleCMS, from the same light in linear BT.2020."""
    light = np.full((8, 8, 3), (0.4, 0.3, 0.2), np.float32)
    signal = from_perceptual(to_perceptual(light, "linear"), "pq")
    image = DecodedImage([Page(np.rint(signal * 65535).astype(np.uint16))], "avif", Metadata(nclx=(9, 16, 9, 1)))
    image.metadata.transfer = "pq"
    found = read(coded(image, format="webp", quality=100))
    wide = imagecodecs.cms_profile("rgb", whitepoint=encoding.D65, primaries=encoding._with_y(9), gamma=1.0)
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    expected: Any = imagecodecs.cms_transform(light, bytes(wide), target, colorspace="rgb", outcolorspace="rgb")
    assert np.abs(found.pages[0].pixels[4, 4] / 255 - expected[0, 0]).max() < 0.02
