"""Camera raw files, made here of pictures: mosaic, black level, white balance, noise; read back by LibRaw."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_samples import GAINS, MOSAIC, PATTERNS, raw_of, scene
from sample_images import by_pillow, exif_block, page
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.batch.denoise.plan import Job, OutputNaming, make_plan
from medcli.batch.denoise.restore import Denoise, measured
from medcli.engine.mosaic import MosaicNoise, measured_noise, within_noise
from medcli.errors import InputError, OutputError
from medcli.images import DecodedImage, dng, encoding, exif, raw_exif, read, write
from medcli.images.development import Development
from medcli.images.encoding import from_perceptual, to_perceptual
from medcli.images.raw_file import mosaic_of, planes

rawpy = pytest.importorskip("rawpy", reason="needs the extra 'raw'")


def developed(image: DecodedImage) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    stream = io.BytesIO()
    write(image, stream, format="tiff")
    return read(stream.getvalue()).pages[0].pixels / 65535


def error(one: np.ndarray, other: np.ndarray) -> float:
    return 255 * float(np.sqrt(np.mean((one - other)[8:-8, 8:-8] ** 2)))


@pytest.mark.parametrize("colours", PATTERNS, ids=["RGGB", "GBRG", "GRBG", "BGGR"])
@pytest.mark.parametrize("stage", ["developed", "mosaic"])
@pytest.mark.parametrize("size", [(96, 128), (95, 127)])
def test_a_raw_file_becomes_the_picture_it_was_made_of(colours: np.ndarray, stage: str, size: tuple[int, int]) -> None:
    picture = scene(size)
    image = read(raw_of(picture, colours), development=Development(stage=stage))
    assert len(image.pages) == (1 if stage == "developed" else 2)
    found = developed(image)
    assert found.shape == picture.shape
    assert error(found, picture) < 1.5


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 1)])
def test_planes_and_back(shape: tuple[int, int]) -> None:
    mosaic = np.random.default_rng(0).normal(0.3, 0.4, shape).astype(np.float32)
    for colours in PATTERNS:
        pages = planes(mosaic, colours, np.array([2.0, 1.0, 1.6, 1.0]))
        np.testing.assert_allclose(mosaic_of(pages, colours, np.array([2.0, 1.0, 1.6, 1.0]), shape), mosaic, atol=1e-5)


def test_denoised_before_development_it_is_nearer_to_the_truth_than_after() -> None:
    import medcli

    picture = scene((192, 192))
    truth = developed(read(raw_of(picture)))
    denoiser = medcli.load("photo", device="cpu")
    errors = {"noisy": error(developed(read(raw_of(picture, shot=0.004))), truth)}
    for stage in ("developed", "mosaic"):
        image = read(raw_of(picture, shot=0.004), development=Development(stage=stage))
        measured(Denoise(), Job(Path("a"), Path("b")), image, denoiser)
        errors[stage] = error(developed(image), truth)
    assert errors["mosaic"] < 0.8 * errors["developed"] < 0.8 * errors["noisy"]


def test_noise_is_measured_on_the_mosaic() -> None:
    image = read(raw_of(scene((512, 512)), shot=0.004), development=MOSAIC)
    found = measured_noise([one.pixels for one in image.pages], tuple(GAINS))
    assert found is not None
    assert found.shot == pytest.approx(0.004, rel=0.15)
    assert found.floor == pytest.approx(0.00004, rel=0.6)


def test_the_result_keeps_to_the_noise() -> None:
    noise = MosaicNoise(0.01, 0.0001, (2.0, 1.0, 1.6))
    rng = np.random.default_rng(0)
    light = np.full((300, 64, 3), 0.05)
    light[:, 32:] = np.kron(rng.random((75, 8)), np.ones((4, 4)))[..., None] * 0.5
    deviation = np.sqrt(0.01 * light * GAINS + 0.0001 * GAINS**2)
    noisy = to_perceptual(light + rng.normal(0, 1, light.shape) * deviation, "linear")
    flat = noisy.copy()
    flat[:, :32] = noisy[:, :32].mean((0, 1))
    flat[:, 32:] = noisy[:, 32:].mean((0, 1))
    found = within_noise(noisy, flat, noise)
    curve = to_perceptual(light, "linear")
    np.testing.assert_allclose(found[20:-20, 10:20].mean((0, 1)), curve[0, 0], atol=0.01)  # the bias of the curve
    assert np.abs(flat[0, 0] - curve[0, 0]).max() > 0.01
    assert error(found[:, 40:], curve[:, 40:]) < 0.8 * error(flat[:, 40:], curve[:, 40:])  # structure is held back
    np.testing.assert_array_equal(within_noise(noisy, noisy, MosaicNoise(0.0, 0.0, (1.0, 1.0, 1.0))), noisy)


@pytest.mark.parametrize("space", ["srgb", "p3", "adobe", "prophoto"])
def test_every_space_shows_the_same_colours_through_its_profile(space: str) -> None:
    picture = scene()
    image = read(raw_of(picture), development=Development(space=space))
    assert image.metadata.icc
    found = encoding.converted(image.pages[0].pixels, image.metadata.icc, b"") / 65535
    assert error(found, picture) < 3
    if space != "srgb":
        assert error(image.pages[0].pixels / 65535, picture) > 3


def test_exposure_and_white_balance() -> None:
    picture = scene() * 0.6
    plain = from_perceptual(developed(read(raw_of(picture))), "linear")
    for stage in ("developed", "mosaic"):
        brighter = developed(read(raw_of(picture), development=Development(exposure=1, stage=stage)))
        ratio = from_perceptual(brighter, "linear")[20:-20, 20:-20] / plain[20:-20, 20:-20]
        assert np.median(ratio) == pytest.approx(2, rel=0.03)
        cold = developed(read(raw_of(picture), development=Development(wb="2:1:3.2", stage=stage)))
        shift = from_perceptual(cold, "linear")[20:-20, 20:-20] / plain[20:-20, 20:-20]
        assert np.median(shift[..., 2] / shift[..., 0]) == pytest.approx(2, rel=0.1)
    with pytest.raises(ValueError, match="0:1:1"):
        _ = Development(wb="0:1:1").multipliers


NOTE = struct.pack(">HHHI4sI", 1, 1, 2, 4, b"note", 0)  # a directory of one tag, as makers' notes are


def with_exif(data: bytes, turn: int = 6, note: bytes = NOTE) -> bytes:
    """The same DNG with camera, place and maker's note."""
    image = read(data, development=MOSAIC)
    image.metadata.exif = exif_block(orientation=turn).replace(b"\1\2\3\4" * 9, note.ljust(36, b"\0"))
    stream = io.BytesIO()
    write(image, stream, format="dng")
    return stream.getvalue()


