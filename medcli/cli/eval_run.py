"""One run of `med eval`: checks of the options, pairs, methods and metrics, one table for each noise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text  # as it is: a file name may look like markup

from medcli.api import load_model, load_on
from medcli.batch.evaluate.plan import EvalOptions, eval_tasks
from medcli.batch.evaluate.run import EvaluatedMethod, EvalWork, Pairs, evaluate, evaluate_on
from medcli.batch.evaluate.tables import Table, as_csv, as_json, cells, markdown
from medcli.batch.pairs import Pixels
from medcli.cli.options import chosen_range
from medcli.cli.progress import ProgressDisplay, say_unless, terminal_can_animate
from medcli.data.folders import skipped, unreadable
from medcli.engine.denoiser import Denoiser
from medcli.errors import SomeFailed
from medcli.files.atomic import atomic_write
from medcli.images.decoded_image import is_gray
from medcli.images.values import ValueRange
from medcli.zoo.model import Model, find_model


def run_eval(options: EvalOptions) -> None:
    """Prints a table for each noise, and writes all so far to the files that are named. Raises MedcliError."""
    options = replace(options, range=chosen_range(options.range, options.range_from, options.nodata))
    options.check()
    metrics, fid = options.chosen_metrics()
    tasks = list(eval_tasks(options))
    models = [find_model(name, say_unless(options.quiet)) for name in dict.fromkeys(options.models)]
    engine = replace(options, range="auto", nodata=None)  # each pair has its own, see `medcli.batch.pairs`
    executor = options.executor()
    denoisers = [] if executor else [load_model(model, engine) for model in models]
    where = f"on {options.device}"
    if denoisers:
        runtimes = " and ".join(dict.fromkeys(denoiser.runtime.name for denoiser in denoisers))
        where = f"in {runtimes} on {denoisers[0].device}"
    tables: list[Table] = []
    for task in tasks:
        rows = 1 if executor else 1 + len(models) + len(task.baselines)
        animate = terminal_can_animate()
        with ProgressDisplay(len(task.pairs) * rows, animate=animate, quiet=options.quiet) as display:
            if executor is None:
                methods = [_method(*each, options, display) for each in zip(models, denoisers, strict=True)]
                result = evaluate(task.pairs, [*methods, *task.baselines], metrics, fid=fid, begin=display.begin)
            else:
                made = [partial(_method_on, model, engine) for model in models]
                _warn_of_gray(models, task.pairs, display)
                work = EvalWork(task.pairs, [*made, *task.made], list(metrics))
                result = evaluate_on(executor, work, display.done)
        tables.append(Table(task.protocol(options, where, executor.workers if executor else 1), result))
        show(tables[-1], first=len(tables) == 1)
        for path, form in ((options.csv, as_csv), (options.json, as_json), (options.markdown, markdown)):
            if path is not None:
                with atomic_write(path) as file:
                    file.write(form(tables).encode())
    folders = [folder for folder in (options.clean, options.noisy) if folder is not None]
    if others := skipped(folders):
        say_unless(options.quiet)(others)
    if locked := unreadable(folders):
        why = "\n".join(error.problem for error in locked)
        raise SomeFailed(f"The images of {len(locked)} folders are left out:", why)


def _method(model: Model, denoiser: Denoiser, options: EvalOptions, display: ProgressDisplay) -> EvaluatedMethod:
    """With a line at the first gray image where the model is known not to restore them."""
    restore = partial(denoiser, strength=options.strength, progress=display.advance)
    warnings = iter([model.gray_warning] if model.gray_warning else [])

    def method(noisy: Pixels, values: ValueRange) -> Pixels:
        if is_gray(noisy) and (line := next(warnings, "")):
            display.line(line)
        return restore(noisy, values=values)

    return EvaluatedMethod(model.name, method)


def _method_on(model: Model, options: EvalOptions, device: str) -> EvaluatedMethod:
    """In a worker."""
    denoiser = load_on(model, options, device)
    return EvaluatedMethod(model.name, lambda noisy, values: denoiser(noisy, strength=options.strength, values=values))


def _warn_of_gray(models: Sequence[Model], pairs: Pairs, display: ProgressDisplay) -> None:
    """With workers the first image stands for all."""
    for line in [model.gray_warning for model in models if model.gray_warning]:
        if is_gray(pairs[0].noisy):
            display.line(line)


def show(table: Table, *, first: bool) -> None:
    """On standard output: drawn on a terminal, Markdown elsewhere."""
    click.echo("" if first else "\n", nl=False)
    if not sys.stdout.isatty():
        click.echo(markdown([table]), nl=False)
        return
    headings, rows = cells(table)
    drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for index, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    for name, *figures in rows:
        drawn.add_row(Text(name), *(Text(figure.replace(" ± ", "\n±")) for figure in figures))
    console = Console()
    console.print(Text(table.protocol.sentence()))
    console.print(drawn)
