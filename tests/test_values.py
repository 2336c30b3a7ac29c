"""What numbers mean: ranges that are found, results and kept, and images denoised in all units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import medcli
from medcli.batch.pairs import FilePairs, as_floats
from medcli.cli import med as med_group
from medcli.errors import MedcliError
from medcli.images import DecodedImage, Page, read, write
from medcli.images.values import (
    UNIT,
    ValueRange,
    as_choice,
    choose_range,
    dtype_range,
    joint_range,
    missing,
    parse_range,
    range_of,
    stored,
)

Pixels = np.ndarray[Any, Any]
MODEL = "gaussian-dncnn"  # good at gray images of this size
NODATA = [(42113, 2, 0, "-9999", True)]


def scene(side: int = 96) -> Pixels:
    """(side, side) in about [0.1, 0.9]."""
    y, x = np.mgrid[:side, :side]
    return 0.5 + 0.25 * np.sin(x / 17) * np.cos(y / 23) + 0.2 * ((x // 32 + y // 32) % 2) - 0.1


def noisy(sigma: float = 0.06) -> Pixels:
    clean = scene()
    return clean + np.random.default_rng(0).normal(0, sigma, clean.shape)


def rms(error: Pixels) -> float:
    return float(np.sqrt(np.mean(error**2)))


def med(*arguments: str | Path) -> str:
    ran = CliRunner().invoke(med_group, [str(each) for each in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


class TestTheRange:
    def test_of_eight_bits_is_never_another(self) -> None:
        assert choose_range("auto", [np.full((9, 9), 7, np.uint8)]) == ValueRange(0, 255)

    @pytest.mark.parametrize("brightness", [1.0, 0.6])
    def test_of_sixteen_bits_that_are_filled_is_the_types(self, brightness: float) -> None:
        photo = stored(noisy() * 65535 * brightness / 0.9, np.uint16)
        assert choose_range("auto", [photo]) == ValueRange(0, 65535)

    @pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
    def test_of_few_counts_is_that_of_the_counts(self, dtype: str) -> None:
        counts = stored(noisy() * 200 + 100, dtype)
        found = choose_range("auto", [counts])
        assert counts.min() <= found.low < 130
        assert 260 < found.high <= counts.max()

    @pytest.mark.parametrize("share", [0.0001, 0.005])
    def test_is_not_decided_by_hot_pixels(self, share: float) -> None:
        counts = stored(noisy() * 200 + 100, np.uint16)
        hot = counts.copy()
        hot[np.random.default_rng(5).random(hot.shape) < share] = 65535
        hot[50, 50] = 0
        assert choose_range("auto", [hot]).high == pytest.approx(choose_range("auto", [counts]).high, rel=0.02)
        assert choose_range("auto", [hot]).low == pytest.approx(choose_range("auto", [counts]).low, rel=0.05)

    def test_of_float_photographs_is_the_unit_with_noise_and_without(self) -> None:
        for sigma in (0.0, 0.06, 0.2):
            assert choose_range("auto", [noisy(sigma).astype(np.float32)]) == UNIT

    @pytest.mark.parametrize("scale", [0.001, 0.1, 4095.0, 1e20])
    def test_of_other_floats_goes_with_their_scale(self, scale: float) -> None:
        one, other = (choose_range("auto", [noisy() * each]) for each in (10.0, scale))
        assert (other.low / scale, other.high / scale) == pytest.approx((one.low / 10, one.high / 10))

    def test_of_photons_that_are_few_is_no_single_value(self) -> None:
        rng = np.random.default_rng(0)
        for mean in (0.0005, 0.005, 0.05):
            found = choose_range("auto", [rng.poisson(mean, (200, 200)).astype(np.uint16)])
            assert found.low == 0
            assert 1 <= found.high <= 3

    @pytest.mark.parametrize("value", [0.0, 0.5, 3000.0, -7.0])
    def test_of_one_value_is_some_range(self, value: float) -> None:
        assert choose_range("auto", [np.full((1, 1), value)]).low < np.inf
        assert choose_range("auto", [np.full((5, 5), np.nan)]) == UNIT

    def test_is_one_for_all_pages_and_takes_no_nodata(self) -> None:
        first, second = (np.full((20, 20), value) for value in (100.0, 500.0))
        first[:, 10:], second[:, 10:] = -9999, 9e9
        pages = [Page(first, nodata=-9999.0), Page(second, (second < 9e9).astype(float))]
        assert range_of("auto", pages) == ValueRange(100, 500)

    def test_is_read_and_reported(self) -> None:
        assert parse_range("auto") == "auto"
        assert parse_range("dtype") == "dtype"
        assert parse_range("-3:1e3") == ValueRange(-3, 1000) == as_choice((-3, 1000)) == as_choice("-3:1000")
        assert str(ValueRange(100, 4195.5)) == "100:4195.5"
        assert ValueRange(32768, 32769).words == "32768 to 32769"
        for wrong in ("", "max", "1", "2:1", "1:1", "nan:1", "0:inf"):
            with pytest.raises(MedcliError, match="range") as caught:
                parse_range(wrong)
            assert caught.value.hint

    @given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
    def test_is_reported_without_loss(self, one: float, other: float) -> None:
        if one < other:
            assert parse_range(str(ValueRange(one, other))) == ValueRange(one, other)

    def test_of_images_of_one_scene_is_one(self) -> None:
        low, high, sixteen = ValueRange(100, 140), ValueRange(95, 130), np.dtype(np.uint16)
        assert joint_range([low, high], [sixteen, np.dtype(np.float32)]) == [ValueRange(95, 140)] * 2
        own = [dtype_range(sixteen), UNIT]
        assert joint_range(own, [sixteen, np.dtype(np.float32)]) == own
        assert joint_range([low, ValueRange(0, 255)], [sixteen, np.dtype(np.uint8)]) == [low, ValueRange(0, 255)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_values_survive_the_way_there_and_back(dtype: str) -> None:
    span = dtype_range(dtype)
    ends = np.array([[span.low, span.high]]).astype(dtype)
    np.testing.assert_array_equal(span.from_unit(span.to_unit(ends), dtype), ends)
    np.testing.assert_allclose(span.to_unit(ends), [[0, 1]])
    if np.dtype(dtype).kind != "f":
        outside = np.array([[-0.5, 1.5]], np.float32)
        np.testing.assert_array_equal(span.from_unit(outside, dtype), ends)
        half = ValueRange(span.low / 2 + span.high / 4, span.high / 2)
        assert (half.from_unit(outside, dtype) != half.from_unit(outside.clip(0, 1), dtype)).all()


def test_what_is_missing() -> None:
    assert missing(np.zeros((2, 2), np.uint8)) is None
    assert missing(np.zeros((2, 2), np.uint8), -9999) is None
    colours = np.array([[[7, 7, 7], [7, 0, 7], [1, 2, 3]]], np.uint8)
    found = missing(colours, 7)
    assert found is not None
    assert found.tolist() == [[True, False, False]]
    heights = np.array([[1, np.nan, -np.inf, -3.4028235e38]], np.float32)
    found = missing(heights, -3.40282346600000016e38)
    assert found is not None
    assert found.tolist() == [[False, True, True, True]]


@pytest.fixture(scope="module")
def gaussian() -> medcli.Denoiser:
    return medcli.load(MODEL, device="cpu")


class TestDenoising:
    @pytest.mark.parametrize(
        ("scale", "offset", "dtype"),
        [
            (40, 400, "uint16"), (200, 100, "uint16"), (4000, 100, "uint16"), (65535, 0, "uint16"),
            (300, -150, "int16"), (5e5, 1e9, "int32"), (1e9, 3e9, "uint32"),
            (1, 0, "float32"), (1, 0, "float16"), (0.001, 0, "float32"), (65535, 0, "float32"), (1e-12, 5, "float64"),
        ],
    )  # fmt: skip
    def test_helps_in_whatever_units(self, gaussian: medcli.Denoiser, scale: float, offset: float, dtype: str) -> None:
        pixels = stored(noisy() * scale + offset, dtype)
        error = (gaussian(pixels).astype(np.float64) - offset) / scale - scene()
        assert rms(error) < 0.03  # 0.06 before
        assert abs(error.mean()) < 0.02

    @pytest.mark.parametrize("value", [5.0, 1e4, 3.4e38, -9999.0, np.inf, np.nan])
    def test_one_outlier_stays_local(self, gaussian: medcli.Denoiser, value: float) -> None:
        pixels = noisy().astype(np.float32)
        struck = pixels.copy()
        struck[48, 48] = value
        error = np.abs(gaussian(struck) - gaussian(pixels))
        np.testing.assert_array_equal(gaussian(struck)[48, 48], np.float32(value))
        error[48, 48] = 0
        assert error.max() < 5 / 255


class TestPython:
    def test_takes_a_range_and_nodata(self, tmp_path: Path) -> None:
        heights = (noisy() * 300 + 1000).astype(np.float32)
        heights[30:60, 30:60] = -9999
        hole = heights == -9999
        found = medcli.denoise(heights, MODEL, nodata=-9999)
        np.testing.assert_array_equal(found[hole], heights[hole])
        assert rms((found - (scene() * 300 + 1000))[~hole]) < 0.035 * 300
        tifffile.imwrite(tmp_path / "heights.tif", heights, extratags=NODATA)
        np.testing.assert_array_equal(medcli.denoise(tmp_path / "heights.tif", MODEL), found)
        other = medcli.denoise(heights, MODEL, nodata=-9999, range=(0, 65535))
        assert np.abs(other - found)[~hole].max() > 1


class TestTheCommand:
    def store(self, path: Path, pixels: Pixels, **options: Any) -> Path:
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, pixels, **options)
        return path

    def test_keeps_the_nodata_of_gdal_and_says_the_range(self, tmp_path: Path) -> None:
        heights = (noisy() * 300 + 1000).astype(np.float32)
        heights[30:60, 30:60] = -9999
        source = self.store(tmp_path / "heights.tif", heights, extratags=NODATA)
        results = json.loads(med("denoise", source, "-m", MODEL, "-o", tmp_path / "out.tif", "--json", "-q"))
        restored = tifffile.imread(tmp_path / "out.tif")
        hole = heights == -9999
        np.testing.assert_array_equal(restored[hole], heights[hole])
        assert rms((restored - (scene() * 300 + 1000))[~hole]) < 0.035 * 300
        assert 1000 < results["range"][0] < 1060
        assert 1230 < results["range"][1] < 1360
        assert "900 pixels hold no data" in results["notes"][0]
        line = med("denoise", source, "-o", tmp_path / "out.tif", "--force")
        assert f"range {ValueRange(*results['range']).words}" in line

    def test_takes_a_value_that_means_nothing(self, tmp_path: Path) -> None:
        counts = stored(noisy() * 300 + 100, np.uint16)
        counts[:20] = 65535
        source = self.store(tmp_path / "a.tif", counts)
        results = json.loads(med("denoise", source, "-o", tmp_path / "b.tif", "--json", "-q", "--nodata", "65535"))
        assert (tifffile.imread(tmp_path / "b.tif")[:20] == 65535).all()
        assert results["range"][1] < 500

    def test_one_map_for_all_pages_and_for_a_series(self, tmp_path: Path) -> None:
        stack = np.stack([stored(noisy() * scale + 100, np.uint16)[:32, :32] for scale in (50, 500)])
        self.store(tmp_path / "in" / "stack.tif", stack, photometric="minisblack")
        first = self.store(tmp_path / "in" / "a.tif", stack[0])
        found = {}
        for name, options in (("auto", []), ("first", ["--range-from", first]), ("dtype", ["--range", "dtype"])):
            out = med("denoise", tmp_path / "in", "-o", tmp_path / name, "--json", "-q", *options).splitlines()
            images = [each for each in map(json.loads, out) if each["event"] == "image"]
            found[name] = {Path(each["input"]).name: each["range"] for each in images}
        assert found["auto"]["a.tif"][1] < 200 < 400 < found["auto"]["stack.tif"][1]
        assert found["first"]["stack.tif"] == found["first"]["a.tif"] == found["auto"]["a.tif"]
        assert found["dtype"]["stack.tif"] == [0, 65535]

    def test_another_range_makes_results_anew(self, tmp_path: Path) -> None:
        self.store(tmp_path / "in" / "a.tif", stored(noisy()[:32, :32] * 300, np.uint16))
        runs = [[], [], ["--range", "0:400"], ["--range", "0:400"], ["--range", "0:500"], ["--nodata", "0"]]
        lines = [med("denoise", tmp_path / "in", "-o", tmp_path / "out", *each) for each in runs]
        assert ["up to date" in line for line in lines] == [False, True, False, True, False, False]
        assert "range 0 to 400" in lines[2]

    def test_refuses_what_is_no_range(self, tmp_path: Path) -> None:
        source = self.store(tmp_path / "a.tif", scene().astype(np.float32))
        for options in (["--range", "5:1"], ["--range", "full"], ["--range", "0:1", "--range-from", str(source)]):
            ran = CliRunner().invoke(med_group, ["denoise", str(source), *options])
            assert ran.exit_code == 2
            assert "range" in ran.output
        ran = CliRunner().invoke(med_group, ["denoise", str(source), "--nodata", "none"])
        assert ran.exit_code == 2
        assert "'none' is not a valid float" in ran.output


def test_other_formats_get_the_range_that_was_found(tmp_path: Path) -> None:
    image = DecodedImage([Page(np.array([[100.0, 150.0, 200.0, 900.0]], np.float32))], "tiff")
    image.values = ValueRange(100, 200)
    write(image, tmp_path / "a.png")
    assert read(tmp_path / "a.png").pages[0].pixels.tolist() == [[0, 32768, 65535, 65535]]
    assert "100 to 200 was clipped and scaled" in image.notes[0]


class TestOtherCommands:
    """Counts between 100 and 400, clean and noisy, are read as the image that they are."""

    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[Path, Path]:
        clean, copies = tmp_path / "clean", tmp_path / "noisy"
        for number in range(2):
            for folder, pixels in ((clean, scene()), (copies, noisy())):
                folder.mkdir(exist_ok=True)
                tifffile.imwrite(folder / f"{number}.tif", stored(pixels * 300 + 100, np.uint16))
        return clean, copies

    def test_eval_measures_on_the_scale_of_the_values(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        clean, copies = folders
        results = {}
        for name, options in (("auto", []), ("dtype", ["--range", "dtype"]), ("given", ["--range", "100:400"])):
            file = tmp_path / f"{name}.json"
            med("eval", "--clean", clean, "--noisy", copies, "--classical", "nlm", "--metrics", "psnr", "--json", file,
                "-q", *options)  # fmt: skip
            results[name] = json.loads(file.read_text())
        scores = {
            name: [row["mean"]["psnr"] for row in table["tables"][0]["methods"]] for name, table in results.items()
        }
        assert scores["given"][0] == pytest.approx(-20 * np.log10(0.06), abs=0.5)
        assert scores["auto"][0] == pytest.approx(scores["given"][0], abs=2)
        assert scores["auto"][1] > scores["auto"][0] + 2
        assert scores["dtype"][0] > 60

    def test_pairs_of_one_scene_are_on_one_scale(self, folders: tuple[Path, Path]) -> None:
        for rounded in (True, False):
            (pair,) = FilePairs(folders[1], folders[0], [(Path("0.tif"), Path("0.tif"))], round=rounded)
            error = as_floats(pair.noisy, pair.scale) - pair.clean
            assert pair.noisy.dtype == (np.uint16 if rounded else np.float32)
            assert abs(error.mean()) < 0.01
            assert 0.04 < error.std() < 0.08

    def test_noise_is_added_on_the_scale_of_the_values(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        clean = tifffile.imread(folders[0] / "0.tif")
        marked = clean.copy()
        marked[:9] = 65535
        tifffile.imwrite(folders[0] / "0.tif", marked, extratags=[(42113, 2, 0, "65535", True)])
        make = [
            "synth-pairs",
            "--from",
            folders[0],
            "--to",
            tmp_path / "made",
            "--noise",
            "gaussian:25",
            "--processes",
            "1",
        ]
        assert "range " in med(*make)
        made = tifffile.imread(tmp_path / "made" / "0.tif")
        np.testing.assert_array_equal(made[:9], marked[:9])
        width = float(clean[9:].max()) - float(clean[9:].min())
        assert (made[9:].astype(float) - clean[9:]).std() == pytest.approx(25 / 255 * width, rel=0.1)
        assert "2 up to date" in med(*make)
        assert "2 done" in med(*make, "--range", "0:1000")
        made = tifffile.imread(tmp_path / "made" / "0.tif")
        assert (made[9:].astype(float) - clean[9:]).std() == pytest.approx(98, rel=0.1)
