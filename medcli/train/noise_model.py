"""A noise model of the user's own noisy images: a training run that is new, interrupted or done.

It is a run like any other, in a hidden folder, so that its plots are not taken for noisy copies. A file beside it holds
checksums of all images and the settings: a model of other images or settings is never taken for the one requested.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from medcli.data.crops import RecordedImages
from medcli.data.folders import images_in, nested
from medcli.errors import InputError, ModelError, OutputError, RecipeError
from medcli.files.atomic import atomic_write
from medcli.files.checksum import sha256, sha256_of
from medcli.images.values import parse_range
from medcli.methods.base import CountsInSteps
from medcli.registry import METHODS, NOISE_MODEL_RECIPE, resolve
from medcli.train import checkpoint
from medcli.train.distributed import ProcessGroup
from medcli.train.hardware import choose_hardware
from medcli.train.loop import Limits, Line
from medcli.train.pace import seconds_per_step
from medcli.train.recipe import Recipe, load
from medcli.train.run import RECIPE, TrainOptions, opened, train
from medcli.train.sources import Sources
from medcli.train.start import start_config
from medcli.zoo.model import find_model

PLACE, INPUTS = ".noise-model", "wish.json"
FEWEST = 500  # steps; with less, the noise is poorly modelled
SAVES, SELDOM = 20, 25  # checkpoints of a whole run; least steps between two of them
WORDS = {
    "noisy": "the images of --like",
    "clean": "the images of --from",
    "init": "the --model to start from",
    "minutes": "--minutes",
    "options": "--option",
    "config": "--config",
    "range": "--range",
}

State = Literal["new", "begun", "done"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class NoiseModelJob:
    """Which noise to model, and how. noisy, clean: folders of different scenes. place: folder of the run.

    init: a noise model to start from; empty for none. minutes: of training, None for the recipe's steps. options,
    config: of method and network, beside those of the recipe. command: for the model's card.
    """

    noisy: Path
    clean: Path
    place: Path
    init: str = ""
    minutes: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    range: str = "auto"
    command: str = ""

    def check(self) -> None:
        """Raises InputError for images that would be noisy and clean at once, ModelError for a start in this folder."""
        for flag, folder in (("--from", self.clean), ("--to", self.place.parent)):
            if nested(self.noisy, folder):
                problem = f"The folders of --like and {flag} must be apart: {self.noisy} and {folder}."
                raise InputError(problem, "Neither may lie in the other.")
        if self.init and find_model(self.init).path.resolve().is_relative_to(self.place.resolve()):
            problem = f"{self.init} is the noise model of this very folder, and cannot be the start of another one."
            raise ModelError(problem, "Choose another --to.")

    def inputs(self) -> NoiseModelInputs:
        """Reads every image. Raises InputError where a folder has none, ModelError where there is no such model."""
        start = find_model(self.init).checksums.sha256 if self.init else ""
        return NoiseModelInputs(
            _digest(self.noisy), _digest(self.clean), start, self.minutes, self.options, self.config, self.range
        )

    def recipe(self) -> Recipe:
        """That of the package with the options of the job."""
        usual, name = load(NOISE_MODEL_RECIPE), self.noisy.resolve().name
        plain = re.sub(r"[^\w.-]+", "-", name)
        start = find_model(self.init).card if self.init else None
        config, seen = (start.config, start.training_data) if start else (usual.config, [])
        return replace(
            usual,
            id=f"noise-of-{plain}",
            title=f"The noise of {name}",
            init=self.init,
            options={**usual.options, **self.options},
            config={**start_config(usual.method, config), **self.config},
            training_data=list(dict.fromkeys([*seen, name, self.clean.resolve().name])),
        )

    def run(self, limits: Limits | None = None) -> TrainOptions:
        """The options of the training run."""
        return TrainOptions(
            self.place,
            noisy=[self.noisy],
            clean=[self.clean],
            device=self.device,
            resume=(self.place / RECIPE).exists(),
            command=self.command,
            limits=limits,
            again="the same command",
            range=parse_range(self.range),
        )


@dataclass(frozen=True)
class NoiseModelInputs:
    """What determines a noise model. noisy, clean, init: checksums of files; the rest as in `NoiseModelJob`."""

    noisy: str
    clean: str
    init: str
    minutes: float | None
    options: dict[str, Any]
    config: dict[str, Any]
    range: str = "auto"

    def differs(self, other: NoiseModelInputs) -> list[str]:
        """The names in which it does."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


