"""`med inspect`: noise that is known is found, what was done to an image is seen, and a model is proposed."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from sample_images import exif_block
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.data.inspection import inspect, jpeg_quality
from medcli.images import read
from medcli.images.values import dtype_range
from medcli.zoo.catalog import entries
from medcli.zoo.choice import DEFAULT, choose

UNIT = dtype_range("float32")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """(384, 384, 3) float in [0.1, 0.9]: smooth colours, some edges, a textured part."""
    rows, columns = np.mgrid[0:384, 0:384] / 96
    planes = [0.5 + 0.25 * np.sin(rows + c) + 0.1 * np.cos(columns) for c in range(3)]
    clean = np.stack(planes, -1)
    clean[64:128, 64:160] += 0.05
    clean[256:320, 256:320] += 0.05 * (np.indices((64, 64)).sum(0) % 2)[..., None]
    return clean


def noisy(scene: np.ndarray, deviation: float | np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, scene.shape)
    return (scene + deviation * noise).astype(np.float32)


@pytest.mark.parametrize("sigma", [3, 10, 25, 50])
def test_the_level_of_white_noise_is_found_within_ten_percent(scene: np.ndarray, sigma: float) -> None:
    seen = inspect(noisy(scene, sigma / 255), UNIT)
    assert seen.sigma == pytest.approx(sigma, rel=0.1)
    assert seen.luma is not None
    assert seen.luma.sigma == pytest.approx(sigma / 3**0.5, rel=0.15)
    assert seen.white_gaussian
    gray = inspect(noisy(scene[..., :1], sigma / 255)[..., 0], UNIT)
    assert gray.sigma == pytest.approx(sigma, rel=0.1)
    assert gray.chroma is None


def test_noise_of_unequal_channels_is_measured_and_is_no_white_noise_of_all(scene: np.ndarray) -> None:
    seen = inspect(noisy(scene, np.array([10, 10, 20]) / 255), UNIT)
    assert seen.sigma == pytest.approx(200**0.5, rel=0.12)  # the root of the mean variance
    assert not seen.white_gaussian


def test_photon_noise_rises_with_brightness(scene: np.ndarray) -> None:
    gray = scene[..., 0]
    seen = inspect(noisy(gray, np.sqrt(0.004 * gray + 0.01**2)), UNIT)
    assert seen.luma is not None
    assert seen.luma.rises
    assert seen.luma.gain == pytest.approx(255 * 0.004, rel=0.15)
    assert all(
        level == pytest.approx(255 * np.sqrt(0.004 * tone + 0.0001), rel=0.1)
        for tone, level in seen.luma.by_tone.items()
    )


def test_correlated_noise_is_no_white_noise(scene: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, scene.shape)
    seen = inspect((scene + cv2.GaussianBlur(noise, (0, 0), 1.0)).astype(np.float32), UNIT)
    assert seen.smoothed
    assert not seen.white_gaussian
    assert choose(seen).model == DEFAULT


def test_traces_of_processing_are_seen(scene: np.ndarray, tmp_path: Path) -> None:
    plain = noisy(scene, 0.02)
    banded = plain + np.random.default_rng(2).normal(0, 0.02, (384, 1, 1)).astype(np.float32)
    assert inspect(plain, UNIT).rows < 0.3
    assert inspect(banded, UNIT).rows == pytest.approx(255 * 0.02, rel=0.25)
    assert inspect(banded, UNIT).columns < 0.3
    spotted = plain.copy()
    spotted[5::40, 5::40] = 1.5
    assert inspect(plain, UNIT).hot == 0
    assert inspect(spotted, UNIT).hot == pytest.approx(1e6 * 100 / 384**2, rel=0.1)
    levels = (255 * plain).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "low.jpg", quality=20)
    assert inspect(levels, dtype_range("uint8")).blockiness < 1.05
    assert inspect(read(tmp_path / "low.jpg").pages[0].pixels, dtype_range("uint8")).blockiness > 1.2


@pytest.mark.parametrize("quality", [20, 50, 75, 92, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(tmp_path: Path, quality: int) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(read(tmp_path / "a.jpg").metadata.quantization) == pytest.approx(quality, abs=1)


def test_a_model_is_chosen_by_the_noise(scene: np.ndarray) -> None:
    white = choose(inspect(noisy(scene, 25 / 255), UNIT))
    assert (white.model, white.strength) == ("gaussian", 1.0)
    assert "sigma 25" in white.why
    none = choose(inspect(np.full((128, 128, 3), 0.5, np.float32), UNIT))
    assert (none.model, none.strength) == (DEFAULT, 0.0)
    gray = np.repeat(noisy(scene[..., :1], 25 / 255), 3, axis=2)
    assert choose(inspect(gray, UNIT)) == (DEFAULT, 1.0, "monochrome noise")
    assert choose(inspect(noisy(scene, 25 / 255), UNIT), known=[]).model == DEFAULT
    plane = scene[..., 0]
    photons = choose(inspect(noisy(plane, np.sqrt(0.004 * plane + 0.01**2)), UNIT))
    assert (entries()[photons.model].domain, entries()[photons.model].channels) == ("microscopy", 1)
    assert choose(inspect(noisy(plane, 25 / 255), UNIT)).model == DEFAULT


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray((255 * pixels).clip(0, 255).round().astype(np.uint8)).save(path, **options)
    return path


def test_one_image_gets_lines_and_a_picture(med: Med, scene: np.ndarray, tmp_path: Path) -> None:
    exif = b"Exif\0\0" + exif_block()
    path = save(tmp_path / "photo.jpg", noisy(scene, 20 / 255), quality=95, exif=exif)
    result = med("inspect", path, "--plot", tmp_path / "noise.png")
    said = result.out.decode()
    assert result.code == 0
    assert "photo.jpg: 384x384, uint8 colour, jpeg" in said
    assert "Model with a long name" in said
    assert "JPEG of quality 95" in said
    assert "proposed: -m " in said
    assert Image.open(tmp_path / "noise.png").size[0] > 800


def test_folders_get_a_table_and_a_summary_per_camera(med: Med, scene: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "shoot"
    folder.mkdir()
    save(folder / "a.png", noisy(scene, 25 / 255))
    save(folder / "b.png", noisy(scene, 15 / 255))
    said = med("inspect", folder).out.decode()
    assert said.splitlines()[0].split() == [
        "file",
        "size",
        "type",
        "noise",
        "luma",
        "chroma",
        "correlation",
        "model",
        "strength",
    ]
    assert "unknown camera: 2 files" in said
    assert "--plot draws the noise of one image" in med("inspect", folder, "--plot", "x.png").err
    assert med("inspect", folder / "a.png", "--plot", "x.jpg").code == 2
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = med("inspect", folder)
    assert (result.code, "1 of 3 images" in result.err) == (3, True)


def test_json_holds_all_figures(med: Med, scene: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noisy(scene, 25 / 255))
    found = json.loads(med("inspect", path, "--json").out)
    assert found["file"] == str(path)
    assert found["proposed"]["model"] == "gaussian"
    assert found["chroma"]["sigma"] == pytest.approx(25, rel=0.1)
    assert {"low", "high", "values", "luma", "rows", "hot", "blockiness", "camera", "iso", "quality"} <= found.keys()


def images(out: bytes) -> list[dict[str, Any]]:
    """The lines of --json that are about an image."""
    return [row for row in map(json.loads, out.splitlines()) if row["event"] == "image"]


def test_auto_denoises_each_image_by_its_own_noise(
    med: Med, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "shoot", tmp_path / "results"
    folder.mkdir()
    save(folder / "clean.png", np.full((64, 64, 3), 0.5))
    save(folder / "white.png", noisy(scene[:128, :128], 25 / 255))
    save(folder / "gray.png", noisy(scene[:64, :64, :1], 25 / 255)[..., 0])
    result = med("denoise", folder, "-o", out, "--model", "auto", "--json", "--device", "cpu")
    assert result.code == 0, result.err
    used = {Path(row["input"]).name: row["model"] for row in images(result.out)}
    assert used == {"clean.png": "photo", "white.png": "gaussian", "gray.png": "photo"}
    assert (np.asarray(Image.open(out / "clean.png")) == 128).all()
    assert "no noise to speak of" in result.err
    again = med("denoise", folder, "-o", out, "--model", "auto", "--json", "--device", "cpu")
    assert {row["status"] for row in images(again.out)} == {"skipped"}


@pytest.mark.parametrize("source", ["-", "s3://bucket/photo.png"])
def test_auto_does_not_go_with_pipes_and_stores(med: Med, source: str) -> None:
    result = med("denoise", source, "-o", "x.png", "--model", "auto")
    assert (result.code, "it takes a file" in result.err) == (2, True), result.err
