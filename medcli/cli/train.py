"""`med train`: a recipe, a folder of pictures, a weight file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from medcli.train.recipe import Recipe


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    "data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of pictures; may be given again.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run."
)
@click.option("--recipe", default="photo", show_default=True, help="A recipe's name or YAML file.")
@click.option("--method", help="How to learn; replaces the recipe's.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the whole run.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="End the schedule in this time.")
@click.option("--batch", type=click.IntRange(min=1), help="Patches per step.")
@click.option("--patch", type=click.IntRange(min=16), help="Side of a patch in pixels.")
@click.option("--lr", "learning_rate", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.")
@click.option("--init", help="A model to start from.")
@click.option("--seed", type=int, help="Another seed gives another model.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16"]))
@click.option("--workers", type=click.IntRange(min=0), help="Processes that draw patches.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(data: tuple[Path, ...], output: Path, recipe: str, **options: Any) -> None:
    """Train a denoiser on a folder of clean pictures.

    \b
    Example: med train --recipe photo --data pictures/ -o run/
             med denoise photo.png --model run/

    Killed at any moment, a run goes on with --resume from its last checkpoint.
    """  # fmt: skip
    from medcli.train.loop import Limits
    from medcli.train.run import Options, train

    quiet = options.pop("quiet")
    run_options = Options(
        data=data,
        output=output,
        limits=Limits(minutes=options.pop("minutes")),
        **{key: options.pop(key) for key in ("device", "precision", "workers", "resume")},
    )
    say = (lambda _: None) if quiet else _say
    report = (lambda _: None) if quiet else (lambda line: _say(_line(line)))
    path = train(_recipe(recipe, options, output, run_options.resume), run_options, report, say)
    if not quiet:
        _say(f"{path} is ready: med denoise PICTURE --model {output}")


def _recipe(name: str, overrides: dict[str, Any], output: Path, resume: bool) -> Recipe:
    """The recipe with the options given; a resumed run keeps the recipe that was frozen in its folder."""
    from medcli.train.recipe import load

    frozen = output / "recipe.yaml"
    recipe = load(str(frozen) if resume and frozen.is_file() else name)
    return replace(recipe, **{key: value for key, value in overrides.items() if value is not None})


def _line(line: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:g}" for name, value in line.items())


def _say(text: str) -> None:
    click.echo(text, err=True)
