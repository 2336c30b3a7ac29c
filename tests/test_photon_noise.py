"""Claims about the measurement of photon noise, on simulated images and on micrographs with a known clean image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from medcli.data.flat_blocks import unclipped
from medcli.data.photon_noise import MeasuredNoise, photon_noise, photon_noise_of_series
from medcli.data.structures import structures
from medcli.errors import InputError

SHARED = Path(__file__).parents[2] / "shared" / "data"
Image = np.ndarray


def exposed(light: Image, gain: float, offset: float = 0.0, read: float = 0.0, seed: int = 0) -> Image:
    """light: in values, without the offset."""
    rng = np.random.default_rng(seed)
    return gain * rng.poisson(light / gain) + offset + rng.normal(0, read, light.shape)


def specimen(seed: int, side: int = 256) -> Image:
    light = structures(1, side, torch.Generator().manual_seed(seed))[0].numpy().astype(float)
    return 240 * (0.04 + 0.96 * light)


def at_levels(measured: MeasuredNoise, levels: list[float]) -> Image:
    return measured.noise.variance(torch.tensor(levels)).numpy()


@pytest.mark.parametrize(("gain", "offset", "read"), [(1, 0, 5), (4, 100, 5), (16, 0, 0), (2, 400, 10)])
def test_gain_of_specimens(gain: float, offset: float, read: float) -> None:
    found = [photon_noise(exposed(specimen(seed), gain, offset, read, seed)) for seed in (3, 4, 5, 8, 9, 11)]
    assert np.median([each.noise.gain for each in found]) == pytest.approx(gain, rel=0.1)
    assert not any(each.correlated for each in found)
    for each in found:  # what the transform needs: the variance
        expected = [gain * light + read**2 for light in (60.0, 120.0)]
        assert np.allclose(at_levels(each, [offset + 60.0, offset + 120.0]), expected, rtol=0.25)


def test_the_darkest_part_shows_offset_and_read_noise() -> None:
    light = specimen(1)
    light[:, :128] = 0
    noise = photon_noise(exposed(light, 2, 100, 6)).noise
    assert noise.gain == pytest.approx(2, rel=0.1)
    assert noise.offset == pytest.approx(100, abs=3)
    assert noise.read == pytest.approx(6, rel=0.2)


def test_few_bright_parts_decide_as_well() -> None:
    """Nearly all of this specimen is dark."""
    noise = photon_noise(exposed(1000 * specimen(110) / 240, 10, 100, 5)).noise
    assert noise.gain == pytest.approx(10, rel=0.25)
    assert noise.offset == pytest.approx(100, abs=60)


def test_noise_that_does_not_depend_on_the_signal() -> None:
    measured = photon_noise(np.linspace(0, 100, 256)[:, None] + np.random.default_rng(0).normal(0, 4, (256, 256)))
    assert np.allclose(at_levels(measured, [20, 80]), 16, rtol=0.15)


@pytest.mark.parametrize("size", [0.5, 0.75, 1.0])
def test_correlated_noise_is_measured_whole(size: float) -> None:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (256, 256)), (0, 0), size)
    measured = photon_noise(50 + np.linspace(0, 60, 256)[:, None] + 6 * noise / noise.std())
    assert measured.correlated
    assert measured.lags[0] == pytest.approx(np.exp(-1 / (4 * size**2)), abs=0.25)
    assert np.allclose(at_levels(measured, [60, 100]), 36, rtol=0.35)


def test_a_series_is_exact_whatever_the_texture() -> None:
    light = 20 + 200 * np.random.default_rng(3).random((256, 256))  # nothing is smooth
    noise = photon_noise_of_series([exposed(light, 4, 100, 5, seed) for seed in range(6)]).noise
    assert noise.gain == pytest.approx(4, rel=0.1)
    assert noise.gain * 120 + noise.floor + noise.gain * 100 == pytest.approx(4 * 120 + 25, rel=0.05)


def test_saturated_and_black_parts_do_not_count() -> None:
    light = specimen(4)
    light[:64], light[64:100] = 400, 0
    measured = photon_noise(np.clip(exposed(light, 4), 0, 255))
    assert measured.noise.gain == pytest.approx(4, rel=0.2)


def test_blocks_count_unless_the_image_ends_at_black_or_white() -> None:
    blocks = np.full((3, 4, 4), 0.5)
    blocks[1, 0, 0], blocks[2, 0, 0] = 0, 1
    assert len(unclipped(blocks)) == 1
    blocks[0, 0, 0] = -0.1  # values below black: 0 is no end
    assert len(unclipped(blocks)) == 2
    blocks[0, 0, 1] = 1.1
    assert len(unclipped(blocks)) == 3
    assert len(unclipped(blocks[:0])) == 0


def test_invalid_values_do_not_count() -> None:
    image = exposed(specimen(5), 4)
    expected = photon_noise(image).noise.gain
    image[20:24, 30:34] = np.nan
    assert photon_noise(image).noise.gain == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("image", [np.zeros((8, 100)), np.zeros((64, 64)), np.zeros((64, 64, 3))], ids=str)
def test_what_cannot_be_measured_is_an_error(image: Image) -> None:
    with pytest.raises(InputError, match="cannot be measured"):
        photon_noise(image)
    with pytest.raises(InputError, match="two frames"):
        photon_noise_of_series([image])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder is not here")
class TestPhotographsAndMicrographs:
    @pytest.mark.parametrize(("gain", "read"), [(1, 5), (4, 5), (16, 5)])
    def test_ten_photographs(self, gain: float, read: float) -> None:
        """A photograph full of fine texture may be wrong by a third; the median is not."""
        gains, floors = [], []
        for path in sorted((SHARED / "test/set12").iterdir())[:10]:
            clean = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)
            noise = photon_noise(exposed(clean, gain, 0, read)).noise
            gains.append(noise.gain / gain)
            floors.append(max(noise.floor, 0) ** 0.5)
        assert np.median(gains) == pytest.approx(1, abs=0.1)
        assert sum(abs(each - 1) > 0.1 for each in gains) <= 4
        if gain == 1:
            assert np.median(floors) == pytest.approx(read, rel=0.2)

    def test_confocal_and_two_photon_micrographs(self) -> None:
        """The variance at the median brightness, against that of noisy minus clean."""
        ratios = []
        for path in sorted((SHARED / "real/fmd48/noisy").glob("[CT]*_1.png")):
            noisy, clean = (
                cv2.imread(str(each), cv2.IMREAD_GRAYSCALE).astype(float)
                for each in (path, path.parents[1] / "clean" / path.name)
            )
            middle = float(np.median(clean))
            near = np.abs(clean - middle) <= 1
            measured = at_levels(photon_noise(noisy), [middle])[0]
            ratios.append(measured / np.square(noisy - clean)[near].mean())
        assert len(ratios) == 9
        assert max(abs(ratio - 1) for ratio in ratios) < 0.25
        assert np.median(ratios) == pytest.approx(1, abs=0.2)
