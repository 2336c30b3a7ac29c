"""`med compare`: which places are shown, what the page and the sheet say of them."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import base64
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from sample_images import exif_block
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.batch.compare import areas
from medcli.batch.compare.areas import Area, parse_area, telling_areas
from medcli.batch.compare.figures import noise_left
from medcli.batch.compare.run import TURNS
from medcli.errors import InputError
from medcli.images.comparison import TEMPLATE, Region, Version, write_page
from medcli.images.exif import orientation

IMAGE = re.compile(r'<img class="(\w+)" alt="([^"]*)" [^>]*src="data:image/(\w+);base64,([^"]*)"')
CODE = re.compile(r"<code[^>]*>([^<]*)</code>")


def pictures(page: Path) -> dict[str, np.ndarray]:
    """The images of a page by their descriptions."""
    found = IMAGE.findall(page.read_text("utf-8"))
    return {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for _, alt, _, data in found}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).normal(120, 12, (60, 80, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_page_shows_what_the_commands_in_it_write(med: Med, tiny: Path, photo: Path) -> None:
    page = photo.with_name("page.html")
    assert med("compare", photo, "-m", tiny, "--strengths", "0.5,1", "--precision", "fp32", "-o", page).code == 0
    shown = pictures(page)
    assert list(shown) == [f"photo.png: {name}" for name in ("noisy", f"{tiny}, strength 0.5", str(tiny))]
    np.testing.assert_array_equal(shown["photo.png: noisy"], np.asarray(Image.open(photo)))
    commands = CODE.findall(page.read_text("utf-8"))
    assert len(commands) == 2
    for command, image in zip(commands, list(shown.values())[1:], strict=True):
        result = photo.with_name("result.png")
        words = shlex.split(command)
        assert words[:2] == ["med", "denoise"]
        assert med(*words[1:], "-o", result, "-f").code == 0
        written = np.asarray(Image.open(result)).astype(int)
        assert abs(written - image).max() <= 1  # a blend of rounded results


def test_a_place_is_denoised_with_its_surroundings(med: Med, tiny: Path, photo: Path) -> None:
    page, result = photo.with_name("page.html"), photo.with_name("result.png")
    med("compare", photo, "-m", tiny, "--crop", "30,20,40,32", "--precision", "fp32", "-o", page)
    med("denoise", photo, "-m", tiny, "--precision", "fp32", "-o", result)
    part = pictures(page)[f"photo.png, crop at 30,20: {tiny}"]
    assert part.shape == (32, 40, 3)
    np.testing.assert_array_equal(part, np.asarray(Image.open(result))[20:52, 30:70])


def test_with_the_clean_image_errors_are_measured_and_drawn(med: Med, tiny: Path, photo: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    Image.new("RGB", (80, 60), (120, 120, 120)).save(clean / "photo.png")
    page = tmp_path / "page.html"
    assert med("compare", photo, "-m", tiny, "--clean", clean, "-o", page).code == 0
    shown = pictures(page)
    noisy = np.asarray(Image.open(photo)).astype(float)
    expected = (127.5 + 4 * (noisy - 120)).clip(0, 255)
    assert abs(shown["photo.png: noisy, error map"] - expected).max() <= 1
    assert (shown["photo.png: clean"] == 120).all()
    psnr = -10 * np.log10((((noisy - 120) / 255) ** 2).mean())
    assert f">{psnr:.2f}</td>" in page.read_text("utf-8")


def test_pictures_are_upright_and_16_bit_gray_is_shown_in_its_range(med: Med, tiny: Path, tmp_path: Path) -> None:
    levels = np.zeros((20, 40, 3), np.uint8)
    levels[:10] = 255  # the upper half, which orientation 6 turns to the right
    Image.fromarray(levels).save(tmp_path / "turned.jpg", quality=100, exif=b"Exif\0\0" + exif_block(orientation=6))
    counts = np.random.default_rng(1).integers(100, 300, (40, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "counts.tif", counts)
    page = tmp_path / "page.html"
    assert med("compare", tmp_path / "turned.jpg", tmp_path / "counts.tif", "-m", tiny, "-o", page).code == 0
    shown = pictures(page)
    turned = shown["turned.jpg: noisy"]
    assert turned.shape == (40, 20, 3)
    assert turned[:, 12:].mean() > 250 > 5 > turned[:, :8].mean()
    gray = shown["counts.tif: noisy"]
    assert gray.min() < 5 < 250 < gray.max()


@pytest.mark.parametrize("number", sorted(TURNS))
def test_orientations_are_those_of_pillow(number: int) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    image = Image.fromarray(pixels)
    held = Image.Exif()
    held[274] = number
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=held)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    assert orientation(held.tobytes().removeprefix(b"Exif\0\0")) == number
    np.testing.assert_array_equal(TURNS[number](pixels), expected)


def test_a_sheet_has_a_column_for_each_version(med: Med, tiny: Path, photo: Path) -> None:
    sheet = photo.with_name("sheet.png")
    assert med("compare", photo, "-m", tiny, "-o", sheet).code == 0
    image = np.asarray(Image.open(sheet)).astype(int)
    noisy = np.asarray(Image.open(photo))
    np.testing.assert_array_equal(image[24:84, 4:84], noisy)
    assert (image[86:108, 4:84] < 100).any()  # its line of text


def test_places_are_where_they_tell_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "WHOLE", 0)
    rng = np.random.default_rng(5)
    gray = np.full((512, 768), 0.5, np.float32)
    gray[:, 512:] = 0.06  # dark at the right
    gray[256:, :256] = np.kron(rng.random((16, 16)), np.ones((16, 16)))  # detail below at the left
    gray += rng.normal(0, 0.02, gray.shape).astype(np.float32)
    found = {area.name: area for area in telling_areas(gray, 128)}
    assert found.keys() == {"detail", "flat", "dark"}
    assert (found["detail"].left < 256, found["detail"].top > 160) == (True, True)
    assert found["dark"].left >= 504
    assert gray[found["flat"].top :, found["flat"].left :][:128, :128].std() < 0.03
    assert 0.4 < found["flat"].cut(gray).mean() < 0.6
    assert telling_areas(gray, 128) == list(found.values())


def test_small_pictures_are_shown_as_a_whole() -> None:
    assert telling_areas(np.zeros((600, 800), np.float32)) == [Area("", 0, 0, 800, 600)]


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0,0,81,10", "-1,0,5,5", "0,0,0,5"])
def test_areas_outside_the_picture_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_area(text, 60, 80)


def test_noise_is_measured_where_the_noisy_image_is_flat() -> None:
    rng = np.random.default_rng(2)
    clean = np.full((256, 256), 0.5, np.float32)
    clean[:, 128:] += 0.2 * (np.indices((256, 128)).sum(0) % 2)
    noise = rng.normal(0, 10 / 255, clean.shape).astype(np.float32)
    assert noise_left(clean + noise, clean + noise) == pytest.approx(10, rel=0.15)
    assert noise_left(clean + noise, clean + noise / 2) == pytest.approx(5, rel=0.15)
    assert noise_left(clean + noise, clean) == pytest.approx(0, abs=0.01)
    spots = np.zeros((256, 256), np.float32)
    spots[96:160, 96:160] += 0.3 * (np.indices((64, 64)).sum(0) % 2)
    dark = (spots + noise).clip(-0.08, None)  # some of the noise is cut off, everywhere
    assert noise_left(dark, dark) == pytest.approx(10, rel=0.2)
    assert noise_left(np.full((64, 64), 0.5, np.float32), np.full((64, 64), 0.5, np.float32)) is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "page.jpg"], 2, "neither a page"),
        (["--crop", "70,0,20,20"], 1, "not inside the picture"),
        (["--clean", "small.png"], 1, "must match pixel by pixel"),
        (["--strengths", "0.5,2"], 2, "not between 0"),
        (["-m", "ludvae-camera"], 1, "generates noise"),
        (["-m", "phot"], 1, "Did you mean"),
    ],
)
def test_errors(
    med: Med, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(photo.parent)
    Image.new("RGB", (8, 8)).save("small.png")
    result = med("compare", "photo.png", *arguments)
    assert (result.code, words in result.err) == (code, True), result.err
    assert not list(Path().glob("*.html"))


def test_a_page_is_overwritten_only_with_force(med: Med, tiny: Path, photo: Path) -> None:
    assert med("compare", photo, "-m", tiny).code == 0
    page = photo.with_name("photo.compare.html")
    assert page.exists()
    assert "exists already" in med("compare", photo, "-m", tiny).err
    assert med("compare", photo, "-m", tiny, "--force").code == 0


def test_names_and_markers_in_the_data_do_not_become_markup(tmp_path: Path) -> None:
    name = '<script>alert(1)</script>" {{scenes}}'
    levels = np.zeros((4, 4, 3), np.uint8)
    write_page(tmp_path / "page.html", name, [Region(name, [Version(name, levels, {"a": name}, name)])], name)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<script>") == 1
    assert text.count('<section class="scene"') == 1
    assert text.count("&lt;script&gt;") >= 6


def test_the_page_needs_no_network_and_is_small() -> None:
    text = TEMPLATE.read_text("utf-8")
    assert len(text) < 30_000
    assert not re.search(r"https?://|@import|url\(", text)
