"""The ruler against formulas written out here, known constants, and other people's rulers where they are installed."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from medcli import metrics
from medcli.errors import InputError, MedcliError
from medcli.metrics import Metric, ms_ssim, psnr, ssim, ssim7

SIMILARITIES = [ssim, ssim7, ms_ssim]


def images(height: int = 24, width: int = 31, channels: int = 3) -> tuple[metrics.Pixels, metrics.Pixels]:
    """(restored, clean): a smooth image, and one with noise on it."""
    rows, columns = np.mgrid[0:height, 0:width]
    clean = 0.5 + 0.3 * np.sin(rows[..., None] / 5 + np.arange(channels)) * np.cos(columns[..., None] / 7)
    restored = (clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)).clip(0, 1)
    return restored, clean


def direct_ssim(restored: metrics.Pixels, clean: metrics.Pixels, window: metrics.Pixels, share: float = 1.0) -> float:
    """Equation 13 of Wang et al. (2004), window by window; share: n / (n - 1) where the covariance is a sample's."""
    values = []
    for channel in range(clean.shape[2]):
        a, b = (sliding_window_view(each[..., channel], window.shape) for each in (restored, clean))
        mean_a, mean_b = (window * a).sum((2, 3)), (window * b).sum((2, 3))
        a, b = a - mean_a[..., None, None], b - mean_b[..., None, None]
        variance_a, variance_b, covariance = (share * (window * c).sum((2, 3)) for c in (a * a, b * b, a * b))
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        values.append(luminance * (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4))
    return float(np.mean(values))


def gaussian_window() -> metrics.Pixels:
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return np.outer(bell, bell) / bell.sum() ** 2


@pytest.mark.parametrize("offset", [0.5, 0.1, 0.01])
def test_psnr_of_a_constant_offset(offset: float) -> None:
    clean = np.full((9, 8, 3), 0.25)
    assert psnr(clean + offset, clean) == pytest.approx(-20 * np.log10(offset))


def test_psnr_is_over_all_channels() -> None:
    clean = np.zeros((4, 4, 3))
    restored = clean.copy()
    restored[..., 0] = 0.3  # a third of the elements, 0.03 on average
    assert psnr(restored, clean) == pytest.approx(-10 * np.log10(0.03))


