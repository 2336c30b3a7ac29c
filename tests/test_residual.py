"""What was removed: as an image, and as a number that tells noise from structure."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_images import page
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.residuals import residual_targets
from medcli.engine.residual import MUCH, SOME, removed_stats, residual
from medcli.errors import OutputError
from medcli.images import DecodedImage, read, write
from medcli.images.values import ValueRange, dtype_range

BYTES = dtype_range("uint8")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """(320, 320, 3) uint8 with edges and texture at many scales."""
    rng = np.random.default_rng(3)
    fields = [
        cv2.resize(rng.random((size, size)), (320, 320), interpolation=cv2.INTER_NEAREST) for size in (8, 40, 160)
    ]
    pattern = fields[0] + 0.6 * fields[1] + 0.5 * fields[2]
    return np.repeat((60 + 60 * pattern[..., None]).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_the_residual_lies_about_the_middle_and_can_be_undone(dtype: str) -> None:
    rng = np.random.default_rng(1)
    after = (rng.random((300, 20, 3)) * 100).astype(dtype)
    before = (after + rng.integers(-20, 20, after.shape)).clip(0).astype(dtype)
    values = ValueRange(0.0, 200.0)
    found = residual(before, after, values)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float64) - 100 + after, before, atol=1e-4)


def test_an_unchanged_image_has_a_flat_residual() -> None:
    pixels = page().pixels
    assert set(np.unique(residual(pixels, pixels, BYTES))) == {128}  # 127.5, to even
    assert removed_stats([(pixels, pixels)], BYTES) == removed_stats([], BYTES)


def test_noise_is_no_structure_and_a_blur_is(scene: np.ndarray) -> None:
    noisy = (scene + np.random.default_rng(2).normal(0, 8, scene.shape)).clip(0, 255).round().astype(np.uint8)
    noise = removed_stats([(noisy, scene)], BYTES)
    blurred = removed_stats([(noisy, cv2.GaussianBlur(noisy, (0, 0), 1.0))], BYTES)
    assert noise.sigma == pytest.approx(8, rel=0.03)
    assert noise.structure < SOME / 2
    assert blurred.structure > MUCH
    assert "little structure" in noise.words
    assert "much structure" in blurred.words


def test_values_that_are_no_numbers_count_nowhere() -> None:
    before = np.full((64, 64), 0.5, np.float32)
    before[3, 3] = np.nan
    assert removed_stats([(before, before)], ValueRange(0, 1)).sigma == 0
    assert np.isnan(residual(before, before, ValueRange(0, 1))[3, 3])


def test_one_file_or_a_mirrored_folder(tmp_path: Path) -> None:
    single = Job(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert residual_targets([single], tmp_path / "r.png")[single] == (tmp_path / "r.png", None)
    job = Job(tmp_path / "in/sub/a.jpg", tmp_path / "out/sub/a.jpg", tmp_path / "out")
    assert residual_targets([job], tmp_path / "res")[job].path == tmp_path / "res/sub/a.jpg"
    for jobs, name in ([job], "r.png"), ([single], "r.xyz"), ([single], "a.jpg"), ([single], "b.jpg"):
        with pytest.raises(OutputError):
            residual_targets(jobs, tmp_path / name)


def test_the_command_writes_it_beside_a_result_and_goes_on(med: Med, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "in").mkdir(exist_ok=True)  # which holds four images
    for name in ("a.png", "b.tif"):
        write(DecodedImage([page("uint16", "RGBA", (40, 48))], "png"), tmp_path / "in" / name)
    words = ("denoise", tmp_path / "in", "-o", tmp_path / "out", "--residual", tmp_path / "res")
    assert med(*words).code == 0
    for name in ("a.png", "b.tif"):
        noisy, clean, removed = (read(tmp_path / place / name).pages[0] for place in ("in", "out", "res"))
        assert removed.alpha is None
        shown = noisy.alpha != 0
        difference = noisy.pixels.astype(int) - clean.pixels - removed.pixels.astype(int)
        assert set(np.unique(difference[shown])) <= {-32767, -32768}
    (tmp_path / "res/b.tif").unlink()
    again = med(*words)
    assert "1 done, 5 up to date" in again.err
    assert "structure" in again.err
    assert (tmp_path / "res/b.tif").exists()


def test_a_residual_that_is_no_result_of_ours_is_kept(med: Med, tmp_path: Path) -> None:  # noqa: F811
    write(DecodedImage([page()], "png"), tmp_path / "a.png")
    (tmp_path / "r.png").write_bytes(b"mine")
    ran = med("denoise", tmp_path / "a.png", "--residual", tmp_path / "r.png")
    assert ran.code == 1
    assert "choose another --residual" in ran.err
    assert (tmp_path / "r.png").read_bytes() == b"mine"
    assert med("denoise", tmp_path / "a.png", "--residual", tmp_path / "r.png", "--upscale", "2").code == 2
