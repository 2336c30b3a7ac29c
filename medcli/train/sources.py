"""Which images a run trains on and which validate it: from folders and a method's needs to sources of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch

from medcli.data.cache import PixelCache, Reading, open_cache, silent
from medcli.data.crops import CropSampler, RecordedImages, SampleSource, SyntheticPairs
from medcli.data.folders import images_in, matched, skipped, unreadable
from medcli.data.pairs import MANIFEST, recorded_noises, recorded_pairs
from medcli.data.same_scenes import same_scenes
from medcli.data.variation import Variation
from medcli.errors import RecipeError
from medcli.images.values import RangeChoice
from medcli.methods.base import Needs
from medcli.noise.base import Noise
from medcli.noise.notation import entries, parse
from medcli.noise.pool import Pool
from medcli.registry import DEFAULT_METHOD, METHODS, nearest, resolve
from medcli.seeding import derived_seed, keyed_generator
from medcli.train.adapt.sure import noise_statistics
from medcli.train.recipe import Recipe
from medcli.train.stein import SteinValidation
from medcli.train.validation import Validation, validation_of

MOST_HELD_OUT = 32  # images
FEW = 8  # images: of fewer none is held out unless a larger share is given


@dataclass(frozen=True)
class Folders:
    """What was given. data: folders of images, or single ones, that are clean, or noisy where the recipe makes no
    noise. noisy, clean: recorded; with data that are made noisy, clean are the other scenes of an unpaired method.

    pairs: folders of noisy copies with a manifest; clean then says where their clean images are now.
    val: for validation; like data, or with a manifest or subfolders `noisy` and `clean` where images are recorded.
    cache: where decoded images are kept. range: which values are black and white. nodata: which means
    nothing, None for that of each file. say: called with how far decoding is.
    """

    cache: Path
    data: Sequence[Path] = ()
    noisy: Sequence[Path] = ()
    clean: Sequence[Path] = ()
    pairs: Sequence[Path] = ()
    val: Path | None = None
    range: RangeChoice = "auto"
    nodata: float | None = None
    say: Callable[[str], None] = silent

    def left_out(self) -> list[str]:
        """The subfolders that cannot be read, and the other files by extension: one line each."""
        given = [*self.data, *self.noisy, *self.clean, *self.pairs, *filter(None, [self.val])]
        distinct = [place for place in dict.fromkeys(given) if place.is_dir()]
        return [*(error.problem for error in unreadable(distinct)), *filter(None, [skipped(distinct)])]


@dataclass(frozen=True)
class Sources:
    """train: the samples. validation: None where no image was given or held out for it.

    noises: of pairs with a manifest, in notation; none of a noise that has no notation, as one that was learned.
    """

    train: SampleSource
    validation: Validation | None
    images: int
    held_out: int
    gray: bool
    skipped: Sequence[str] = field(default_factory=list)
    noises: Sequence[str] = ()


def open_sources(recipe: Recipe, needs: Needs, folders: Folders, *, denoises: bool = True) -> Sources:
    """Decodes the images and deals them out. Raises RecipeError where they are not what the method needs.

    denoises: whether the model removes noise, and does not generate it.
    Colour or gray follows the recipe's `channels`; without them, gray where no image has colour.
    """
    recorded = bool(folders.noisy or folders.pairs) or not recipe.noises
    groups = _recorded(recipe, needs, folders) if recorded else _clean(needs, folders)
    check = _checked(groups, recipe, folders)
    if recorded and needs.clean == "unpaired" and check.clean:
        check, same = _of_other_scenes(check, check.clean)
    else:
        same = []
    gray = all(cache.gray for cache in check.all)
    crop_sampler = CropSampler(recipe.patch, recipe.config.get("channels", 1 if gray else 3), recipe.enlarge_share)
    paired = needs.clean == "paired"
    make = _recorder(crop_sampler, recipe.seed, paired) if recorded else _maker(crop_sampler, recipe, needs)
    trained, held = check.split(recipe.held_out, recipe.seed) if folders.val is None else (check, None)
    if folders.val is not None:
        held = _checked(_validation_paths(folders.val, needs, recorded=recorded), recipe, folders)
    validation = _validation(make(held), held, needs, denoises=denoises) if held else None
    held_out = len(held.first) if held else 0
    unused = [*folders.left_out(), *same, *check.skipped, *(held.skipped if held and folders.val is not None else [])]
    noises = list(dict.fromkeys(each for folder in folders.pairs for each in _noises(folder)))
    return Sources(make(trained), validation, len(trained.first), held_out, gray, unused, noises)


def _of_other_scenes(images: _Images, clean: PixelCache) -> tuple[_Images, list[str]]:
    """Without clean images that are the counterpart of a noisy one, and a message about them.

    Raises RecipeError where that is most of them.
    """
    same = set(same_scenes(images.first, clean))
    if not same:
        return images, []
    if 2 * len(same) > len(clean):
        raise RecipeError(
            "The clean images show the same scenes as the noisy ones, with equal names: these are pairs.",
            "Name clean images of other scenes, or train on the pairs: med train --noisy DIR --clean DIR.",
        )
    others = clean.only([place for place in range(len(clean)) if place not in same])
    message = f"{len(same)} clean images of the same scenes as noisy ones: pairs train a better model without --method"
    return replace(images, clean=others), [message]


def _validation(source: SampleSource, held: _Images, needs: Needs, *, denoises: bool) -> Validation:
    """By Stein's estimate for denoisers that learn from recorded noise without pairs, if the noise can be measured."""
    if denoises and needs.clean == "unpaired" and not isinstance(source, SyntheticPairs):
        seen = noise_statistics(held.first)
        if seen.stride:
            return SteinValidation(source, by_psnr=False, seen=seen)
    return validation_of(source, needs, denoises=denoises)


