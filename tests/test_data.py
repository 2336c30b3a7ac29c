"""Claims about training data: what a key fixes, what a cache keeps, which images belong together."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from medcli.batch.executors.inline import Inline
from medcli.batch.synth.run import NotatedNoise, SynthOptions, plan, synthesise
from medcli.data.cache import PixelCache, Reading, open_cache
from medcli.data.crops import Crop, CropSampler, RecordedImages, SyntheticPairs, stacked
from medcli.data.folders import images_in, matched
from medcli.data.pairs import MANIFEST, recorded_pairs
from medcli.errors import InputError, OutputError, RecipeError, TrainingError
from medcli.images.values import ValueRange
from medcli.methods.base import Needs
from medcli.noise.base import Noise
from medcli.noise.chain import chained
from medcli.noise.gaussian import Gaussian
from medcli.noise.notation import parse
from medcli.train.auto_options import with_auto_options
from medcli.train.recipe import Recipe
from medcli.train.sources import Folders, Sources, open_sources


def cache_of(folder: Path, tmp_path: Path, smallest: int = 16) -> PixelCache:
    return open_cache([folder / name for name in images_in(folder)], tmp_path / "cache", smallest=smallest)


def made_of(folder: Path, tmp_path: Path, **changes: object) -> SyntheticPairs:
    made = SyntheticPairs(cache_of(folder, tmp_path), Gaussian(25, 25), CropSampler(16, 3, 0.5), seed=3)
    return replace(made, **changes)


class TestMadeNoisy:
    def test_a_sample_depends_on_its_key_alone(self, image_folder: Path, tmp_path: Path) -> None:
        made = made_of(image_folder, tmp_path)
        direct = made.sample(7, 1)
        stacked(made, 3, range(2))
        (noisy,), clean, keys = stacked(made, 7, [0, 1])
        assert torch.equal(direct.views[0], noisy[1])
        assert torch.equal(direct.clean, clean[1])
        assert direct.key == keys[1]
        for other in (made.sample(8, 1), made.sample(7, 2), made_of(image_folder, tmp_path, seed=4).sample(7, 1)):
            assert not torch.equal(direct.clean, other.clean)
            assert direct.key != other.key

    def test_clean_stays_in_range_and_noise_has_its_strength(self, image_folder: Path, tmp_path: Path) -> None:
        (noisy,), clean, _ = stacked(made_of(image_folder, tmp_path), 0, range(40))
        assert clean.min() >= 0
        assert clean.max() <= 1
        assert ((noisy - clean) * 255).std().item() == pytest.approx(25, rel=0.05)

    def test_views_share_the_scene_and_only_alike_ones_the_level(self, image_folder: Path, tmp_path: Path) -> None:
        def levels(*, alike: bool) -> torch.Tensor:
            made = made_of(image_folder, tmp_path, noise=Gaussian(1, 60), views=2, alike=alike)
            noisy, clean, _ = stacked(made, 0, range(60))
            first, second = (view - clean for view in noisy)
            assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05
            return torch.stack([noise.std((1, 2, 3)) * 255 for noise in (first, second)])

        same, different = levels(alike=True), levels(alike=False)
        assert (same[0] / same[1]).log().abs().max() < 0.25
        assert (different[0] - different[1]).abs().mean() > 8

    def test_other_scenes(self, image_folder: Path, tmp_path: Path) -> None:
        made = made_of(image_folder, tmp_path, noise=Gaussian(0, 0), clean="unpaired")
        noisy, clean, _ = stacked(made, 0, range(20))
        assert (noisy[0] - clean).abs().mean((1, 2, 3)).min() > 0.001
        assert stacked(replace(made, clean="none"), 0, [0])[1] is None


class TestFrames:
    def test_depth_and_colour(self) -> None:
        deep = np.full((20, 20, 1), 65535, np.uint16)
        patch = Crop(2, 3, 8, 8, 0).cut(deep, 3)
        assert patch.shape == (3, 8, 8)
        assert (patch == 1).all()
        colours = np.stack([np.full((20, 20), level, np.uint8) for level in (0, 51, 102)], -1)
        assert Crop(0, 0, 8, 8, 0).cut(colours, 1).mean().item() == pytest.approx(0.2)
        assert Crop(0, 0, 5, 8, 0).cut(deep, 1).shape == (1, 8, 8)  # enlarged
        gaps = np.full((8, 8, 1), np.nan, np.float32)
        assert (Crop(0, 0, 8, 8, 0).cut(gaps, 1) == 0).all()

    def test_every_turn_is_another_one(self) -> None:
        image = np.arange(64, dtype=np.float32).reshape(8, 8, 1)
        turned = {tuple(Crop(0, 0, 8, 8, turn).cut(image, 1).flatten().tolist()) for turn in range(8)}
        assert len(turned) == 8


class TestCache:
    def test_follows_the_folder(self, image_folder: Path, tmp_path: Path) -> None:
        first = cache_of(image_folder, tmp_path)
        (image_folder / "0.png").unlink()
        (image_folder / "broken.png").write_bytes(b"not an image")
        second = cache_of(image_folder, tmp_path)
        assert (len(first), len(second)) == (5, 4)
        assert "broken.png" in second.skipped[0]
        assert (first[1] == second[0]).all()

    def test_is_read_not_made_again(self, image_folder: Path, tmp_path: Path) -> None:
        cache_of(image_folder, tmp_path)
        stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
        cache_of(image_folder, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps

    def test_keeps_depth_gray_and_pages(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep"
        folder.mkdir()
        stack = (np.arange(2 * 20 * 30).reshape(2, 20, 30) * 54).astype(np.uint16)
        tifffile.imwrite(folder / "stack.tif", stack)
        floats = np.linspace(-0.4, 1.4, 600, dtype=np.float32).reshape(20, 30)
        tifffile.imwrite(folder / "float.tif", floats)
        cache = cache_of(folder, tmp_path)
        assert [Path(name).name for name in cache.names] == ["float.tif", "stack.tif#1", "stack.tif#2"]
        assert cache.gray
        assert (cache[0][..., 0] == floats).all()
        assert (cache[2][..., 0] == stack[1]).all()

    def test_reads_counts_in_their_range_and_images_of_one_scene_in_one(self, tmp_path: Path) -> None:
        ramp = np.linspace(100, 300, 600).reshape(20, 30)
        (tmp_path / "low").mkdir()
        paths = [tmp_path / "low" / "a.tif", tmp_path / "low" / "b.tif"]
        first, second = ramp.astype(np.uint16), (ramp * 2).astype(np.float32)
        first[5:9, 5:9] = 9999  # no data
        for path, values in zip(paths, (first, second), strict=True):
            tifffile.imwrite(path, values, extratags=[(42113, 2, 0, "9999", True)])
        read = partial(open_cache, paths, tmp_path / "cache", smallest=16)
        apart, given, joint = read(), read(reading=Reading(ValueRange(0, 600))), read(scenes=[paths, paths])
        for cache, ends in ((apart, (0, 1)), (given, (1 / 6, 1 / 2)), (joint, (0, 0.4))):
            assert cache[0].dtype == np.float32
            assert (cache[0].min(), cache[0].max()) == pytest.approx(ends, abs=0.02)
        assert (joint[1].min(), joint[1].max()) == pytest.approx((0.2, 1), abs=0.01)
        assert apart[1].min() == pytest.approx(0, abs=0.01)

    def test_reaches_other_processes_as_a_file_name(self, image_folder: Path, tmp_path: Path) -> None:
        cache = cache_of(image_folder, tmp_path)
        parcel = pickle.dumps(cache)
        assert len(parcel) < 2000 < cache[0].nbytes
        assert (pickle.loads(parcel)[3] == cache[3]).all()

    def test_may_be_released_at_any_time(self, image_folder: Path, tmp_path: Path) -> None:
        cache = cache_of(image_folder, tmp_path)
        before = cache[1].copy()
        view = cache[1]
        cache.release()
        assert (view == before).all()

    def test_small_images_are_named(self, image_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="smaller than the patches of 50 pixels") as caught:
            cache_of(image_folder, tmp_path, smallest=50)
        assert caught.value.hint == "Give --patch 48 or less."

    def test_no_room_is_refused(self, image_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file, not a folder")
        with pytest.raises(OutputError, match="cannot be kept"):
            cache_of(image_folder, tmp_path)


class TestFolders:
    def test_three_folders_match_by_name(self, tmp_path: Path) -> None:
        for folder, suffix in (("a", "png"), ("b", "jpg"), ("c", "png")):
            (tmp_path / folder / "sub").mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / folder / "sub" / f"one.{suffix}")
        assert matched(tmp_path / "a", tmp_path / "b", tmp_path / "c") == [
            (Path("sub/one.png"), Path("sub/one.jpg"), Path("sub/one.png"))
        ]
        Image.new("L", (8, 8)).save(tmp_path / "c" / "two.png")
        with pytest.raises(InputError, match="1 images have no counterpart"):
            matched(tmp_path / "a", tmp_path / "b", tmp_path / "c")

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no folder"):
            images_in(tmp_path / "nowhere")


@pytest.fixture
def pairs(image_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(noisy, clean): the noisy copies are the clean images with 40 added."""
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for path in image_folder.iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 2 + 40).save(noisy / path.name)
    return noisy, image_folder