class JobState(NamedTuple):
    """How far the run has come, and in which inputs it differs from those of the job."""

    state: State
    differs: Sequence[str] = ()

    @property
    def mismatch(self) -> str:
        """Inputs that differ, in words; empty where the model is usable for the job.

        Clean images only show scenes: with others the model of the noise stays valid.
        """
        return ", ".join(WORDS[name] for name in self.differs if name != "clean")


def job_state(job: NoiseModelJob, inputs: NoiseModelInputs) -> JobState:
    """What is in the folder. Raises OutputError where that is no noise model."""
    place = job.place
    if not place.exists() or (place.is_dir() and all(path.name.startswith(".") for path in place.iterdir())):
        return JobState("new")
    try:
        former = NoiseModelInputs(**json.loads((place / INPUTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{place} holds something else than a noise model.", "Move it away.") from error
    if any(place.glob("*.safetensors")):
        return JobState("done", inputs.differs(former))
    return JobState("begun" if (place / RECIPE).exists() else "new", inputs.differs(former))


class Draft(NamedTuple):
    """The recipe of a new run. seconds: that a step takes here. misfits: clean images that will get no noisy copies."""

    recipe: Recipe
    seconds: float
    misfits: int


def drafted(job: NoiseModelJob, say: Say) -> Draft:
    """Reads the images and takes a few steps, to see how long they take; where minutes are given, as many as fit in.

    Raises RecipeError where no clean image can get a noisy copy, and what `medcli.train.run.train` raises.
    """
    recipe, hardware = job.recipe(), choose_hardware(job.device)
    adjusted, method, sources = opened(
        recipe, replace(job.run(), progress=say), hardware, ProcessGroup(), lambda _: None
    )
    misfits = _misfits(adjusted, sources)
    seconds = seconds_per_step(method, adjusted, hardware, sources.train)
    return Draft(_fitted(recipe, job, seconds), seconds, misfits)


def _misfits(recipe: Recipe, sources: Sources) -> int:
    """How many clean images are gray where the noise is of colours, or the other way round."""
    assert isinstance(sources.train, RecordedImages)
    assert sources.train.clean is not None
    slots = sources.train.clean.slots
    channels: int = recipe.config.get("channels", 3)
    misfits = sum(slot.shape[2] != channels for slot in slots)
    if misfits == len(slots):
        learned, seen, hint = ("colour", "gray", "channels=1") if channels == 3 else ("gray", "colour", "channels=3")
        problem = f"The noise would be modelled in {learned}, and all images of --from are {seen}: none would be noisy."
        raise RecipeError(problem, f"Model it in {seen}: --config {hint}")
    return misfits


def _fitted(recipe: Recipe, job: NoiseModelJob, seconds: float) -> Recipe:
    """With as many steps as fit in the minutes, and all that counts in steps in proportion."""
    if job.minutes is None:
        return recipe
    steps = max(1, int(60 * job.minutes / seconds))
    scale = steps / recipe.steps
    kind = resolve(METHODS, recipe.method, kind="method", error=RecipeError)
    counted = [name for name in kind.step_options if name in recipe.options] if isinstance(kind, CountsInSteps) else []
    scaled = {name: max(1, round(scale * recipe.options[name])) for name in counted}
    warmup = min(recipe.warmup, round(scale * recipe.warmup))
    return replace(recipe, steps=steps, warmup=warmup, options={**recipe.options, **scaled, **job.options})


def begin(job: NoiseModelJob, inputs: NoiseModelInputs) -> None:
    """An empty folder with the inputs in it. A former model is removed only after the folder is free for the new."""
    former = job.place.with_name(f"{PLACE}.old")
    shutil.rmtree(former, ignore_errors=True)
    if job.place.exists():
        job.place.rename(former)
    with atomic_write(job.place / INPUTS) as file:
        file.write(json.dumps(asdict(inputs)).encode())
    shutil.rmtree(former, ignore_errors=True)


class RunDisplay(Protocol):
    """What shows a training run."""

    def report(self, line: Line, /) -> None: ...
    def say(self, text: str, /) -> None: ...


def train_noise_model(
    job: NoiseModelJob,
    display: Callable[[int], AbstractContextManager[RunDisplay]],
    say: Say,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> bool:
    """Whether the model is there in the end: always, but in a dry run, which trains nothing.

    display: called with the steps of the run. overwrite: also a model that was trained on something else. Raises
    OutputError for such a model without it, and what `medcli.train.run.train` raises.
    """
    job.check()
    inputs = job.inputs()
    found = job_state(job, inputs)
    anew = found.state == "new" or bool(found.mismatch)
    if found.state != "new" and found.mismatch and not overwrite:
        raise OutputError(
            f"{job.place} was trained on something else: there is a change in {found.mismatch}.",
            f"Add --overwrite to train anew, choose another --to, or use it as it is with --model {job.place}.",
        )
    if not anew and found.differs:
        say("other clean images than in training: the noise model stays valid")
    if found.state == "done" and not anew:
        say(f"the noise model of {job.noisy} is there: {job.place}")
        return True
    if dry_run:
        say(f"would {'train' if anew else 'continue'} the noise model of {job.noisy} first, in {job.place}")
        return False
    recipe = _new_run(job, inputs, say) if anew else load(str(job.place / RECIPE))
    with display(recipe.steps) as shown:
        train(recipe, job.run(_limits(job, recipe)), shown.report, shown.say)
    plot = job.place / "noise.png"
    beside = f"; {plot} shows it beside the real noise" if plot.exists() else ""
    say(f"the noise model of {job.noisy} is trained{beside}")
    return True


def _new_run(job: NoiseModelJob, inputs: NoiseModelInputs, say: Say) -> Recipe:
    say(f"training a noise model of {job.noisy}; measuring the speed ...")
    recipe, seconds, misfits = drafted(job, say)
    hint = " (--minutes sets another time)" if job.minutes is None else ""
    say(f"{recipe.steps:,} steps of {seconds:.2g} s: about {recipe.steps * seconds / 60:,.1f} min{hint}")
    if recipe.steps < FEWEST:
        say(f"  note: with less than {FEWEST} steps the noise is poorly modelled")
    if misfits:
        say(f"  note: noise is modelled for either gray or colour: {misfits} images of --from will get no copies")
    begin(job, inputs)
    return recipe


def _limits(job: NoiseModelJob, recipe: Recipe) -> Limits:
    """Of the time that is left of the minutes, with checkpoints and reports in proportion to the steps."""
    saved = checkpoint.saved(job.place / "checkpoints")
    done = checkpoint.step_of(saved[-1]) if saved else 0
    minutes = job.minutes and max(1 / 60, job.minutes * (1 - done / recipe.steps))
    save_every, report_every = max(SELDOM, recipe.steps // SAVES), max(1, min(100, recipe.steps // 5))
    return Limits(minutes, save_every=save_every, report_every=report_every)


def _digest(folder: Path) -> str:
    """Of names and contents of all its images; those that cannot be read count by name."""
    lines = (f"{name.as_posix()}\t{_content(folder / name)}\n" for name in images_in(folder))
    return sha256("".join(lines).encode(errors="surrogateescape"))


def _content(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        return f"{error.strerror}"