@dataclass(frozen=True)
class _Paths:
    """scenes: for each view of the scenes, their files, place by place; clean: paired, unpaired, or none."""

    views: Sequence[Sequence[Path]]
    clean: Sequence[Path] = ()
    aligned: bool = False


@dataclass(frozen=True)
class _Images:
    views: Sequence[PixelCache]
    clean: PixelCache | None
    aligned: bool

    @property
    def first(self) -> PixelCache:
        return self.views[0]

    @property
    def all(self) -> list[PixelCache]:
        return [*self.views, *filter(None, [self.clean])]

    @property
    def skipped(self) -> list[str]:
        return [line for cache in self.all for line in cache.skipped]

    def split(self, share: float, seed: int) -> tuple[_Images, _Images | None]:
        """(for training, for validation): chosen by name, so that new images do not shift the old ones.

        Where few names stand for many images, that of the folder counts too. Pages of one file stay together, for
        they look alike, unless there are few files; so do all images that have the same clean image.
        """
        names = (self.clean if self.clean and self.aligned else self.first).names
        shown = [Path(name).name for name in names]
        if len(set(shown)) < min(FEW, len(set(names))):
            shown = ["/".join(Path(name).parts[-2:]) for name in names]
        files = [name.rpartition("#")[0] or name for name in shown]
        units = files if len(set(files)) >= FEW else shown
        order = sorted(set(units), key=lambda unit: derived_seed(seed, unit))
        wanted = min(MOST_HELD_OUT, len(order) - 1, round(share * len(order)) or (share > 0 and len(order) >= FEW))
        if not wanted:
            return self, None
        held = set(order[:wanted])
        return (
            self._only([place for place, unit in enumerate(units) if unit not in held]),
            self._only([place for place, unit in enumerate(units) if unit in held]),
        )

    def _only(self, places: Sequence[int]) -> _Images:
        clean = self.clean.only(places) if self.clean and self.aligned else self.clean
        return replace(self, views=[view.only(places) for view in self.views], clean=clean)


def _without_clean() -> str:
    """The methods that learn from one noisy image of each scene."""
    kinds = {name: resolve(METHODS, name, kind="method", error=RecipeError) for name in METHODS}
    return ", ".join(name for name, kind in kinds.items() if getattr(kind, "needs", None) == Needs())


def _clean(needs: Needs, folders: Folders) -> _Paths:
    """Clean images to make noisy. Unpaired methods take those of --clean as they are, where --data are others."""
    if needs.clean == "unpaired" and folders.data and folders.clean:
        return _Paths([_files(folders.data)], _files(folders.clean))
    return _Paths([_files([*folders.data, *folders.clean])])


