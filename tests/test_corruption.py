"""Claims about what a model can do beside taking noise away: pixels that are missing, images made larger."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sample_images import by_pillow, coded, exif_block, metadata, noise, page

import medcli
from medcli.batch.denoise.inpaint import Inpaint, inpainted, mask_of_each_job
from medcli.batch.denoise.plan import STREAM, Job
from medcli.batch.denoise.upscale import Upscale, upscaled
from medcli.engine.page import Progress
from medcli.errors import InputError, ModelError, OutputError
from medcli.images import DecodedImage, Metadata, Page, TiffLayout, read
from medcli.images.exif import times
from medcli.images.values import ValueRange
from medcli.noise.bundled import bundled
from medcli.noise.rescale import Rescale
from medcli.zoo.capabilities import Capabilities, capabilities_of
from medcli.zoo.weights import Card

Pixels = NDArray[Any]
JOB = Job(Path("a.png"), Path("b.png"))
EVERY_DEPTH = pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
EVERY_KIND = pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA"])


class Engine:
    """Answers with 7 everywhere, and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Pixels] = []

    def __call__(self, image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
        self.seen.append(image.copy())
        return np.full_like(image, 7)


def same(image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
    return image.copy()


def card(*noises: str) -> Card:
    return Card(id="tiny", architecture="unet", config={}, noises=list(noises))


def capabilities(*noises: str) -> Capabilities:
    return capabilities_of(card(*noises))


class TestCapabilities:
    def test_of_the_pool_of_corruptions(self) -> None:
        found = capabilities(*bundled()["corruption"])
        assert found.inpaints
        assert found.upscales == dict.fromkeys([2, 3, 4], "bicubic")
        assert str(found) == "fills in missing pixels (--mask) and enlarges 2, 3 or 4 times (--upscale)"

    @pytest.mark.parametrize(
        ("noises", "inpaints", "upscales"),
        [
            ([], False, {}),
            (["gaussian:0-55", "noise"], False, {}),
            (["corruption"], True, dict.fromkeys([2, 3, 4], "bicubic")),
            (["rescale:4,filter=lanczos", "rescale:4,filter=hamming"], False, {4: "lanczos"}),
            (["rescale:3+gaussian:5-25+clip"], False, {3: "bicubic"}),
            (["gaussian:5+drop:0.5+clip+round"], True, {}),
            (["drop:0.5+gaussian:5"], False, {}),
            (["clip"], False, {}),
            (["nowhere.yaml", "drop:0.5"], True, {}),
        ],
    )
    def test_follow_from_what_was_seen(self, noises: list[str], inpaints: bool, upscales: dict[int, str]) -> None:
        found = capabilities(*noises)
        assert (found.inpaints, dict(found.upscales)) == (inpaints, upscales)

    def test_errors_say_what_the_model_can(self) -> None:
        capabilities("drop:0.5").require_inpainting()
        assert capabilities("rescale:2,filter=hamming").upscale_filter(2) == "hamming"
        with pytest.raises(ModelError, match="'tiny' was not trained to fill in"):
            capabilities("gaussian:25").require_inpainting()
        with pytest.raises(ModelError, match="'tiny' was not trained to enlarge images"):
            capabilities().upscale_filter(2)
        with pytest.raises(ModelError, match=r"enlarge 5 times(.|\n)*enlarges 2 or 3 times"):
            capabilities("rescale:3", "rescale:2").upscale_filter(5)
        with pytest.raises(ModelError, match=r"has an invalid noise(.|\n)*Did you mean 'drop'"):
            capabilities("dropp:0.5")


class TestFilled:
    @EVERY_DEPTH
    @EVERY_KIND
    def test_only_what_is_missing_changes_and_the_network_sees_it_black(self, depth: str, kind: str) -> None:
        before = page(depth, kind)
        if before.alpha is not None:
            before.alpha[:4] = 0  # nobody sees it: nothing is known there, and nothing changes
        missing = np.random.default_rng(5).random(before.pixels.shape[:2]) < 0.5
        engine = Engine()
        original = before.pixels.copy()
        after = inpainted(before, missing, engine)
        hidden = np.zeros_like(missing) if before.alpha is None else before.alpha == 0
        assert (after.pixels[missing & ~hidden] == 7).all()
        assert np.array_equal(after.pixels[~missing | hidden], original[~missing | hidden])
        assert after.pixels.dtype == depth
        assert after.alpha is before.alpha
        (seen,) = engine.seen
        assert not seen[missing | hidden].any()
        assert np.array_equal(seen[~missing & ~hidden], original[~missing & ~hidden])
        assert np.array_equal(before.pixels, original)

    @pytest.mark.parametrize(("low", "high", "shown"), [(0, 255, 1), (0, 10, 1), (100, 1120, 104)])
    def test_known_black_pixels_are_not_shown_as_missing(self, low: int, high: int, shown: int) -> None:
        pixels = np.full((13, 17), high, np.uint16)
        pixels[3:6, 3:6] = low
        missing = np.zeros((13, 17), bool)
        missing[4, 3] = True
        engine = Engine()
        after = inpainted(Page(pixels), missing, engine, values=ValueRange(low, high))
        (seen,) = engine.seen
        assert seen[4, 3] == low
        assert (seen[3:6, 4:6] == shown).all()
        assert np.array_equal(after.pixels[~missing], pixels[~missing])

    def test_nothing_missing_runs_no_network(self) -> None:
        engine, before = Engine(), page()
        assert inpainted(before, np.zeros(before.pixels.shape[:2], bool), engine) is before
        assert not engine.seen


@pytest.mark.parametrize("gray", [False, True])
def test_the_shipped_model_fills_better_than_navier_stokes(gray: bool) -> None:
    rows, columns = np.mgrid[0:96, 0:96] / 8
    waves = np.stack([np.sin(rows * (1 + c / 4)) + (columns + c > rows) for c in range(3)], -1) * 60 + 90
    clean = waves[..., 0] if gray else waves
    missing = np.random.default_rng(3).random((96, 96)) < 0.3
    torn = np.where(missing if gray else missing[..., None], 0, clean).astype(np.uint8)
    denoiser = medcli.load("inpaint", device="cpu", precision="fp32")
    ours = np.asarray(inpainted(Page(torn), missing, denoiser).pixels)
    theirs = cv2.inpaint(torn, missing.astype(np.uint8), 3, cv2.INPAINT_NS)
    ours_error, their_error = (float(np.square(each - clean.round()).mean()) for each in (ours.astype(float), theirs))
    assert ours_error < 0.9 * their_error


class TestMasks:
    def fill(self, tmp_path: Path, mask: DecodedImage | bytes, image: DecodedImage | None = None) -> NDArray[np.bool_]:
        """Where the first page was filled."""
        (tmp_path / "mask.png").write_bytes(mask if isinstance(mask, bytes) else coded(mask))
        image = image or DecodedImage([Page(np.full((13, 17), 100, np.uint8))], "png")
        Inpaint({JOB: tmp_path / "mask.png"})(JOB, image, Engine(), None)
        return np.asarray(image.pages[0].pixels == 7)

    @EVERY_DEPTH
    def test_white_is_missing_in_every_depth(self, depth: str, tmp_path: Path) -> None:
        values = noise(depth, (13, 17))
        white = values > (0.5 if depth == "float32" else np.iinfo(depth).max / 2)
        assert np.array_equal(self.fill(tmp_path, DecodedImage([Page(values)], "tiff")), white)

    def test_red_is_not_white_and_clear_white_is_none(self, tmp_path: Path) -> None:
        colours = np.zeros((13, 17, 3), np.uint8)
        colours[:4], colours[4:8], colours[8:10] = (255, 0, 0), 255, 255
        alpha = np.full((13, 17), 255, np.uint8)
        alpha[8:] = 0
        found = self.fill(tmp_path, DecodedImage([Page(colours, alpha)], "png"))
        assert found[4:8].all()
        assert found.sum() == 4 * 17

    def test_one_page_serves_all_and_several_each_its_own(self, tmp_path: Path) -> None:
        masks = [Page(np.zeros((4, 4), np.uint8)) for _ in range(2)]
        masks[0].pixels[0], masks[1].pixels[1] = 255, 255
        for pages, rows in ((masks, (0, 1)), (masks[:1], (0, 0))):
            image = DecodedImage([Page(np.full((4, 4), 100, np.uint8)) for _ in range(2)], "tiff")
            self.fill(tmp_path, DecodedImage(pages, "tiff"), image)
            assert [np.flatnonzero((each.pixels == 7).all(1)).tolist() for each in image.pages] == [[r] for r in rows]
        assert image.notes == ["8 of 32 pixels were missing."]

    @pytest.mark.parametrize(
        ("mask", "words"),
        [
            (DecodedImage([Page(np.zeros((17, 13), np.uint8))], "png"), "is 13x17 pixels, but its image 17x13"),
            (DecodedImage([Page(np.zeros((13, 17), np.uint8))] * 3, "tiff"), "has 3 pages, but its image 1"),
            (DecodedImage([Page(np.full((13, 17), 255, np.uint8))], "png"), "white is what is missing"),
            (
                DecodedImage([Page(np.zeros((13, 17), np.uint8))], "png", Metadata(exif=exif_block(orientation=6))),
                "another orientation tag",
            ),
            (b"no image at all", "not an image"),
        ],
    )
    def test_what_is_no_mask_of_this_image_is_an_error(
        self, mask: DecodedImage | bytes, words: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=words):
            self.fill(tmp_path, mask)

    def test_black_is_missing_where_all_channels_are(self) -> None:
        pixels = noise("uint8", (13, 17, 3)) | 1
        pixels[3], pixels[5, :, :2] = 0, 0
        image = DecodedImage([Page(pixels)], "png")
        Inpaint({})(JOB, image, Engine(), None)
        assert np.flatnonzero((image.pages[0].pixels == 7).all((1, 2))).tolist() == [3]

    def test_masks_are_found_by_name(self, tmp_path: Path) -> None:
        for name in ("in/a.jpg", "in/sub/b.png", "masks/a.png", "masks/sub/b.webp", "c.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        inputs = [tmp_path / "in"]
        jobs = [Job(tmp_path / "in" / name, tmp_path / "out" / name) for name in ("a.jpg", "sub/b.png")]
        assert list(mask_of_each_job(tmp_path / "masks", jobs, inputs).values()) == [
            tmp_path / "masks/a.png",
            tmp_path / "masks/sub/b.webp",
        ]
        assert set(mask_of_each_job(tmp_path / "c.png", jobs, inputs).values()) == {tmp_path / "c.png"}
        (tmp_path / "masks/a.png").unlink()
        with pytest.raises(InputError, match=r"no mask in .*masks for .*a\.jpg\."):
            mask_of_each_job(tmp_path / "masks", jobs, inputs)
        with pytest.raises(InputError, match=r"no mask .*nowhere"):
            mask_of_each_job(tmp_path / "nowhere", jobs, inputs)
        with pytest.raises(OutputError, match="overwrite a mask"):
            mask_of_each_job(tmp_path / "c.png", [replace(jobs[0], target=tmp_path / "c.png")], inputs)


class TestEnlarged:
    @pytest.mark.parametrize("filter", ["bicubic", "lanczos", "bilinear", "hamming"])
    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_is_what_training_does_whatever_the_bands(self, filter: str, factor: int) -> None:
        """An image that was small once: scaled down and up again, it is the enlarged small one."""
        clean = torch.rand(3, 100 * factor, 11 * factor, generator=torch.Generator().manual_seed(0))
        expected = Rescale(factor, filter)(clean, torch.Generator()).permute(1, 2, 0).numpy()
        planes = [Image.fromarray(plane.numpy()).resize((11, 100), Image.Resampling[filter.upper()]) for plane in clean]
        small = np.stack([np.asarray(plane) for plane in planes], -1)
        np.testing.assert_allclose(upscaled(small, factor, filter), expected, atol=1e-5)

    @EVERY_DEPTH
    def test_integers_end_at_black_and_white_and_floats_do_not(self, depth: str) -> None:
        white = 1 if depth == "float32" else np.iinfo(depth).max
        edge = np.zeros((5, 8), depth)
        edge[:, 4:] = white
        large = upscaled(edge, 2, "bicubic")
        assert (large.shape, large.dtype) == ((10, 16), edge.dtype)
        assert (large[:, 0] == 0).all()
        assert (large[:, -1] == white).all()
        assert (large.max() > white) == (depth == "float32")

    @EVERY_KIND
    def test_every_page_grows_with_its_alpha(self, kind: str) -> None:
        image = DecodedImage([page("uint16", kind), page("uint16", kind, (4, 6))], "tiff")
        Upscale(3, "bicubic")(JOB, image, same, None)
        for each, size in zip(image.pages, [(39, 51), (12, 18)], strict=True):
            assert each.pixels.shape[:2] == size
            assert (each.alpha is None) == (not kind.endswith("A"))
            assert each.alpha is None or (each.alpha.shape, each.alpha.dtype) == (size, np.uint16)

    def test_hidden_colour_does_not_leak(self) -> None:
        results = []
        for hidden in (0, 255):
            pixels, alpha = np.full((24, 24, 3), 128, np.uint8), np.full((24, 24), 255, np.uint8)
            pixels[8:16, 8:16], alpha[8:16, 8:16] = hidden, 0
            image = DecodedImage([Page(pixels, alpha)], "png")
            Upscale(2, "lanczos")(JOB, image, same, None)
            results.append(image.pages[0].pixels)
        assert np.array_equal(*results)

    @pytest.mark.parametrize("kind", ["L", "RGB"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_does_not_spread(self, kind: str, value: float) -> None:
        before = np.full((24, 24) if kind == "L" else (24, 24, 3), 0.5, np.float32)
        before[9:12, 9:12] = value
        image = DecodedImage([Page(before)], "tiff")
        Upscale(3, "bicubic")(JOB, image, same, None)
        np.testing.assert_array_equal(image.pages[0].pixels, before.repeat(3, axis=0).repeat(3, axis=1))

    def test_strength_reaches_the_engine(self) -> None:
        requested: list[float] = []

        def engine(image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
            requested.append(strength)
            return image

        Upscale(2, "bicubic", 0.25)(JOB, DecodedImage([page()], "png"), engine, None)
        assert requested == [0.25]

    def test_what_would_be_too_large_is_refused_before_it_is_made(self) -> None:
        image, engine = DecodedImage([page("uint8", "L", (100, 100))], "png"), Engine()
        with pytest.raises(InputError, match=r"Enlarged 4 times(.|\n)*--max-pixels"):
            Upscale(4, "bicubic", max_pixels=159_999)(JOB, image, engine, None)
        assert not engine.seen
        strip = DecodedImage([page("uint8", "L", (2, 8192))], "png")
        with pytest.raises(OutputError, match="WEBP holds at most 16383 pixels a side; this image has 16384x4"):
            Upscale(2, "bicubic")(replace(JOB, target=Path("b.webp")), strip, engine, None)
        assert not engine.seen

    def test_what_format_is_requested_says_how_large_it_may_be(self) -> None:
        strip, stream = DecodedImage([page("uint8", "L", (2, 8192))], "webp"), replace(JOB, target=STREAM)
        with pytest.raises(OutputError, match="WEBP holds at most"):
            Upscale(2, "bicubic")(stream, strip, same, None)
        Upscale(2, "bicubic", format="png")(stream, strip, same, None)
        assert strip.size == (16384, 4)


class TestWhatTheFileCarries:
    def enlarged(self, image: DecodedImage, format: str) -> DecodedImage:
        again = read(coded(image, format=format))
        Upscale(2, "bicubic")(JOB, again, same, None)
        return read(coded(again))

    @pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "bmp"])
    def test_it_prints_at_its_old_size(self, format: str) -> None:
        after = self.enlarged(DecodedImage([page()], "png", metadata("dpi")), format)
        assert after.metadata.dpi == pytest.approx((600, 300), rel=1e-3)

    @pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
    def test_exif_says_the_true_size_and_keeps_the_rest(self, format: str) -> None:
        after = self.enlarged(DecodedImage([page()], "png", metadata("icc exif xmp")), format)
        with opened(after) as image:
            found = image.getexif()
        camera = found.get_ifd(0x8769)
        assert (camera[0xA002], camera[0xA003], found[271], found[274]) == (34, 26, "Maker", 6)
        assert after.metadata.icc == metadata("icc").icc
        assert after.metadata.xmp == metadata("xmp").xmp

    def test_resolution_of_exif_grows_once_where_both_sides_share_it(self) -> None:
        held = Image.Exif()
        held[282] = held[283] = 72.0
        held[296] = 2
        source = read(by_pillow(Image.new("RGB", (16, 8)), "jpeg", exif=held))
        Upscale(4, "bicubic")(JOB, source, same, None)
        with opened(source) as image:
            assert (image.getexif()[282], image.getexif()[283]) == (288, 288)

    def test_tags_of_the_old_pixels_go(self) -> None:
        tags = ((270, 2, 14, b'{"shape": [8]}'), (305, 2, 4, b"med\0"), (33550, 12, 1, b"12345678"))
        layout = TiffLayout(tags, resolution=((300, 1), (2**31, 7), 2))
        image = DecodedImage([page()], "tiff", Metadata(tiff=(layout,)))
        Upscale(2, "bicubic")(JOB, image, same, None)
        (after,) = image.metadata.tiff
        assert [tag[0] for tag in after.tags] == [305]
        assert after.resolution == ((600, 1), (2**31, 3), 2)
        assert image.notes == ["TIFF tags that state places in the old pixels were dropped."]

    def test_a_plain_description_stays(self) -> None:
        image = DecodedImage([page()], "tiff", Metadata(tiff=(TiffLayout(((270, 2, 6, b"a cat\0"),)),)))
        Upscale(2, "bicubic")(JOB, image, same, None)
        assert image.metadata.tiff[0].tags == ((270, 2, 6, b"a cat\0"),)
        assert not image.notes

    @pytest.mark.parametrize(
        ("fraction", "result"),
        [((300, 1), (900, 1)), ((2**32 - 1, 9), (2**32 - 1, 3)), ((2**32 - 1, 1), (2**32 - 1, 1))],
    )
    def test_fractions_stay_within_32_bits(self, fraction: tuple[int, int], result: tuple[int, int]) -> None:
        assert times(fraction, 3) == result


def opened(image: DecodedImage) -> Image.Image:
    """The image as Pillow sees its file."""
    return Image.open(io.BytesIO(coded(image)))
