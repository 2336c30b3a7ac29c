"""What `med synth-pairs --like` does before there are mates: it learns the noise, or finds that this was done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from medcli.cli.progress import duration
from medcli.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from medcli.train.noise_model import JobState, NoiseModelInputs, NoiseModelJob
    from medcli.train.recipe import Recipe


def prepare(job: NoiseModelJob, *, overwrite: bool, dry_run: bool, quiet: bool) -> bool:
    """Whether the model is there in the end: always, but for a rehearsal, which learns nothing.

    Raises OutputError for a model that has learned something else, unless it may be overwritten.
    """
    from medcli.train.noise_model import frozen, job_state

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    inputs = job.inputs()
    found = job_state(job, inputs)
    anew = found.state == "new" or bool(found.strange)
    if found.state != "new" and found.strange and not overwrite:
        raise _stranger(job, found)
    if not anew and found.differs:
        say("other clean images than the noise was learned beside: it stays as it is")
    if found.state == "done" and not anew:
        say(f"the noise of {job.noisy} is known: {job.place}")
        return True
    if dry_run:
        say(f"would {'learn' if anew else 'go on learning'} the noise of {job.noisy} first, in {job.place}")
        return False
    _learn(_begun(job, inputs, say) if anew else frozen(job), job, quiet=quiet)
    look = job.place / "noise.png"
    say(f"the noise of {job.noisy} is learned" + (f"; {look} shows it beside the real one" if look.exists() else ""))
    return True


def _stranger(job: NoiseModelJob, found: JobState) -> OutputError:
    return OutputError(
        f"{job.place} has learned from something else: there is a change in {found.strange}.",
        f"Add --overwrite to learn anew, choose another --to, or take it as it is with --model {job.place}.",
    )


def _begun(job: NoiseModelJob, inputs: NoiseModelInputs, say: Callable[[str], None]) -> Recipe:
    """The recipe of a run whose place is ready; how long it will take is said."""
    from medcli.train.noise_model import FEWEST, begin, drafted

    say(f"learning the noise of {job.noisy}; trying how fast that goes here ...")
    recipe, seconds, misfits = drafted(job, say)
    hint = " (--minutes sets another time)" if job.minutes is None else ""
    say(f"{recipe.steps:,} steps of {seconds:.2g} s: about {duration(recipe.steps * seconds)}{hint}")
    if recipe.steps < FEWEST:
        say(f"  note: less than {FEWEST} steps teach little about noise")
    if misfits:
        say(f"  note: noise is learned for either gray or colour: {misfits} images of --from will get no mates")
    begin(job, inputs)
    return recipe


def _learn(recipe: Recipe, job: NoiseModelJob, *, quiet: bool) -> None:
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.noise_model import learn
    from medcli.zoo.modelcard import portable

    keep_freed_memory()
    with TrainDisplay(recipe.steps, quiet=quiet) as display:
        learn(recipe, job, portable(["med", *sys.argv[1:]]), display.report, display.say)
