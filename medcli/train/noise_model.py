"""The noise of somebody's own images as a training run that is begun, goes on or is over, whatever is called again.

It is a run like any other, in a hidden folder, so that its images of curves and noise are nobody's noisy mates.
Beside what runs leave lies what was wished for, by the contents of all files: the noise of other images, or of other
settings, is never taken for that of these.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medcli.data.crops import RecordedImages
from medcli.data.folders import images_in
from medcli.errors import OutputError, RecipeError
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

PLACE, WISH = ".noise-model", "wish.json"
FEWEST = 500  # steps; after less the noise is but a guess
SAVES, SELDOM = 20, 25  # checkpoints of a whole run; steps between two of them at least
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
    """Whose noise to learn, and how. noisy, clean: folders of different scenes. place: folder of the run.

    init: a model of noise to start from; empty for none. minutes: of training, None for the recipe's steps. options,
    config: of method and network, beside those of the recipe.
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

    def inputs(self) -> NoiseModelInputs:
        """Reads every image. Raises InputError where a folder has none, ModelError where there is no such model."""
        start = find_model(self.init).checksums.sha256 if self.init else ""
        return NoiseModelInputs(
            _digest(self.noisy), _digest(self.clean), start, self.minutes, self.options, self.config, self.range
        )

    def recipe(self) -> Recipe:
        """As the package has it, with what was asked for."""
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

    def run(self, command: str = "", limits: Limits | None = None) -> TrainOptions:
        """What `medcli.train.run` has to know."""
        return TrainOptions(
            self.place,
            noisy=[self.noisy],
            clean=[self.clean],
            device=self.device,
            resume=(self.place / RECIPE).exists(),
            command=command,
            limits=limits,
            again="the same command",
            range=parse_range(self.range),
        )


@dataclass(frozen=True)
class NoiseModelInputs:
    """What decides a noise model. noisy, clean, init: digests of files; the rest as in `Lesson`."""

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
    """How far the run has come, and in which names of the wish it is one of something else."""

    state: State
    differs: Sequence[str] = ()

    @property
    def strange(self) -> str:
        """What is another than it was, in words; empty where the model is what was wished for.

        Clean images only show scenes: with others there the noise of a model is still what it was wished to be.
        """
        return ", ".join(WORDS[name] for name in self.differs if name != "clean")


def job_state(job: NoiseModelJob, inputs: NoiseModelInputs) -> JobState:
    """What lies in the place. Raises OutputError where that is not ours."""
    place = job.place
    if not place.exists() or (place.is_dir() and all(path.name.startswith(".") for path in place.iterdir())):
        return JobState("new")
    try:
        former = NoiseModelInputs(**json.loads((place / WISH).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{place} holds something else than a noise model.", "Move it away.") from error
    if any(place.glob("*.safetensors")):
        return JobState("done", inputs.differs(former))
    return JobState("begun" if (place / RECIPE).exists() else "new", inputs.differs(former))


class Draft(NamedTuple):
    """The recipe of a new run. seconds: that a step takes here. misfits: clean images that will get no mates."""

    recipe: Recipe
    seconds: float
    misfits: int


def drafted(job: NoiseModelJob, say: Say) -> Draft:
    """Reads the images and takes a few steps, to see how long they take; where minutes are given, as many as fit in.

    Raises RecipeError where no clean image can get a mate, and what `medcli.train.run.train` raises.
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
        problem = (
            f"The noise would be learned in {learned}, and all images of --from are {seen}: none would get a mate."
        )
        raise RecipeError(problem, f"Learn it in {seen}: --config {hint}")
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
    """An empty place with the wish in it. A former model is removed only when the place is free for the new one."""
    former = job.place.with_name(f"{PLACE}.old")
    shutil.rmtree(former, ignore_errors=True)
    if job.place.exists():
        job.place.rename(former)
    with atomic_write(job.place / WISH) as file:
        file.write(json.dumps(asdict(inputs)).encode())
    shutil.rmtree(former, ignore_errors=True)


def frozen(job: NoiseModelJob) -> Recipe:
    """The recipe of a run that was begun."""
    return load(str(job.place / RECIPE))


def learn(recipe: Recipe, job: NoiseModelJob, command: str, report: Callable[[Line], None], say: Say) -> Path:
    """Begins the run or goes on with it; returns its weight file. Raises what `medcli.train.run.train` raises."""
    saved = checkpoint.saved(job.place / "checkpoints")
    done = checkpoint.step_of(saved[-1]) if saved else 0
    minutes = job.minutes and max(1 / 60, job.minutes * (1 - done / recipe.steps))
    limits = Limits(
        minutes, save_every=max(SELDOM, recipe.steps // SAVES), report_every=max(1, min(100, recipe.steps // 5))
    )
    return train(recipe, job.run(command, limits), report, say)


def _digest(folder: Path) -> str:
    """Of names and contents of all its images; those that cannot be read count by name."""
    lines = (f"{name.as_posix()}\t{_content(folder / name)}\n" for name in images_in(folder))
    return sha256("".join(lines).encode(errors="surrogateescape"))


def _content(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        return f"{error.strerror}"
