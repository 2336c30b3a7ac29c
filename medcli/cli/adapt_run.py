"""One run of `med adapt`: a model is trained on noisy images; if it is better afterwards, it denoises them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from medcli.batch.denoise.options import DenoiseOptions
from medcli.batch.denoise.plan import Job, OutputNaming, make_plan
from medcli.cli.denoise_run import DenoiseRun
from medcli.cli.options import chosen_range
from medcli.cli.progress import say_unless
from medcli.cli.train_display import TrainDisplay
from medcli.data.cache import Reading
from medcli.engine.memory import keep_freed_memory
from medcli.errors import InputError, OptionError, OutputError
from medcli.images.comparison import write_page
from medcli.images.decoded_image import is_gray
from medcli.train.adapt import run as adapting
from medcli.train.hardware import choose_hardware
from medcli.train.validation_page import regions, shown
from medcli.zoo.model import Model, blind_spot_models, find_model


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(DenoiseOptions):
    """The options of `med adapt` as click parses them.

    method: None for the usual one. save: None for beside the results.
    """

    method: str | None
    minutes: float
    train_seed: int
    save: Path | None
    compare: Path | None


def run_adapt(given: AdaptOptions) -> None:
    """Raises OptionError, MedcliError, and SomeFailed where some images failed."""
    target, is_folder = given.output
    if Path("-") in (*given.inputs, target):
        raise OptionError("Images to adapt to are files: a pipe can be read only once.")
    naming = OutputNaming(target, folder=is_folder)
    jobs = make_plan(given.inputs, naming, recursive=given.recursive, force=given.force)
    given = replace(given, range=chosen_range(given.range, given.range_from, given.nodata))
    weights = _weights_path(given, jobs)
    with TemporaryDirectory(prefix="med-adapt-") as folder:
        model = _adapted(given, jobs, Path(folder), weights)
    DenoiseRun(given, model, jobs).start()


def _weights_path(given: AdaptOptions, jobs: Sequence[Job]) -> Path:
    """Where adapted weights go. Raises OutputError where something is there already."""
    first = jobs[0]
    beside = (first.root or first.target.parent) / f"{first.target.stem if len(jobs) == 1 else 'adapted'}.safetensors"
    path = given.save or beside
    if path.suffix != ".safetensors":
        raise OutputError(f"--save {path} is no name for weights.", "Let it end in .safetensors.")
    if path.exists() and not (given.force or given.dry_run):
        raise OutputError(f"{path} exists already.", "Add --force to overwrite it, or name another with --save.")
    if given.compare and given.compare.exists() and not given.force:
        raise OutputError(f"{given.compare} exists already.", "Add --force to overwrite it, or name another.")
    return path


def _adapted(given: AdaptOptions, jobs: Sequence[Job], folder: Path, weights: Path) -> Model:
    """The model to use: the adapted one, which is kept as `weights`, or the one that there is."""
    say = say_unless(given.quiet)
    missing = [job.source for job in jobs if not job.source.exists()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.")
    model = find_model(given.model, say)
    images = adapting.open_images([job.source for job in jobs], folder, Reading(given.range, given.nodata), say)
    job = adapting.adaptation_job(model.network(), model.card, images, given.method)
    say(job.seen.words)
    if model.gray_warning and all(is_gray(job.images[index]) for index in range(len(job.images))):
        say(model.gray_warning)
    if not job.obstacle and not given.dry_run:
        return _train(given, job, folder, weights) or model
    if not job.obstacle:
        say(f"{given.model} would be trained on {len(job.images)} images for {given.minutes:g} min")
        return model
    say(f"not adapted: {job.obstacle}; {given.model} is used as it is")
    others = " or ".join(f"-m {name}" for name in blind_spot_models())
    if others and job.seen.stride > 1 and not job.card.blind_spot:
        say(f"a blind-spot model can be adapted to such images: {others}")
    return model


def _train(given: AdaptOptions, job: adapting.AdaptationJob, folder: Path, path: Path) -> Model | None:
    """The adapted model, kept at `path`; None where it is not clearly better."""
    hardware = choose_hardware(given.device, given.precision, workers=0)
    try:  # before the training, not after it
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{path.parent} cannot be written: {error.strerror}."
        raise OutputError(problem, "Name another folder with --save.") from error
    keep_freed_memory()
    minutes, seed = given.minutes, given.train_seed
    with TrainDisplay(job.way.plan.steps or adapting.STEPS, quiet=given.quiet) as display:
        adapted = adapting.adapt(
            job, folder=folder, hardware=hardware, minutes=minutes, seed=seed, report=display.report
        )
        for line in adapted.summary(given.model):
            display.say(line)
        if given.compare and adapted.held_out:
            versions = {name: shown(batch) for name, batch in adapted.held_out.items()}
            write_page(given.compare, "Held-out rows", regions(versions))
        if adapted.network is adapted.start:
            return None
        adapting.save(path, adapted, job.card, sorted({Path(name).name for name in job.images.names}))
        display.say(f"{path} holds the adapted model: med denoise IMAGE --model {path}")
    return Model(str(path), path)
