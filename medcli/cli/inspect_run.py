"""One run of `med inspect`: lines for one image, a table for many, objects for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from medcli.batch.inspect.report import HEADINGS, Report, inspected, summary
from medcli.cli.models.list import plain
from medcli.cli.progress import message_lines
from medcli.data.folders import images_in
from medcli.errors import MedcliError, OptionError, SomeFailed
from medcli.images.values import RangeChoice


def run_inspect(inputs: Sequence[Path], plot: Path | None, choice: RangeChoice, *, as_objects: bool) -> None:
    """Raises OptionError, MedcliError, SomeFailed where some images could not be read."""
    paths = list(_paths(inputs))
    if plot and len(paths) > 1:
        raise OptionError("--plot draws the noise of one image.")
    if plot and plot.suffix.lower() != ".png":
        raise OptionError(f"--plot {plot} is no name for a picture.", "Let it end in .png.")
    reports: list[Report] = []
    errors: list[MedcliError] = []
    for path in paths:
        try:
            reports.append(inspected(path, choice))
        except MedcliError as error:
            if len(paths) == 1:
                raise
            errors.append(error)
            click.echo("\n".join(message_lines(error)), err=True)
            continue
        if as_objects:
            click.echo(json.dumps(reports[-1].as_object(), ensure_ascii=False))
        elif len(paths) == 1:
            click.echo("\n".join(reports[-1].lines()))
    if plot:
        from medcli.batch.inspect.plot import plot as draw  # imports matplotlib

        draw(reports[0], plot)
    if len(paths) > 1 and reports and not as_objects:
        click.echo("\n".join([*plain([HEADINGS, *(report.cells() for report in reports)]), "", *summary(reports)]))
    if errors and not reports:
        raise MedcliError(f"None of {len(paths)} images could be read.")
    if errors:
        raise SomeFailed(f"{len(errors)} of {len(paths)} images could not be read.")


def _paths(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        yield from [path / name for name in images_in(path)] if path.is_dir() else [path]
