"""Unsharp masking of results: what it keeps, and that bands, depths and colours do not matter."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures
from torch import Tensor, nn

from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.sharpen import sharpened
from medcli.engine.tiling import Floats
from medcli.errors import MedcliError


class Copy(nn.Module):
    channels, multiple, receptive_field = 3, 1, 0

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * 1.0


def scene(height: int = 60, width: int = 50) -> np.ndarray:
    """(height, width, 3) float32 with colours and edges, away from black and white."""
    rng = np.random.default_rng(5)
    blocks = cv2.resize(rng.random((6, 5, 3), np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    return 0.2 + 0.5 * cv2.GaussianBlur(blocks, (0, 0), 1.0)


def whole(image: np.ndarray, amount: float = 0.2, *, by_value: bool = True) -> np.ndarray:
    bands = sharpened([(0, image)], len(image), amount, by_value=by_value)
    return np.concatenate([band for _, band in bands])


def test_equals_opencv() -> None:
    image = scene()
    blurred = cv2.GaussianBlur(image, (5, 5), 1.0, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(whole(image, 0.5, by_value=False), image + 0.5 * (image - blurred), atol=1e-6)


@pytest.mark.parametrize("by_value", [False, True])
def test_flat_images_and_the_mean_stay(by_value: bool) -> None:
    flat = np.full((20, 30, 3), (0.2, 0.5, 0.7), np.float32)
    np.testing.assert_allclose(whole(flat, 0.5, by_value=by_value), flat, atol=1e-6)
    image = scene()
    assert np.array_equal(whole(image, 0.0, by_value=by_value), image)
    value = whole(image, by_value=by_value).max(2) if by_value else whole(image, by_value=by_value)
    assert abs(value.mean() - (image.max(2) if by_value else image).mean()) < 0.1 / 255
    assert value.std() > (image.max(2) if by_value else image).std()


def test_hue_and_saturation_stay() -> None:
    image, result = scene(), whole(scene(), 1.0)
    assert np.abs(result - image).max() > 0.05
    before, after = (
        np.array([colorsys.rgb_to_hsv(*each) for each in pixels.reshape(-1, 3).clip(0, 1)])
        for pixels in (image, result)
    )
    np.testing.assert_allclose(after[:, :2], before[:, :2], atol=1e-4)


def test_value_stays_in_range_in_colour() -> None:
    """Beyond white the channels would be clipped one by one, and the hue would change."""
    image = scene() + 0.25
    assert image.max() < 1
    assert whole(image, 2.0).max() <= 1
    assert whole(image, 2.0, by_value=False).max() > 1


@pytest.mark.parametrize("heights", [[1] * 60, [2, 3, 1, 20, 34], [58, 1, 1], [59, 1]])
def test_bands_do_not_matter(heights: list[int]) -> None:
    image = scene()
    buffer = np.empty((max(heights), 50, 3), np.float32)

    def bands() -> Iterator[tuple[int, Floats]]:
        top = 0
        for height in heights:
            buffer[:height] = image[top : top + height]
            yield top, buffer[:height]  # the next one overwrites it
            top += height

    found = [(top, band.copy()) for top, band in sharpened(bands(), 60, 0.4)]
    assert [top for top, _ in found] == list(np.cumsum([0, *(len(band) for _, band in found)])[:-1])
    np.testing.assert_allclose(np.concatenate([band for _, band in found]), whole(image, 0.4), atol=1e-6)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_depth_and_gray(dtype: str, scale: int, channels: int) -> None:
    image = np.round(scene()[..., :channels] * scale).astype(dtype) if scale > 1 else scene()[..., :channels]
    runtime = TorchRuntime(Copy(), device="cpu", precision="fp32")
    result = Denoiser(runtime, sharpen=0.5, tile=32, overlap=8, range="dtype")(image)
    expected = whole((image / np.float32(scale)).astype(np.float32), 0.5) * scale
    assert result.dtype == image.dtype
    assert np.abs(result.astype(np.float64) - expected).max() <= (0.51 if scale > 1 else 1e-5)
    assert np.array_equal(Denoiser(runtime, range="dtype")(image), image)


def test_an_amount_out_of_range() -> None:
    with pytest.raises(MedcliError, match="cannot be sharpened by -1"):
        Denoiser(TorchRuntime(Copy(), device="cpu"), sharpen=-1)


def test_the_command(med: Med, tiny: Path, home: Path) -> None:  # noqa: F811
    Image.fromarray((255 * scene()).astype(np.uint8)).save(home / "a.png")
    edges = []
    for number, options in enumerate(([], ["--sharpen=0.2"], ["--sharpen", "1", "--sharpen-by", "rgb"], ["--sharpen"])):
        target = home / f"{number}.png"
        assert med("denoise", home / "a.png", *options, "-o", target, "-m", tiny).code == 0
        edges.append(np.abs(np.diff(np.asarray(Image.open(target), np.float32), axis=0)).mean())
    assert edges[0] < edges[1] < edges[2]
    assert edges[3] == edges[1]
    wrong = med("denoise", "--sharpen", home / "a.png", "-m", tiny)
    assert wrong.code == 2
    assert "--sharpen=0.2" in wrong.err