def test_psnr_is_that_of_scikit_image() -> None:
    measured = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    restored, clean = images()
    assert psnr(restored, clean) == pytest.approx(measured.peak_signal_noise_ratio(clean, restored, data_range=1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("metric", SIMILARITIES)
def test_equal_images_are_1(metric: Metric, channels: int) -> None:
    _, clean = images(176, 177, channels)
    clean = clean.astype(np.float32)[..., 0] if channels == 1 else clean
    assert metric(clean, clean) == pytest.approx(1)
    assert psnr(clean, clean) == float("inf")


def test_ssim_has_the_gaussian_window_of_the_paper() -> None:
    restored, clean = images()
    assert ssim(restored, clean) == pytest.approx(direct_ssim(restored, clean, gaussian_window()), abs=1e-9)


def test_ssim7_has_a_uniform_window_and_the_covariance_of_a_sample() -> None:
    restored, clean = images()
    direct = direct_ssim(restored, clean, np.full((7, 7), 1 / 49), share=49 / 48)
    assert ssim7(restored, clean) == pytest.approx(direct, abs=1e-9)


def test_ms_ssim_is_the_weighted_product_over_scales() -> None:
    restored, clean = images(177, 176)
    a, b, product = restored, clean, 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        product *= direct_structure(a, b) ** weight
        a, b = direct_halves(a), direct_halves(b)
    product *= direct_ssim(a, b, gaussian_window()) ** 0.1333
    assert ms_ssim(restored, clean) == pytest.approx(product, abs=1e-9)


def direct_halves(pixels: metrics.Pixels) -> metrics.Pixels:
    height, width = (length // 2 * 2 for length in pixels.shape[:2])
    pixels = pixels[:height, :width]
    return (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2]) / 4


def direct_structure(restored: metrics.Pixels, clean: metrics.Pixels) -> float:
    """Contrast and structure alone, by taking the luminance away: both images get the same local means."""
    window = gaussian_window()
    values = []
    for channel in range(clean.shape[2]):
        a, b = (sliding_window_view(each[..., channel], window.shape) for each in (restored, clean))
        a, b = (c - (window * c).sum((2, 3))[..., None, None] for c in (a, b))
        variances, covariance = (window * (a * a + b * b)).sum((2, 3)), (window * a * b).sum((2, 3))
        values.append((2 * covariance + 9e-4) / (variances + 9e-4))
    return float(np.mean(values))


def test_ms_ssim_is_that_of_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    restored, clean = images(181, 190)
    tensors = (torch.from_numpy(each.transpose(2, 0, 1)[None]) for each in (restored, clean))
    theirs = image.multiscale_structural_similarity_index_measure(*tensors, data_range=1.0)
    # Not equal: theirs averages the coarsest scale over mirrored borders too.
    assert ms_ssim(restored, clean) == pytest.approx(float(theirs), abs=2e-4)


def test_ms_ssim_counts_an_inverted_texture_as_nothing() -> None:
    """Alike at every scale but the finest, where a negative number would be raised to a broken power."""
    _, clean = images(176, 176)
    texture = 0.1 * (-1.0) ** np.indices(clean.shape[:2]).sum(0)[..., None]
    assert ms_ssim(clean - texture, clean + texture) == 0


@pytest.mark.parametrize("metric", [psnr, *SIMILARITIES])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda clean: clean[:-1], "cannot be compared"),
        (lambda clean: clean[..., :1], "cannot be compared"),
        (lambda clean: clean + 0.6, r"\[0, 1\]"),
        (lambda clean: clean - 0.6, r"\[0, 1\]"),
        (lambda clean: np.where(clean > 0.7, np.nan, clean), r"\[0, 1\]"),
        (lambda clean: (clean > 0.5).astype(np.uint8), r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_compared_raises(metric: Metric, spoil: Callable[[Any], Any], words: str) -> None:
    _, clean = images(176, 176)
    with pytest.raises(InputError, match=words):
        metric(spoil(clean), clean)


@pytest.mark.parametrize(("metric", "side"), [(psnr, 1), (ssim7, 7), (ssim, 11), (ms_ssim, 176)])
def test_the_least_size_is_measured_and_one_less_is_not(metric: Metric, side: int) -> None:
    restored, clean = images(side, side)
    metric(restored, clean)
    with pytest.raises(InputError, match=f"at least {side} pixels"):
        metric(restored[1:], clean[1:])


def test_a_core_install_has_psnr_and_says_what_ssim_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "skimage")
    restored, clean = images()
    assert metrics.PER_IMAGE["psnr"].make()(restored, clean) > 0
    for name in ("ssim", "ssim7"):
        with pytest.raises(MedcliError, match=r"pip install 'medcli\[eval\]'"):
            metrics.PER_IMAGE[name].make()


@pytest.mark.parametrize(("make", "file"), [(metrics.Lpips, metrics.ALEXNET), (metrics.Fid, metrics.INCEPTION)])
def test_learned_metrics_ask_for_weights_and_download_none(
    make: Callable[[], object], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    without(monkeypatch, "torchmetrics")
    with pytest.raises(MedcliError, match=file):
        make()
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / file).write_bytes(b"something else")
    with pytest.raises(MedcliError, match="checksum"):
        make()
    monkeypatch.setattr(metrics, "sha256_of", lambda _: file.rpartition("-")[2].partition(".")[0])
    with pytest.raises(MedcliError, match=r"pip install 'medcli\[perceptual\]'"):
        make()


def test_unknown_metrics_are_named_with_the_nearest() -> None:
    metrics.check_names(("psnr", "fid"))
    with pytest.raises(MedcliError, match="Did you mean 'ms-ssim'"):
        metrics.check_names(("psnr", "msssim"))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Importing `package` fails, as where it is not installed."""
    genuine = builtins.__import__

    def importing(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return genuine(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize("metric", [ssim, ssim7])
def test_similarity_is_over_the_windows_around_pixels_that_count(metric: Metric) -> None:
    draws = np.random.default_rng(0)
    clean, restored = draws.random((2, 40, 60)).astype(np.float32)
    restored[:, :40] = clean[:, :40]
    valid = np.zeros(clean.shape, bool)
    assert metric(restored, clean, ~valid) == pytest.approx(metric(restored, clean))
    valid[:, :30] = True
    assert metric(restored, clean, valid) == pytest.approx(1)
    assert metric(restored, clean, ~valid) < 0.7
