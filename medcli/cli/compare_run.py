"""One run of `med compare`: pictures, models, and the page or the contact sheet."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from medcli.api import load_model
from medcli.batch.compare.run import ERROR_GAIN, Candidate, Picture, compare, picture
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, say_unless, terminal_can_animate
from medcli.data.folders import by_stem
from medcli.engine.options import EngineOptions
from medcli.errors import InputError, ModelError, OutputError
from medcli.images import read
from medcli.images.comparison import LOSSLESS, QUALITY, Region, write_page, write_sheet
from medcli.zoo.description import NOISE_DOMAIN
from medcli.zoo.model import Model, find_model

PAGE, SHEET = (".html", ".htm"), ".png"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EngineOptions):
    """The options of `med compare`, by the names of the parameters that click parses."""

    inputs: Sequence[Path]
    output: Path | None
    models: Sequence[str]
    strengths: Sequence[float]
    crop: str
    clean: Path | None
    range_from: Path | None
    force: bool
    quiet: bool

    @property
    def target(self) -> Path:
        """Raises UsageError for another format, OutputError for a file that is there already."""
        first = self.inputs[0]
        path = self.output or first.with_name(f"{first.stem}.compare.html")
        if path.suffix.lower() not in (*PAGE, SHEET):
            raise click.UsageError(f"-o {path} is neither a page (.html) nor a contact sheet (.png).")
        if path.exists() and not self.force:
            raise OutputError(f"{path} exists already.", "Add --force to overwrite it, or name another with -o.")
        return path


def run_compare(options: CompareOptions) -> None:
    """Raises MedcliError where a picture or a model cannot be used; nothing is written then."""
    say, target = say_unless(options.quiet), options.target
    pictures = [_picture(options, path, say) for path in options.inputs]
    areas = [each.areas(options.crop) for each in pictures]
    models = [_denoiser_model(name, say) for name in options.models]
    regions: list[Region] = []
    steps = len(models) * sum(map(len, areas))
    with ProgressDisplay(steps, animate=terminal_can_animate(), quiet=options.quiet) as display:
        loaded = [(model, load_model(model, replace(options, range="auto"))) for model in models]
        for path, shown, parts in zip(options.inputs, pictures, areas, strict=True):
            candidates = [
                Candidate(model.name, denoiser, _command(options, path, model.name)) for model, denoiser in loaded
            ]
            regions += compare(shown, parts, candidates, options.strengths, display.begin, display.advance)
    _write(target, options, regions)
    say(f"{target}: {len(regions)} {'place' if len(regions) == 1 else 'places'}, {target.stat().st_size / 1e6:.1f} MB")


def _write(target: Path, options: CompareOptions, regions: Sequence[Region]) -> None:
    if target.suffix.lower() == SHEET:
        write_sheet(target, regions)
        return
    title = options.inputs[0].name if len(options.inputs) == 1 else f"{len(options.inputs)} pictures"
    notes = ["noise, removed: standard deviation in grey levels of 255."]
    if options.clean:
        notes.append(f"Error maps: the difference from the clean image, {ERROR_GAIN} times, about mid-gray.")
    if any(version.pixels.size > 3 * LOSSLESS for region in regions for version in region.versions):
        notes.append(f"Pictures of more than {LOSSLESS / 1e6:g} megapixels are JPEG of quality {QUALITY} in this page.")
    write_page(target, f"Comparison of {title}", regions, " ".join(notes))


def _picture(options: CompareOptions, path: Path, say: Callable[[str], None]) -> Picture:
    image = read(path)
    if len(image.pages) > 1:
        say(f"{path}: the first of {len(image.pages)} pages is shown")
    for page in image.pages:
        page.nodata = page.nodata if options.nodata is None else options.nodata
    choice = chosen_range(options.range, options.range_from, options.nodata)
    return picture(path.name, image, choice, read(_clean(options.clean, path)) if options.clean else None)


def _clean(clean: Path, path: Path) -> Path:
    """The clean image of a picture. Raises InputError where the folder has none."""
    if not clean.is_dir():
        return clean
    found = by_stem(clean).get(path.stem)
    if found is None:
        raise InputError(f"{clean} has no image called {path.stem}.", "The clean images must have the same names.")
    return clean / found


def _denoiser_model(name: str, say: Callable[[str], None]) -> Model:
    model = find_model(name, say)
    if model.domain == NOISE_DOMAIN:
        raise ModelError(f"{name} generates noise.", "The denoisers are in 'med models list'.")
    return model


def _command(options: CompareOptions, path: Path, model: str) -> Callable[[float], str]:
    """The `med denoise` that writes what is shown, by its strength."""
    context = click.get_current_context()
    given = [
        (name, getattr(options, name.replace("-", "_")))
        for name in ("device", "precision", "tile", "range", "range-from", "nodata")
        if context.get_parameter_source(name.replace("-", "_")) is not click.core.ParameterSource.DEFAULT
    ]
    words = ["med", "denoise", str(path), "-m", model]
    words += [word for name, value in given for word in (f"--{name}", str(value))]
    words += ["--ensemble"] if options.ensemble else []

    def command(strength: float) -> str:
        return shlex.join([*words, *(["--strength", f"{strength:g}"] if strength < 1 else [])])

    return command