def _recorded(recipe: Recipe, needs: Needs, folders: Folders) -> _Paths:
    if folders.pairs:
        return _of_manifests(recipe, needs, folders)
    if folders.clean and needs.clean == "none":
        raise RecipeError(f"'{recipe.method}' uses no clean images.", "Leave --clean out.")
    noisy = folders.noisy or folders.data
    clean = folders.clean if folders.noisy else ()
    if needs.clean != "none" and not clean:
        raise RecipeError(
            f"'{recipe.method}' needs clean images besides the noisy ones.",
            f"Give both, with --noisy and --clean, or choose a method that needs none: {_without_clean()}.",
        )
    if needs.views == 1 and needs.clean != "paired":
        return _Paths([_files(noisy)], _files(clean) if needs.clean == "unpaired" else ())
    if needs.views > 1 and not needs.views <= len(noisy) <= needs.views + needs.spare:
        times = f"{needs.views} or {needs.views + needs.spare}" if needs.spare else f"{needs.views}"
        raise RecipeError(
            f"'{recipe.method}' needs {times} noisy images of each scene, but {len(noisy)} folders were given.",
            f"Give --noisy {times} times, each with the same names; or clean images and --noise.",
        )
    if needs.clean == "paired" and (len(noisy), len(clean)) != (1, 1):
        raise RecipeError("Pairs come from one folder of noisy and one of clean images.", "Give each one once.")
    together = [*noisy, *clean] if needs.clean == "paired" else list(noisy)
    names = list(zip(*matched(*together), strict=True))
    files = [[folder / name for name in column] for folder, column in zip(together, names, strict=True)]
    return _Paths(files[: len(noisy)], files[-1] if needs.clean == "paired" else (), aligned=True)


def _of_manifests(recipe: Recipe, needs: Needs, folders: Folders) -> _Paths:
    if needs.clean != "paired" or needs.views > 1:
        raise RecipeError(
            f"'{recipe.method}' does not learn from pairs.", f"Give it --noisy, or choose --method {DEFAULT_METHOD}."
        )
    if len(folders.clean) > 1:
        raise RecipeError("Of pairs with a manifest, the clean images lie in one folder.", "Give --clean once.")
    return _paired([pair for each in folders.pairs for pair in recorded_pairs(each, *folders.clean)])


def _noises(folder: Path) -> Iterator[str]:
    """The noises of its copies. What is the same at each draw, such as a factor, counts only where it was drawn."""
    for fingerprint, drawn in recorded_noises(folder).items():
        for notation in entries(fingerprint):
            try:
                sampled = str(parse(notation).sample_parameters(keyed_generator(0)))
            except RecipeError:  # the name of a model
                continue
            if sampled != notation or sampled in drawn:
                yield notation


def _paired(pairs: Sequence[tuple[Path, Path]]) -> _Paths:
    """Of (noisy, clean)."""
    return _Paths([[noisy for noisy, _ in pairs]], [clean for _, clean in pairs], aligned=True)


def _validation_paths(folder: Path, needs: Needs, *, recorded: bool) -> _Paths:
    if not recorded or (needs.clean == "none" and needs.views == 1):
        return _Paths([_files([folder])])
    if needs.clean == "paired" and (folder / MANIFEST).is_file():
        return _paired(recorded_pairs(folder))
    if needs.clean == "none" or not (folder / "noisy").is_dir() or not (folder / "clean").is_dir():
        views = "Leave --val out: some of the scenes are held out then."
        hint = views if needs.clean == "none" else f"It must hold {MANIFEST}, or two folders, 'noisy' and 'clean'."
        raise RecipeError(f"{folder} cannot be used for validation.", hint)
    noisy, clean = folder / "noisy", folder / "clean"
    if needs.clean == "unpaired":
        return _Paths([_files([noisy])], _files([clean]))
    return _paired([(noisy / a, clean / b) for a, b in matched(noisy, clean)])


def _files(folders: Sequence[Path]) -> list[Path]:
    if not folders:
        raise RecipeError("There is nothing to train on.", "Give --data a folder of images.")
    found = ([place] if place.is_file() else [place / name for name in images_in(place)] for place in folders)
    return [path for several in found for path in several]


def _checked(paths: _Paths, recipe: Recipe, folders: Folders) -> _Images:
    read = partial(
        open_cache,
        cache_dir=folders.cache,
        smallest=recipe.patch,
        reading=Reading(folders.range, folders.nodata),
        say=folders.say,
    )
    scenes = _scenes(paths) if paths.aligned else {}
    caches = [read(files, scenes=[scenes[path] for path in files] if scenes else ()) for files in paths.views]
    once = list(dict.fromkeys(paths.clean))  # several copies may share a clean image
    clean = read(once, scenes=[scenes[path] for path in once] if scenes else ()) if once else None
    if paths.aligned:
        columns = [*paths.views, *([paths.clean] if clean else [])]
        aligned = _aligned([*caches, *filter(None, [clean])], columns)
        caches, clean = aligned[: len(caches)], aligned[-1] if clean else None
    return _Images(caches, clean, paths.aligned)


