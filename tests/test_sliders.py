"""Sliders: brightness and colour apart, texture, protection of tones, automatic strength, looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_images import noise, page
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.engine import sliders as module
from medcli.engine.slider_values import NAMES, Sliders, looks
from medcli.engine.sliders import LUMA, adjusted, noise_curve
from medcli.errors import OptionError
from medcli.images import DecodedImage, read, write
from medcli.images.values import ValueRange, dtype_range

BYTES = dtype_range("uint8")
ZERO = Sliders(luma=0, chroma=0)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(clean, noisy, denoised) float32, (300, 200, 3): a ramp, with texture in its right half, which was removed."""
    rng = np.random.default_rng(0)
    clean = np.repeat(np.linspace(0.2, 0.8, 300)[:, None, None], 200, 1).repeat(3, 2).astype(np.float32)
    blurred = clean.copy()
    texture = cv2.GaussianBlur(rng.normal(0, 1, (300, 100)).astype(np.float32), (0, 0), 1.0)
    clean[:, 100:] += 0.4 * texture[..., None]
    noisy = clean + rng.normal(0, 0.03, clean.shape).astype(np.float32)
    return clean, noisy, blurred


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) @ np.array(LUMA)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_nothing_taken_is_the_input_bit_for_bit(depth: str, kind: str) -> None:
    first, second = page(depth, kind, (60, 50)).pixels, page(depth, kind, (60, 50), seed=9).pixels
    if depth == "float32":
        first[0, 0] = np.nan
        second[0, 0] = np.nan
    values = dtype_range(depth)
    for chosen in (ZERO, replace(ZERO, texture=1.0), Sliders(strength=0.0)):
        np.testing.assert_array_equal(adjusted(first, second, values, chosen), first)
    assert adjusted(first, second, values, Sliders()) is second


def test_colour_noise_goes_and_grain_stays(pair: tuple[np.ndarray, ...]) -> None:
    _, noisy, denoised = pair
    found = adjusted(noisy, denoised, BYTES, Sliders(luma=0))
    np.testing.assert_allclose(luma(found), luma(noisy), atol=1e-4)
    spread = [error(values, luma(values)[..., None]) for values in (noisy, found)]
    assert spread[1] < 1e-4 < spread[0]
    other = adjusted(noisy, denoised, BYTES, Sliders(chroma=0))
    np.testing.assert_allclose(luma(other), luma(denoised), atol=1e-4)
    np.testing.assert_allclose(other - luma(other)[..., None], noisy - luma(noisy)[..., None], atol=1e-4)


def test_texture_comes_back_and_noise_does_not(pair: tuple[np.ndarray, ...]) -> None:
    clean, noisy, denoised = pair
    unit = ValueRange(0, 1)
    found = adjusted(noisy, denoised, unit, Sliders(texture=1))
    flat, textured = np.s_[:, :90], np.s_[:, 110:]
    lost, left = (error(luma(image[textured]), luma(clean[textured])) for image in (denoised, found))
    assert left < 0.35 * lost
    assert error(luma(found[flat]), luma(clean[flat])) < 0.5 * error(luma(noisy[flat]), luma(clean[flat]))
    colour = found - luma(found)[..., None]
    assert error(colour, 0 * colour) < 0.01  # of which there is none in the clean image
    half = adjusted(noisy, denoised, unit, Sliders(texture=0.5))
    np.testing.assert_allclose(half, (found + denoised) / 2, atol=1e-5)


def test_bands_make_no_difference(pair: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    _, noisy, denoised = pair
    chosen = Sliders(luma=0.7, texture=0.8, protect_shadows=0.5, auto=True)
    curve = noise_curve(noisy, denoised, BYTES)
    monkeypatch.setattr(module, "BAND", 1000)
    whole = adjusted(noisy, denoised, BYTES, chosen, curve)
    monkeypatch.setattr(module, "BAND", 37)
    np.testing.assert_allclose(adjusted(noisy, denoised, BYTES, chosen, curve), whole, atol=1e-6)


def test_protection_follows_the_tone() -> None:
    noisy = np.repeat(np.array([[0.02, 0.5, 0.98]], np.float32), 40, 0)
    denoised = noisy + 0.01
    values = ValueRange(0, 1)
    for chosen, kept in ((Sliders(protect_shadows=1), 0), (Sliders(protect_highlights=1), 2)):
        change = (adjusted(noisy, denoised, values, chosen) - noisy)[0]
        expected = [0.01] * 3
        expected[kept] = 0
        np.testing.assert_allclose(change, expected, atol=1e-5)


def test_automatic_strength_is_whole_for_noise_and_less_where_structure_went(pair: tuple[np.ndarray, ...]) -> None:
    clean, noisy, denoised = pair
    unit = ValueRange(0, 1)
    assert noise_curve(noisy, clean, unit).strength > 0.95
    found = noise_curve(noisy, denoised, unit)
    assert found.strength < 0.5
    np.testing.assert_allclose(np.sqrt(found.energy[:, 0]), error(luma(noisy), luma(clean)), rtol=0.15)
    changed = adjusted(noisy, denoised, unit, Sliders(auto=True))
    np.testing.assert_allclose(changed, noisy + found.strength * (denoised - noisy), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (15, 15), (16, 16)])
def test_every_size(size: tuple[int, int]) -> None:
    first, second = noise("uint8", size), noise("uint8", size, 1)
    assert adjusted(first, second, BYTES, Sliders(texture=0.5, auto=True)).shape == size


def test_looks_are_data_and_options_go_on_top() -> None:
    assert {"clean", "natural", "film"} <= set(looks())
    given: dict[str, float | None] = dict.fromkeys(NAMES)
    assert Sliders.chosen(None, 1.0, given).neutral
    assert Sliders.chosen("film", 0.5, given | {"texture": 0.1}) == replace(looks()["film"], texture=0.1, strength=0.5)
    assert Sliders.chosen(None, "auto", given).auto
    with pytest.raises(OptionError, match="no look 'flim'"):
        Sliders.chosen("flim", 1.0, given)


def test_the_command_takes_them(med: Med, tmp_path: Path) -> None:  # noqa: F811
    for name, image in (("a.png", page("uint8", "RGBA", (70, 60))), ("b.tif", page("uint16", "L", (70, 60)))):
        write(DecodedImage([image], "png"), tmp_path / name)
        for words in (["--luma", "0", "--chroma", "0"], ["--look", "film", "--luma", "0", "--chroma", "0"]):
            assert med("denoise", tmp_path / name, *words, "-f").code == 0
            result = read(tmp_path / name.replace(".", ".denoised.")).pages[0]
            np.testing.assert_array_equal(result.pixels, image.pixels)
        ran = med("denoise", tmp_path / name, "--strength", "auto", "--texture", "0.5", "-f")
        assert "Strength 0." in ran.err or "Strength 1." in ran.err
    for words in (["--look", "x"], ["--luma", "2"], ["--texture", "0.5", "--upscale", "2"], ["--strength", "some"]):
        assert med("denoise", tmp_path / "a.png", *words).code == 2


def test_other_sliders_make_another_result(med: Med, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "x").mkdir()
    write(DecodedImage([page()], "png"), tmp_path / "x/a.png")
    words = ("denoise", tmp_path / "x", "-o", tmp_path / "y")
    assert med(*words).code == 0
    assert "up to date" in med(*words).err
    assert "up to date" not in med(*words, "--luma", "0.5").err
