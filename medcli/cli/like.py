"""What `med synth-pairs --like` does before there are mates: it learns the noise, or finds that this was done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from medcli.cli.progress import duration
from medcli.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from medcli.train.like import Lesson, Standing, Wish
    from medcli.train.recipe import Recipe


def prepare(lesson: Lesson, *, overwrite: bool, rehearse: bool, quiet: bool) -> bool:
    """Whether the model is there in the end: always, but for a rehearsal, which learns nothing.

    Raises OutputError for a model that has learned something else, unless it may be overwritten.
    """
    from medcli.train.like import frozen, standing

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    wish = lesson.wish()
    found = standing(lesson, wish)
    anew = found.state == "new" or bool(found.strange)
    if found.state != "new" and found.strange and not overwrite:
        raise _stranger(lesson, found)
    if not anew and found.differs:
        say("other clean pictures than the noise was learned beside: it stays as it is")
    if found.state == "done" and not anew:
        say(f"the noise of {lesson.noisy} is known: {lesson.place}")
        return True
    if rehearse:
        say(f"would {'learn' if anew else 'go on learning'} the noise of {lesson.noisy} first, in {lesson.place}")
        return False
    _learn(_begun(lesson, wish, say) if anew else frozen(lesson), lesson, quiet=quiet)
    look = lesson.place / "noise.png"
    say(f"the noise of {lesson.noisy} is learned" + (f"; {look} shows it beside the real one" if look.exists() else ""))
    return True


def _stranger(lesson: Lesson, found: Standing) -> OutputError:
    return OutputError(
        f"{lesson.place} has learned from something else: there is a change in {found.strange}.",
        f"Add --overwrite to learn anew, choose another --to, or take it as it is with --model {lesson.place}.",
    )


def _begun(lesson: Lesson, wish: Wish, say: Callable[[str], None]) -> Recipe:
    """The recipe of a run whose place is ready; how long it will take is said."""
    from medcli.train.like import FEWEST, begin, drafted

    say(f"learning the noise of {lesson.noisy}; trying how fast that goes here ...")
    recipe, seconds, misfits = drafted(lesson, say)
    hint = " (--minutes sets another time)" if lesson.minutes is None else ""
    say(f"{recipe.steps:,} steps of {seconds:.2g} s: about {duration(recipe.steps * seconds)}{hint}")
    if recipe.steps < FEWEST:
        say(f"  note: less than {FEWEST} steps teach little about noise")
    if misfits:
        say(f"  note: noise is learned for either gray or colour: {misfits} pictures of --from will get no mates")
    begin(lesson, wish)
    return recipe


def _learn(recipe: Recipe, lesson: Lesson, *, quiet: bool) -> None:
    from medcli.cli.training import Display
    from medcli.engine.memory import keep_heap
    from medcli.train.like import learn
    from medcli.zoo.modelcard import portable

    keep_heap()
    with Display(recipe.steps, quiet=quiet) as display:
        learn(recipe, lesson, portable(["med", *sys.argv[1:]]), display.report, display.say)