def _scenes(paths: _Paths) -> dict[Path, list[Path]]:
    """All images of its scene, for each file: those of one row, and of rows that share the last column."""
    rows = list(zip(*paths.views, *([paths.clean] if paths.clean else []), strict=True))
    groups: dict[Path, dict[Path, None]] = {row[-1]: {} for row in rows}
    for row in rows:
        groups[row[-1]].update(dict.fromkeys(row))
    return {path: list(groups[row[-1]]) for row in rows for path in row}


def _aligned(caches: Sequence[PixelCache], columns: Sequence[Sequence[Path]]) -> list[PixelCache]:
    """The scenes of which every image could be read; raises RecipeError where two of one scene differ in size."""
    places = [{name: place for place, name in enumerate(cache.names)} for cache in caches]
    rows = [row for paths in zip(*columns, strict=True) for row in _pages(paths, places)]
    whole = [row for row in rows if all(name in known for name, known in zip(row, places, strict=True))]
    for row in whole:
        sizes = {cache.slots[known[name]].shape[:2] for cache, known, name in zip(caches, places, row, strict=True)}
        if len(sizes) > 1:
            raise RecipeError(f"{' and '.join(row)} differ in size.", "Images of one scene must match pixel by pixel.")
    if not whole:
        raise RecipeError("No scene is left of which every image can be used.", "Look at the images left out.")
    return [
        cache.only([known[row[i]] for row in whole])
        for i, (cache, known) in enumerate(zip(caches, places, strict=True))
    ]


def _pages(scene: Sequence[Path], places: Sequence[Mapping[str, int]]) -> Iterator[list[str]]:
    """The names of a scene's images, page by page where its files have several, as the caches call them."""
    yield [str(path) for path in scene]
    for page in count(1):
        names = [f"{path}#{page}" for path in scene]
        if not any(name in known for name, known in zip(names, places, strict=True)):
            return
        yield names


def _maker(crop_sampler: CropSampler, recipe: Recipe, needs: Needs) -> Callable[[_Images], SampleSource]:
    noise = recipe.draw_noise()
    _refuse_misfits(noise, crop_sampler)
    variation = _variation(recipe, needs)

    def make(images: _Images) -> SampleSource:
        return SyntheticPairs(
            images.first,
            noise,
            crop_sampler,
            recipe.seed,
            needs.views + needs.spare,
            needs.alike,
            needs.clean,
            variation,
            images.clean,
            needs.mixup,
        )

    return make


def _variation(recipe: Recipe, needs: Needs) -> Variation | None:
    """None where the recipe has none.

    Raises RecipeError for shares that do not exist or do not fit, and for methods that take no clean image.
    """
    known = {item.name for item in fields(Variation)}
    for name, share in recipe.variation.items():
        if name not in known:
            raise RecipeError(f"There is no variation '{name}'.", nearest(name, known))
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise RecipeError(f"The share of the variation '{name}' cannot be {share!r}.", "It must be 0 to 1.")
    if not any(recipe.variation.values()):
        return None
    if needs.alike or needs.spare or needs.clean == "none":
        hint = "They are for methods that learn from clean images."
        raise RecipeError(f"'{recipe.method}' takes no variations.", hint)
    return Variation(**recipe.variation)


def _refuse_misfits(noise: Noise, crop_sampler: CropSampler) -> None:
    """Raises RecipeError for a noise of colour images where the patches are gray."""
    if isinstance(noise, Pool):
        for _, each in noise.noises:
            _refuse_misfits(each, crop_sampler)
        return
    gray = torch.full((crop_sampler.channels, crop_sampler.patch, crop_sampler.patch), 0.5)
    try:
        fits = noise(gray, keyed_generator(0)).shape == gray.shape
    except RuntimeError:  # torch's word for shapes that do not fit
        fits = False
    if not fits:
        kind = "gray" if crop_sampler.channels == 1 else "colour"
        raise RecipeError(
            f"'{noise}' cannot be added to {kind} patches of {crop_sampler.patch} pixels.",
            "Give another --noise or --pool; a recipe with 'config: {channels: 3}' takes gray images as colour.",
        )


def _recorder(crop_sampler: CropSampler, seed: int, paired: bool) -> Callable[[_Images], SampleSource]:
    plain = replace(crop_sampler, enlarge_share=0.0)  # enlarging would smooth the noise

    def make(images: _Images) -> SampleSource:
        return RecordedImages(images.views, plain, seed, images.clean, paired)

    return make