def test_exif_goes_along() -> None:
    data = with_exif(raw_of(scene()))
    for format in ("tiff", "jpeg", "png", "dng"):
        image = read(data, development=MOSAIC)
        stream = io.BytesIO()
        write(image, stream, format=format)
        found = read(stream.getvalue()).metadata.exif
        assert exif.orientation(found) == 6
        held = Image.Exif()
        held.load(b"Exif\0\0" + (found or b""))
        assert held[272] == "Model with a long name"
        assert held.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
        assert held.get_ifd(0x8769)[0x927C] == NOTE.ljust(36, b"\0")
        assert [float(value) for value in held.get_ifd(0x8825)[2]] == [48.0, 8.0, 12.5]
    image = read(data, development=MOSAIC)
    stream = io.BytesIO()
    write(image, stream, format="webp")
    assert read(stream.getvalue()).size == (128, 96)


def test_a_makers_note_that_breaks_the_file_for_libraw_is_dropped() -> None:
    with rawpy.imread(io.BytesIO(with_exif(raw_of(scene()), note=b"\1\2\3\4" * 9))) as raw:
        assert raw.sizes.flip == 6


def test_a_dng_is_a_sound_tiff_that_others_open(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(with_exif(raw_of(scene())))
    with tifffile.TiffFile(path) as file:
        first: Any = file.pages.first
        assert (first.photometric, first.dtype, first.shape) == (32803, "uint16", (96, 128))
        assert first.tags[50706].value == bytes((1, 4, 0, 0))
        assert first.tags[50708].value == "Simulated"
        assert first.tags[271].value == "Maker"
    with rawpy.imread(str(path)) as raw:
        assert raw.raw_pattern.tolist() == [[0, 1], [3, 2]]
        multipliers = np.array(raw.camera_whitebalance[:3])
        np.testing.assert_allclose(multipliers / multipliers[1], GAINS, rtol=1e-3)


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def test_exif_of_other_makers() -> None:
    block = exif_block()
    first = block.replace(struct.pack(">HHI", 0x8769, 4, 1), struct.pack(">HHI", 0x8768, 4, 1))
    canon = boxed(b"CMT1", first) + boxed(b"CMT2", block) + boxed(b"CMT4", block)
    cr3 = boxed(b"ftyp", b"crx isom") + boxed(b"moov", boxed(b"uuid", raw_exif.CANON + canon))
    fuji = b"FUJIFILMCCD-RAW " + bytes(100) + b"\xff\xd8\xff\xe1\0\0Exif\0\0" + block
    for data in (cr3, fuji, b"MMOR" + block[4:]):
        found = raw_exif.block(data, 3)
        assert found is not None
        held = Image.Exif()
        held.load(b"Exif\0\0" + found)
        assert held[272] == "Model with a long name"
        assert exif.orientation(found) == 3
    assert raw_exif.block(b"nothing at all", 0) is None
    assert raw_exif.block(cr3[:90], 0) is None


def test_damage_and_other_files() -> None:
    data = raw_of(scene())
    for stop in (1, 20, 300, len(data) // 2):
        with pytest.raises(InputError):
            read(data[:stop], name="a.dng")
    with pytest.raises(InputError, match="limit"):
        read(data, max_pixels=1000)
    with pytest.raises(InputError):
        read(b"II*\0" + bytes(500), name="a.nef")
    with pytest.raises(OutputError, match="DNG is written for raw files"):
        write(DecodedImage([page()], "png"), io.BytesIO(), format="dng")


def test_the_command_develops(med: Med, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "IMG.dng").write_bytes(with_exif(raw_of(scene(), shot=0.002)))
    (tmp_path / "IMG2.NEF").write_bytes(raw_of(scene((192, 256)), shot=0.002))
    for words in (["-o", tmp_path / "a.jpg"], ["-o", tmp_path / "b.tif", "--stage", "developed"], ["--luma", "0.5"]):
        assert med("denoise", tmp_path / "IMG.dng", *words).code == 0
    assert read(tmp_path / "b.tif").pages[0].pixels.dtype == np.uint16
    assert read(tmp_path / "IMG.denoised.dng").format == "raw"
    ran = med("denoise", tmp_path / "IMG2.NEF", "--residual", tmp_path / "r.png", "--json")
    assert ran.code == 0
    assert b'"width": 256, "height": 192, "pages": 1' in ran.out
    assert read(tmp_path / "IMG2.denoised.tif").size == (256, 192)
    assert "Denoised before development: shot noise 0.0" in ran.err
    for words in (["--wb", "x"], ["--exposure", "9"], ["--space", "cmyk"]):
        assert med("denoise", tmp_path / "IMG.dng", *words).code == 2


def test_of_a_raw_file_and_its_jpeg_one_is_preferred(tmp_path: Path) -> None:
    folder = tmp_path / "shoot"
    folder.mkdir()
    for name in ("a.NEF", "A.JPG", "b.jpg", "c.dng", "c.jpeg", "d.png"):
        (folder / name).write_bytes(by_pillow(Image.new("RGB", (4, 4)), "png"))

    def kept(prefer: str) -> set[str]:
        return {job.source.name for job in make_plan([folder], OutputNaming(), prefer=prefer)}

    assert len(kept("both")) == 6
    assert kept("raw") == {"a.NEF", "b.jpg", "c.dng", "d.png"}
    assert kept("jpeg") == {"A.JPG", "b.jpg", "c.jpeg", "d.png"}


def test_a_missing_libraw_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(InputError, match=r"pip install 'medcli\[raw\]'"):
        read(raw_of(scene()))


def test_without_a_mosaic_of_two_by_two_noise_is_removed_after_development() -> None:
    light = (from_perceptual(scene(), "linear") / GAINS * 65535).round().astype(np.uint16)
    matrix = dng._fractions(encoding.srgb_matrix().ravel() / np.repeat(GAINS, 3))
    tags = [
        (50706, 1, 4, bytes((1, 4, 0, 0)), True), (50708, 2, 0, "Simulated", True), (50721, 10, 9, matrix, True),
        (50728, 5, 3, dng._fractions(1 / GAINS), True), (50778, 3, 1, 21, True), (50717, 3, 3, (65535,) * 3, True),
    ]  # fmt: skip
    stream = io.BytesIO()
    tifffile.imwrite(stream, light, photometric=34892, planarconfig="contig", metadata=None, extratags=tags)
    image = read(stream.getvalue(), name="a.dng", development=MOSAIC)
    assert any("no mosaic of 2 x 2" in note for note in image.notes)
    assert error(developed(image), scene()) < 2
    with pytest.raises(OutputError, match="DNG is written"):
        write(image, io.BytesIO(), format="dng")
