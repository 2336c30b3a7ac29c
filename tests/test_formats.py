"""Formats of phones, the web and science: each depth, alpha, profile and EXIF, decoded by an independent reader."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from sample_images import HEIGHT, ICC, WIDTH, XMP, coded, metadata, page
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.errors import InputError, OutputError
from medcli.images import DecodedImage, Metadata, Page, encoding, exif, plugins, read
from medcli.images.formats import FORMATS, SUFFIXES
from medcli.images.raster import turned

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra 'formats'")
pytest.importorskip("pillow_jxl", reason="needs the extra 'formats'")
exr = pytest.importorskip("OpenEXR", reason="needs the extra 'formats'")
astropy_fits = pytest.importorskip("astropy.io.fits", reason="needs the extra 'formats'")

Array = NDArray[Any]
NEW = ("avif", "heic", "jxl", "jp2", "pnm", "pfm", "exr", "fits")
EXACT = {"avif": 12, "heic": 10}  # bits that uint16 is rounded to
P3 = bytes(imagecodecs.cms_profile("rgb", whitepoint=encoding.D65, primaries=encoding._with_y(12), gamma=2.2))


def matrix() -> list[tuple[str, str, str]]:
    """(format, depth, kind of page)."""
    kinds = {name: ("L", "LA", "RGB", "RGBA") if FORMATS[name].alpha else ("L", "RGB") for name in NEW}
    return [(name, depth, kind) for name in NEW for depth in FORMATS[name].depths for kind in kinds[name]]


def sample(depth: str, kind: str) -> Page:
    if not depth.startswith("float"):
        return page(depth, kind)
    found = page("float32", kind)
    alpha = None if found.alpha is None else found.alpha.clip(0, 1).astype(depth)
    return Page(found.pixels.clip(0, 1).astype(depth), alpha)


def kept_exactly(name: str, values: Array) -> Array:
    """What the format holds of uint16: rounded to its bits and spread again."""
    bits = EXACT.get(name, 16)
    if values.dtype != np.uint16 or bits == 16:
        return values
    return np.rint(np.rint(values * ((2**bits - 1) / 65535)) * (65535 / (2**bits - 1))).astype(np.uint16)


@pytest.mark.parametrize("names", ["", "icc exif xmp dpi"])
@pytest.mark.parametrize(("name", "depth", "kind"), matrix())
def test_what_is_written_is_read_again(name: str, depth: str, kind: str, names: str) -> None:
    form, first = FORMATS[name], sample(depth, kind)
    held = [word for word in names.split() if word in form.carries and (word != "icc" or kind.startswith("RGB"))]
    meta = metadata(" ".join(held))
    meta.transfer = "linear" if form.linear else None
    image = DecodedImage([first], name, meta)
    found = read(coded(image, quality=100))
    shown = turned(first, 6 if "exif" in held else 1)
    if name == "fits" and kind == "RGB":
        assert [one.pixels.tolist() for one in found.pages] == [first.pixels[..., c].tolist() for c in range(3)]
        return
    same = found.pages[0]
    expected = kept_exactly(name, shown.pixels)
    if expected.ndim == 2 and same.pixels.ndim == 3:
        assert name in ("avif", "heic")
        assert any("knows no gray with alpha" in note for note in image.notes)
        expected = np.repeat(expected[:, :, None], 3, 2)
    assert same.pixels.dtype == depth
    np.testing.assert_array_equal(same.pixels, expected)
    if shown.alpha is None:
        assert same.alpha is None
    else:
        np.testing.assert_array_equal(same.alpha, kept_exactly(name, shown.alpha))
    assert found.metadata.icc == (ICC if "icc" in held else None)
    assert found.metadata.xmp == (XMP if "xmp" in held else None)
    assert found.metadata.dpi == (pytest.approx((300, 150), rel=1e-3) if "dpi" in held else None)
    assert (found.metadata.exif is not None) == ("exif" in held)
    assert exif.orientation(found.metadata.exif) == 1
    assert found.notes == []


def by_pillow(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)))


def by_heif(data: bytes) -> Array:
    return np.asarray(pillow_heif.open_heif(data, convert_hdr_to_8bit=False))


def by_opencv(data: bytes) -> Array:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return (
        found
        if found.ndim == 2
        else cv2.cvtColor(found, cv2.COLOR_BGR2RGB if found.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    )


def by_plugin(data: bytes) -> Array:
    import pillow_jxl  # noqa: F401 - registers itself

    return by_pillow(data)


def by_hand_exr(data: bytes) -> Array:
    """Uncompressed scan lines of float32: each is led by its number and size, channels in the order of their names."""
    at = 8
    while data[at] != 0:  # attributes: name, type, size, value
        at = data.index(b"\0", data.index(b"\0", at) + 1) + 1
        at += 4 + struct.unpack_from("<i", data, at)[0]
    at += 1 + 8 * HEIGHT
    rows = [np.frombuffer(data, "<f4", 3 * WIDTH, at + number * (8 + 12 * WIDTH) + 8) for number in range(HEIGHT)]
    return np.stack(rows).reshape(HEIGHT, 3, WIDTH)[:, ::-1].swapaxes(1, 2)


def by_hand_fits(data: bytes) -> Array:
    header = data[: data.index(b"END" + b" " * 77) + 80]
    start = -(-len(header) // 2880) * 2880
    zero = 32768 if b"BZERO   =                32768" in header else 0
    return np.frombuffer(data, ">i2", HEIGHT * WIDTH, start).reshape(HEIGHT, WIDTH)[::-1].astype(int) + zero


READERS: list[tuple[str, str, str, Callable[[bytes], Array], int]] = [  # and the largest difference
    ("avif", "uint8", "RGB", by_pillow, 0), ("avif", "uint8", "RGBA", by_pillow, 0),
    ("heic", "uint8", "RGB", by_heif, 0), ("heic", "uint16", "RGB", by_heif, 96), ("heic", "uint8", "L", by_heif, 0),
    ("jxl", "uint8", "RGB", by_plugin, 0), ("jxl", "uint16", "L", by_plugin, 0), ("jxl", "uint8", "RGBA", by_plugin, 0),
    ("jp2", "uint8", "RGB", by_pillow, 0), ("jp2", "uint16", "RGB", by_opencv, 0), ("jp2", "uint16", "L", by_pillow, 0),
    ("jp2", "uint8", "RGBA", by_pillow, 0),
    ("pnm", "uint8", "RGB", by_pillow, 0), ("pnm", "uint16", "RGB", by_opencv, 0),
    ("pnm", "uint8", "L", by_opencv, 0), ("pnm", "uint16", "L", by_pillow, 0), ("pfm", "float32", "RGB", by_opencv, 0),
    ("fits", "uint16", "L", by_hand_fits, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "depth", "kind", "reader", "tolerance"), READERS)
def test_others_read_the_same_pixels(
    name: str, depth: str, kind: str, reader: Callable[[bytes], Array], tolerance: int
) -> None:
    first = sample(depth, kind)
    meta = Metadata(transfer="linear" if FORMATS[name].linear else None)
    found = reader(coded(DecodedImage([first], name, meta), quality=100))
    whole = first.pixels if first.alpha is None else np.dstack([first.pixels, first.alpha])
    assert np.abs(found.astype(float) - whole).max() <= tolerance


def test_deep_avif_is_read_by_its_codec() -> None:
    first = sample("uint16", "RGB")
    found = imagecodecs.avif_decode(coded(DecodedImage([first], "avif", Metadata(bits=10)), quality=100))
    np.testing.assert_array_equal(found, np.rint(first.pixels * (1023 / 65535)))


def test_others_read_the_header_and_pixels_of_openexr() -> None:
    first = sample("float32", "RGB")
    packed = io.BytesIO()
    channels = {name: first.pixels[:, :, number].copy() for number, name in enumerate("RGB")}
    header = {"compression": exr.NO_COMPRESSION, "type": exr.scanlineimage, "owner": "me", "isoSpeed": 800.0}
    ids = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH)
    exr.File(header, channels | {"id": ids}).write(packed)
    image = read(packed.getvalue())
    np.testing.assert_array_equal(image.pages[0].pixels, first.pixels)
    written = coded(image)
    with exr.File(io.BytesIO(written), separate_channels=True) as again:
        assert (again.header()["owner"], again.header()["isoSpeed"]) == ("me", 800.0)
        assert again.header()["compression"] == exr.NO_COMPRESSION
        np.testing.assert_array_equal(again.channels()["id"].pixels, ids)
    image.metadata.native = image.metadata.native[:1]  # three channels alone, as the reader by hand expects
    np.testing.assert_array_equal(by_hand_exr(coded(image)), first.pixels)


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_exif_xmp_and_profile_are_seen_by_pillow(name: str) -> None:
    pillow_heif.register_heif_opener()
    held = Image.open(io.BytesIO(coded(DecodedImage([page()], name, metadata("exif xmp icc")), quality=100)))
    assert held.getexif()[272] == "Model with a long name"
    assert held.getexif().get(274, 1) == 1
    assert held.info["xmp"] == XMP
    assert held.info["icc_profile"] == ICC
    assert held.size == (HEIGHT, WIDTH)  # turned


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_avif_comes_upright(turn: int) -> None:
    first = page()
    packed = io.BytesIO()
    held = Image.Exif()
    held[274] = turn
    Image.fromarray(first.pixels).save(packed, "avif", quality=100, exif=held, subsampling="4:4:4")
    found = read(packed.getvalue())
    expected = turned(first, turn).pixels
    assert found.pages[0].pixels.shape == expected.shape
    assert np.abs(found.pages[0].pixels.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("name", ["avif", "jp2", "heic"])
def test_bits_come_back_as_they_were(name: str, bits: int) -> None:
    if (name, bits) == ("heic", 12):
        pytest.skip("x265 may be built for 8 and 10 bits alone")
    values = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 2**bits
    first = DecodedImage([Page(np.rint(values * (65535 / (2**bits - 1))).astype(np.uint16))], name, Metadata(bits=bits))
    second = read(coded(first, quality=100))
    assert first.notes == []
    assert second.metadata.bits == bits
    np.testing.assert_array_equal(second.pages[0].pixels, first.pages[0].pixels)


def test_deeper_integers_are_rounded_with_a_note() -> None:
    image = DecodedImage([page("uint16")], "png")
    coded(image, format="avif")
    assert "AVIF: 16 bit was rounded to 12 bit." in image.notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"P1\n# note\n3 2\n1 0 1\n010", [[0, 255, 0], [255, 0, 255]]),
        (b"P2 3 1 15\n0 5 15 ", [[0, 85, 255]]),
        (b"P4\n3 1\n\xa0", [[0, 255, 0]]),
        (b"P5\n2 1\n4095\n\x00\x00\x0f\xff", [[0, 65535]]),
        (b"P3\n1 1\n255\n1 2 3\n", [[[1, 2, 3]]]),
    ],
)
def test_text_and_odd_depths_of_netpbm(text: bytes, expected: list[Any]) -> None:
    assert read(text).pages[0].pixels.tolist() == expected


def test_netpbm_of_12_bits_is_written_so() -> None:
    text = b"P5\n2 1\n4095\n\x00\x07\x0f\xff"
    assert coded(read(text)) == text


@pytest.mark.parametrize("text", [b"P5\n2 2\n255\nab", b"P5\n2 x\n255\nabcd", b"P2 1 1 7\n9", b"P7\nWIDTH 2\nENDHDR\n"])
def test_damaged_netpbm(text: bytes) -> None:
    with pytest.raises(InputError, match="damaged"):
        read(text)


def test_gif_is_read_and_its_result_is_png(med: Med, tmp_path: Path) -> None:  # noqa: F811
    frames = [Image.fromarray(page(seed=seed).pixels).convert("P") for seed in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert med("denoise", tmp_path / "a.gif").code == 0
    found = read(tmp_path / "a.denoised.png")
    assert found.pages[0].pixels.shape == (HEIGHT, WIDTH, 3)
    assert "Only the first frame" in read(tmp_path / "a.gif").notes[-1]
    ran = med("denoise", tmp_path / "a.gif", "-o", tmp_path / "b.gif")
    assert ran.code == 1
    assert "does not say which format to write" in ran.err


def test_fits_cards_cubes_and_blanks() -> None:
    header = astropy_fits.Header([("OBJECT", "M 31", "target"), ("EXPTIME", 30.0)])
    cube = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    header["BLANK"] = -32768
    packed = io.BytesIO()
    astropy_fits.PrimaryHDU(cube, header).writeto(packed)
    image = read(packed.getvalue())
    assert [one.pixels.dtype for one in image.pages] == ["int16"] * 2
    assert image.pages[0].nodata == -32768
    np.testing.assert_array_equal(image.pages[1].pixels, cube[1][::-1])
    with astropy_fits.open(io.BytesIO(coded(image))) as again:
        assert (again[0].header["OBJECT"], again[0].header.comments["OBJECT"]) == ("M 31", "target")
        np.testing.assert_array_equal(again[0].data, cube)


@pytest.mark.parametrize("name", NEW)
def test_truncated(name: str) -> None:
    meta = metadata("exif xmp")
    meta.transfer = "linear" if FORMATS[name].linear else None
    first = sample(FORMATS[name].depths[0], "L" if name == "fits" else "RGB")
    data = coded(DecodedImage([first], name, meta), quality=100)
    for stop in (1, 3, 12, 30, len(data) // 3):
        with pytest.raises(InputError):
            read(data[:stop], name="half.png")


@pytest.mark.parametrize("name", NEW)
def test_limit_is_checked_before_decoding(name: str) -> None:
    meta = Metadata(transfer="linear" if FORMATS[name].linear else None)
    data = coded(DecodedImage([sample(FORMATS[name].depths[0], "L")], name, meta))
    assert read(data, max_pixels=HEIGHT * WIDTH).pages
    with pytest.raises(InputError, match="limit"):
        read(data, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA"])
def test_lossy_jpeg_xl_of_16_bits_looks_the_same(kind: str) -> None:
    """Its encoder takes deep samples for linear light."""
    ramp = np.linspace(3000, 64000, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = ramp if kind == "L" else np.dstack([ramp, ramp[::-1], ramp.T])
    alpha = ramp if kind == "RGBA" else None
    data = coded(DecodedImage([Page(pixels, alpha)], "jxl"), quality=90)
    found = read(data)
    assert found.metadata.transfer is found.metadata.icc is None
    assert not found.metadata.lossless
    assert len(data) < 4000
    assert np.abs(found.pages[0].pixels.astype(int) - pixels).mean() < 400


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (2, 300), (700, 1)])
def test_jpeg_xl_tells_its_size_before_decoding(size: tuple[int, int]) -> None:
    data = coded(DecodedImage([page(size=size)], "jxl"), quality=100)
    with pytest.raises(InputError, match=rf"\({size[1]}x{size[0]}\)"):
        read(data, max_pixels=size[0] * size[1] - 1) if size != (1, 1) else read(data, max_pixels=0)


def test_a_profile_that_cannot_be_embedded_is_applied() -> None:
    colours = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    image = DecodedImage([Page(colours)], "tiff", Metadata(icc=P3))
    found = read(coded(image, format="jxl", quality=100)).pages[0].pixels[0, 0]
    profiles = ImageCms.ImageCmsProfile(io.BytesIO(P3)), ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(Image.fromarray(colours), *profiles))[0, 0]
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found.tolist() != [200, 40, 40]
    assert any("converted to sRGB" in note for note in image.notes)


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coded(DecodedImage([page()], "heic"))

    def missing(_name: str) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(plugins.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'medcli\[formats\]'"):
        plugins.plugin("pillow_heif", "pillow-heif", "HEIC", InputError)
    monkeypatch.undo()
    assert read(data).pages


def test_nothing_of_it_is_imported_for_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(coded(DecodedImage([page()], "png")))
    script = (
        "import sys, pathlib\nfrom medcli.images import read, write\n"
        f"write(read(pathlib.Path({str(tmp_path / 'a.png')!r})), pathlib.Path({str(tmp_path / 'b.jpg')!r}))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pillow_heif", "pillow_jxl", "OpenEXR", "astropy", "imagecodecs", "rawpy"} & set(done.stdout.split())


def test_formats_that_are_only_read_are_no_output() -> None:
    with pytest.raises(OutputError, match="no output format"):
        coded(DecodedImage([page()], "png"), format="gif")
    assert all(FORMATS[name].result in ("", "png", "tiff") for name in SUFFIXES.values())
