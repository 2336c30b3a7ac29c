"""One run of `med synth-pairs`: the noise model of --like, the noisy copies, and the report."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial

from medcli.batch.denoise.report import RunSummary
from medcli.batch.synth.options import SynthPairsOptions
from medcli.batch.synth.run import PairManifest, SynthOutcome, dry_run, plan, synthesise
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, duration, message_lines, say_unless, terminal_can_animate
from medcli.data.folders import skipped


def run_synth_pairs(given: SynthPairsOptions) -> None:
    """Raises OptionError, MedcliError, and SomeFailed where some are done and others failed."""
    given.check()
    given = replace(given, range=chosen_range(given.range, given.range_from))
    tasks = plan(given.clean, given.noisy, count=given.count, depth=given.depth, format=given.format)
    given, ready = _with_noise_model(given)
    executor = given.executor(len(tasks))
    outcomes: Generator[SynthOutcome, None, None]
    if not ready:  # the noise is not known yet, and all is still to be done
        outcomes = (SynthOutcome(task, "planned") for task in tasks)
    elif given.dry_run:
        outcomes = dry_run(given.synth_options(), tasks)
    else:
        outcomes = synthesise(given.synth_options(), tasks, executor)
    animate = terminal_can_animate()
    with ProgressDisplay(len(tasks), animate=animate, quiet=given.quiet) as display, closing(outcomes):
        report(outcomes, given, len(tasks), executor.workers, display, skipped([given.clean]))


def _with_noise_model(given: SynthPairsOptions) -> tuple[SynthPairsOptions, bool]:
    """With the model of --like, which is trained first, and whether that is there: not in a dry run."""
    if given.like is None:
        return given, True
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.noise_model import train_noise_model
    from medcli.zoo.modelcard import portable

    PairManifest(given.noisy)  # raises before the training, not after it
    job = given.noise_model_job(given.like, portable(["med", *sys.argv[1:]]))
    keep_freed_memory()
    display, say = partial(TrainDisplay, quiet=given.quiet), say_unless(given.quiet)
    ready = train_noise_model(job, display, say, overwrite=given.overwrite, dry_run=given.dry_run)
    return replace(given, model=str(job.place)), ready


def report(
    outcomes: Iterable[SynthOutcome],
    given: SynthPairsOptions,
    count: int,
    workers: int,
    display: ProgressDisplay,
    skipped: str = "",
) -> None:
    """Lines on each of `count` outcomes, and with a model the time that the others will take.

    skipped: other files in the folder, in words.

    Raises SomeFailed where some are done and others failed, MedcliError where none is done.
    """
    summary = RunSummary()
    for made in outcomes:
        display.begin(made.task.output)
        summary.counts[made.status] += 1
        if made.error is not None:
            summary.errors.append(made.error)
        for line in _lines(made, given):
            display.line(line, error=made.error is not None)
        left = count - sum(summary.counts.values())
        # after the first copy of a worker that had loaded the model before
        if given.model and left and made.status == "done" and summary.counts["done"] == workers + 1:
            each = made.seconds / workers
            display.line(f"about {each:.2g} s an image, {duration(left * each)} for the {left} that are left")
        display.advance(1, 1)
    display.line("; ".join(filter(None, (summary.summary(display.seconds), skipped))))
    summary.raise_errors(count, "noisy copies", "made")


def _lines(made: SynthOutcome, given: SynthPairsOptions) -> list[str]:
    """One line on an image, and one for each conversion."""
    if made.error is not None:
        return message_lines(made.error)
    paths = f"{given.clean / made.task.source} -> {given.noisy / made.task.output}"
    if made.status != "done" or made.row is None:
        return [f"{paths}: {'up to date' if made.status == 'skipped' else 'to do'}"]
    return [f"{paths}: {made.row.drawn}, {made.row.protocol}", *(f"  note: {note}" for note in made.notes)]