def unpaired(pairs: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same folders; the clean images have other names, so that they are not taken for pairs."""
    noisy, clean = pairs
    for path in list(clean.glob("[!o]*")):
        path.rename(path.with_name(f"other-{path.name}"))
    return noisy, clean


BOTH = {"sigma_x": 10.0, "sigma_y": 5.0}
RECIPE = Recipe(id="x", title="", steps=1, patch=16, held_out=0.0)


def sources(tmp_path: Path, needs: Needs, recipe: Recipe = RECIPE, **folders: object) -> Sources:
    return open_sources(recipe, needs, Folders(tmp_path / "cache", **folders))


class TestSources:
    def test_pairs_stay_together(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        noisy, clean = pairs
        (noisy / "0.png").write_bytes(b"broken")  # its partner goes with it
        found = sources(tmp_path, Needs(clean="paired"), noisy=[noisy], clean=[clean])
        assert found.images == 4
        assert "0.png" in found.skipped[0]
        for index in range(10):
            (view,), partner, _ = found.train.sample(0, index)
            assert ((view - (partner / 2 + 40 / 255)).abs() <= 0.51 / 255).all()

    def test_unpaired_images_are_of_other_scenes(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        noisy, clean = unpaired(pairs)
        found = sources(tmp_path, Needs(clean="unpaired"), noisy=[noisy], clean=[clean])
        differences = [
            (s.views[0] - (s.clean / 2 + 40 / 255)).abs().max() for s in (found.train.sample(0, i) for i in range(8))
        ]
        assert min(differences) > 0.01

    def test_two_noisy_views(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        first, second = pairs
        found = sources(tmp_path, Needs(views=2), noisy=[first, second])
        one, two = found.train.sample(0, 0).views
        assert ((one - (two / 2 + 40 / 255)).abs() <= 0.51 / 255).all()

    def test_a_spare_view_can_be_missing(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        first, second = pairs
        needs = Needs(views=2, spare=1)
        for folders in ([first, second], [first, second, second]):
            assert len(sources(tmp_path, needs, noisy=folders).train.sample(0, 0).views) == len(folders)
        with pytest.raises(RecipeError, match="2 or 3 noisy images"):
            sources(tmp_path, needs, noisy=[first])
        made = sources(tmp_path, needs, replace(RECIPE, noises={"gaussian:5": 1}), data=[first])
        assert len(made.train.sample(0, 0).views) == 3

    def test_noisy_only_is_validated_without_clean(self, image_folder: Path, tmp_path: Path) -> None:
        recipe = replace(RECIPE, held_out=0.4)
        found = sources(tmp_path, Needs(), recipe, data=[image_folder])
        assert isinstance(found.train, RecordedImages)
        assert found.train.sample(0, 0).clean is None
        assert not found.validation.by_psnr
        assert (found.images, found.held_out) == (3, 2)

    def test_held_out_images_are_never_trained_on(self, image_folder: Path, tmp_path: Path) -> None:
        recipe = replace(RECIPE, held_out=0.4, noises={"gaussian:5": 1})
        found = sources(tmp_path, Needs(clean="paired"), recipe, data=[image_folder])
        trained, held = set(found.train.images.names), set(found.validation.source.images.names)
        assert (len(trained), len(held)) == (3, 2)
        assert not trained & held

    def test_pages_of_a_stack_are_not_dealt_out(self, tmp_path: Path) -> None:
        folder = tmp_path / "stacks"
        folder.mkdir()
        for number in range(10):
            pages = np.random.default_rng(number).integers(0, 255, (5, 20, 20), dtype=np.uint8)
            tifffile.imwrite(folder / f"{number}.tif", pages)
        recipe = replace(RECIPE, held_out=0.2, noises={"gaussian:5": 1})
        found = sources(tmp_path, Needs(clean="paired"), recipe, data=[folder])
        trained, held = (
            {name.rpartition("#")[0] for name in source.images.names}
            for source in (found.train, found.validation.source)
        )
        assert (len(trained), len(held)) == (8, 2)
        assert found.images == 40

    def test_images_of_one_name_are_distinguished_by_their_folders(self, image_folder: Path, tmp_path: Path) -> None:
        for number in range(20):
            scene = tmp_path / "scenes" / f"{number:02d}"
            scene.mkdir(parents=True)
            shutil.copy(image_folder / f"{number % 5}.png", scene / "noisy.png")
        found = sources(tmp_path, Needs(), replace(RECIPE, held_out=0.05), data=[tmp_path / "scenes"])
        assert (found.images, found.held_out) == (19, 1)

    def test_the_only_image_is_trained_on(self, image_folder: Path, tmp_path: Path) -> None:
        recipe = replace(RECIPE, held_out=0.9, noises={"gaussian:5": 1})
        for number in range(1, 5):
            (image_folder / f"{number}.png").unlink()
        found = sources(tmp_path, Needs(clean="paired"), recipe, data=[image_folder])
        assert (found.images, found.held_out) == (1, 0)

    def test_unpaired_images_may_validate(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        noisy, clean = unpaired(pairs)
        validation_folder = tmp_path / "validation"
        shutil.copytree(noisy, validation_folder / "noisy")
        (validation_folder / "clean").mkdir()
        shutil.copy(clean / "other-0.png", validation_folder / "clean" / "another.png")
        found = sources(tmp_path, Needs(clean="unpaired"), noisy=[noisy], clean=[clean], val=validation_folder)
        assert found.validation is not None
        assert not found.validation.by_psnr
        assert found.held_out == 5

    def test_a_folder_may_validate(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        noisy, clean = pairs
        validation_folder = tmp_path / "validation"
        validation_folder.mkdir()
        (validation_folder / "noisy").symlink_to(noisy)
        (validation_folder / "clean").symlink_to(clean)
        found = sources(tmp_path, Needs(clean="paired"), noisy=[noisy], clean=[clean], val=validation_folder)
        assert found.validation.by_psnr
        with pytest.raises(RecipeError, match="cannot be used for validation"):
            sources(tmp_path, Needs(clean="paired"), noisy=[noisy], clean=[clean], val=noisy)

    @pytest.mark.parametrize(
        ("needs", "given", "message"),
        [
            (Needs(clean="paired"), "noisy", "needs clean images"),
            (Needs(views=3), "noisy", "needs 3 noisy images"),
            (Needs(clean="paired"), "", "needs clean images"),
            (Needs(), "", "nothing to train on"),
            (Needs(), "noisy clean", "'supervised' uses no clean images"),
            (Needs(views=2), "data clean", "'supervised' uses no clean images"),
        ],
    )
    def test_what_is_missing_is_named(
        self, pairs: tuple[Path, Path], tmp_path: Path, needs: Needs, given: str, message: str
    ) -> None:
        with pytest.raises(RecipeError, match=message):
            sources(tmp_path, needs, **{name: [pairs[0]] for name in given.split()})

    def test_pairs_of_two_sizes(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        noisy, clean = pairs
        Image.new("RGB", (30, 30)).save(noisy / "0.png")
        with pytest.raises(RecipeError, match="differ in size"):
            sources(tmp_path, Needs(clean="paired"), noisy=[noisy], clean=[clean])


@pytest.fixture
def copies(image_folder: Path, tmp_path: Path) -> Path:
    """Noisy copies of the clean images with their manifest, two draws of each."""
    return synthesised(image_folder, tmp_path / "copies", count=2)


def synthesised(clean: Path, noisy: Path, noise: Noise = Gaussian(5, 5), **options: object) -> Path:  # noqa: B008
    order = SynthOptions(clean, noisy, NotatedNoise(noise), **options)
    assert {made.status for made in synthesise(order, plan(clean, noisy, count=order.count), Inline())} == {"done"}
    return noisy


class TestRecordedPairs:
    """Copies that `med synth-pairs` has made, by their manifest."""

    NEEDS = Needs(clean="paired")

    def test_every_draw_is_a_pair_with_its_clean_image(self, copies: Path, tmp_path: Path) -> None:
        found = sources(tmp_path, self.NEEDS, pairs=[copies])
        assert isinstance(found.train, RecordedImages)
        assert found.images == 10
        assert found.train.clean is not None
        for noisy, clean in zip(found.train.noisy[0].names, found.train.clean.names, strict=True):
            assert Path(noisy).name == Path(clean).name
        for index in range(10):
            (view,), partner, _ = found.train.sample(0, index)
            assert partner is not None
            assert 255 * float((view - partner).std()) == pytest.approx(5, rel=0.3)

    @pytest.mark.parametrize(
        ("noise", "noises"),
        [
            ("gaussian:5+clip", ["gaussian:5+clip"]),
            ("mine.yaml", ["gaussian:1-5", "drop:0.5"]),
            ("nested.yaml", []),
            ("mine.yaml+gaussian:5", []),
        ],
    )
    def test_noises_are_reported_as_far_as_they_were_drawn(
        self, noise: str, noises: list[str], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("mine.yaml").write_text("{gaussian:1-5: 1, drop:0.5: 1, 'rescale:2': 0}")
        Path("nested.yaml").write_text("{noise: 1, gaussian+noise: 1}")
        copies = synthesised(image_folder, tmp_path / "copies", chained(*map(parse, noise.split("+"))))
        assert sources(tmp_path, self.NEEDS, pairs=[copies, copies]).noises == noises

    def test_a_learned_noise_has_no_notation(self, copies: Path, tmp_path: Path) -> None:
        manifest = copies / MANIFEST
        learned = "gaussian:clean-to-noisy,sigma=16-32,temperature=1 sha256:" + 64 * "0"
        manifest.write_text(manifest.read_text().replace('"fingerprint": "gaussian:5"', f'"fingerprint": "{learned}"'))
        assert sources(tmp_path, self.NEEDS, pairs=[copies]).noises == []

    def test_draws_of_one_clean_image_are_on_one_side(self, copies: Path, image_folder: Path, tmp_path: Path) -> None:
        more = synthesised(image_folder, tmp_path / "more", format="tiff")  # other names, the same scenes
        found = sources(tmp_path, self.NEEDS, replace(RECIPE, held_out=0.4), pairs=[copies, more])
        assert found.validation
        trained, held = (
            {Path(name).stem for name in side.clean.names} for side in (found.train, found.validation.source)
        )
        assert (len(trained), len(held)) == (3, 2)
        assert not trained & held
        assert (found.images, found.held_out) == (9, 6)

    def test_a_folder_of_pairs_may_validate(self, copies: Path, image_folder: Path, tmp_path: Path) -> None:
        validation_folder = synthesised(image_folder, tmp_path / "validation")
        found = sources(tmp_path, self.NEEDS, pairs=[copies], val=validation_folder)
        assert found.validation
        assert found.validation.by_psnr
        assert (found.images, found.held_out) == (10, 5)

    def test_both_folders_may_move_together_and_the_clean_one_alone(self, copies: Path, tmp_path: Path) -> None:
        both = tmp_path / "elsewhere"
        both.mkdir()
        for name in ("copies", "clean"):
            (tmp_path / name).rename(both / name)
        before = recorded_pairs(both / "copies")
        assert len(before) == 10
        moved = (both / "clean").rename(tmp_path / "moved")
        with pytest.raises(InputError, match=r"5 files of .* are gone"):
            recorded_pairs(both / "copies")
        assert [noisy for noisy, _ in recorded_pairs(both / "copies", moved)] == [noisy for noisy, _ in before]

    def test_copies_that_are_clean_are_the_clean_images(self, copies: Path, image_folder: Path) -> None:
        text = (copies / MANIFEST).read_text()
        (copies / MANIFEST).write_text(text.replace('"makes": "noisy"', '"makes": "clean"'))
        assert {noisy.parent for noisy, _ in recorded_pairs(copies)} == {image_folder}

    def test_what_does_not_match_is_refused(self, copies: Path, image_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="does not learn from pairs"):
            sources(tmp_path, Needs(clean="unpaired"), pairs=[copies])
        (image_folder / "2.png").write_bytes((image_folder / "1.png").read_bytes())
        with pytest.raises(InputError, match=r"1 files of .* were changed since .*2\.png"):
            recorded_pairs(copies)
        (copies / "0001" / "3.png").unlink()
        with pytest.raises(InputError, match=r"1 files of .* are gone: .*0001/3\.png"):
            recorded_pairs(copies)
        for text, words in (("", "names no pair"), ("[1]\n", "not a manifest of noisy images")):
            (copies / MANIFEST).write_text(text)
            with pytest.raises(InputError, match=words):
                recorded_pairs(copies)
        (copies / MANIFEST).unlink()
        with pytest.raises(InputError, match=r"holds no pairs\.jsonl"):
            recorded_pairs(copies)


def test_images_are_called_as_they_were_given(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_of(image_folder, tmp_path).names[0] == str(image_folder / "0.png")
    monkeypatch.chdir(tmp_path)
    assert cache_of(Path("clean"), tmp_path).names[0] == str(Path("clean", "0.png"))


class TestProposals:
    """What images propose to LUD-VAE."""

    def proposed(self, pairs: tuple[Path, Path], tmp_path: Path, **given: object) -> tuple[Recipe, list[str]]:
        recipe = replace(RECIPE, method="ludvae", architecture="ludvae", **given)
        said: list[str] = []
        found = sources(tmp_path, Needs(clean="unpaired"), recipe, noisy=[pairs[0]], clean=[unpaired(pairs)[1]])
        return with_auto_options(recipe, found.train, said.append), said

    def test_statistics_are_matched_where_that_was_requested(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        levels = {"sigma_y": 5}
        recipe, said = self.proposed(pairs, tmp_path, config=levels, options={"match": True})
        assert recipe.config["gain"] == pytest.approx([2, 2, 2], rel=0.15)  # the noisy ones are half as bright, and 40
        assert recipe.config["offset"] == pytest.approx([-80 / 255] * 3, abs=0.08)
        assert said[0].startswith("statistics matched: gain ")
        assert self.proposed(pairs, tmp_path, config=levels) == (replace(recipe, config=BOTH, options={}), [])
        own = {**BOTH, "gain": [1.0] * 3, "offset": [0.0] * 3}
        assert self.proposed(pairs, tmp_path, config=own, options={"match": True})[0].config == own

    def test_a_match_that_cannot_be_is_an_error(self, tmp_path: Path) -> None:
        flat = tmp_path / "flat"
        flat.mkdir()
        Image.new("RGB", (30, 30)).save(flat / "0.png")
        with pytest.raises(RecipeError, match="the same everywhere"):
            self.proposed((flat, flat), tmp_path, options={"match": True})

    def test_one_level_brings_the_other(self, pairs: tuple[Path, Path], tmp_path: Path) -> None:
        for given in ({"sigma_y": 5}, {"sigma_x": 10.0}, {"sigma_x": 10.0, "sigma_y": 5}):
            assert self.proposed(pairs, tmp_path, config=given)[0].config == BOTH


def test_how_far_decoding_is_is_said(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.data.cache.FIRST", 0.0)
    said: list[str] = []
    open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=16, say=said.append)
    assert said == ["decoding images: 1 of 5, 00:00 left"]  # the next one is due much later
    open_cache(sorted(image_folder.iterdir()), tmp_path / "cache", smallest=16, say=said.append)
    assert len(said) == 1
