"""`med train`: images and a noise, a recipe, or noisy images alone; the result is a weight file."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medcli.cli.options import (
    EXISTING_FOLDER,
    FOLDER,
    assigned,
    chosen_range,
    complete_model,
    device_options,
    name_or_path,
    range_options,
    run_options,
    threads,
)

if TYPE_CHECKING:
    from medcli.cli.train_display import TrainDisplay
    from medcli.train.recipe import Recipe
    from medcli.train.run import TrainOptions


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", multiple=True, type=EXISTING_FOLDER,
              help="Folder of clean images; may be given again.  [default: the current folder]")  # fmt: skip
@click.option("--noisy", multiple=True, type=EXISTING_FOLDER, help="Folder of images that are noisy already.")
@click.option("--clean", multiple=True, type=EXISTING_FOLDER,
              help="Folder of clean images beside --noisy, or beside --data for unpaired methods.")  # fmt: skip
@click.option("--pairs", multiple=True, type=EXISTING_FOLDER, help="Folder of noisy copies made by 'med synth-pairs'.")
@click.option("--val", type=EXISTING_FOLDER, help="Folder of validation images.  [default: a share of the images]")
@click.option("-o", "--output", type=FOLDER,
              help="The run's folder.  [default: runs/METHOD-1, or the next free number]")  # fmt: skip
@click.option("--pool", type=name_or_path, help="Noises to learn: noise, gaussian, camera, corruption or a YAML file.")
@click.option("--noise", help="One noise to learn, such as gaussian:25 or gaussian:5-50+speckle:25.")
@click.option("--recipe", type=name_or_path, help="A recipe's name or YAML file, in place of the defaults.")
@click.option("--method", help="Training method.  [default: med for a pool of noises, else supervised]")
@click.option("--option", "method_options", multiple=True, metavar="NAME=VALUE",
              help="Of the method: views=3, fuse=add ...")  # fmt: skip
@click.option("--pd", type=click.IntRange(min=1), help="Stride of amsnet's sub-images.  [default: by the noise]")
@click.option("--arch", "architecture", help="The network.  [default: unet, or what the method needs]")
@click.option("--config", multiple=True, metavar="NAME=VALUE",
              help="Of the network: width=32, sigma_y=12 ...  [default: by the machine]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the whole run.  [default: 10,000]")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True),
              help="Stop after this many minutes; the learning-rate schedule adapts.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), help="Patches per step and process.  [default: by the machine]")
@click.option("--patch", type=click.IntRange(min=16), help="Side of a patch in pixels.  [default: by the machine]")
@click.option("--loss", help="l1, mse, charbonnier or log_mse.")
@click.option("--lr", "learning_rate", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.")
@click.option("--init", type=name_or_path, shell_complete=complete_model, help="A model to start from.")
@click.option("--licence", help="Of the weights that come out, for the model card (SPDX).")
@click.option("--data-licence", default="", help="Of the images, for the model card.")
@click.option("--seed", type=int, help="Random seed.")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in the run's folder.")
@device_options("fp32", "bf16")
@threads()
@click.option("--workers", type=click.IntRange(min=0), help="Processes that draw patches.")
@click.option("--cache", type=FOLDER, help="Folder for decoded images.")
@range_options(nodata=True)
@click.option("--report-every", default=100, show_default=True, type=click.IntRange(min=1), help="In steps.")
@click.option("--save-every", default=500, show_default=True, type=click.IntRange(min=1), help="In steps.")
@run_options(quiet="Only errors.")
def command(output: Path | None, recipe: str | None, pool: str | None, noise: str | None, **options: Any) -> None:
    """Train a denoiser.

    \b
    With the clean images below the current folder, into runs/med-1; sizes are chosen for the machine:
      med train --pool noise
    Clean images, to which noise is added; --pool trains with MeD, --noise with supervision:
      med train --pool noise --data images/ -o run/
      med train --noise gaussian:25 --data images/ -o run/ --minutes 30
    To fill in missing pixels and enlarge images (med denoise --mask, --upscale):
      med train --pool corruption --data images/ -o run/
    Pairs, or two noisy images of each scene, under equal names:
      med train --noisy noisy/ --clean clean/ -o run/
      med train --pairs noisy/ -o run/                  noisy copies made by 'med synth-pairs'
      med train --method n2n --noisy first/ --noisy second/ -o run/
    A recipe of the zoo, or a model to go on from:
      med train --recipe photo --data images/ -o run/
      med train --init run/ --noise gaussian:5-50 --method n2n --data images/ -o fine/

    Then: med denoise photo.png --model run/

    --resume continues an interrupted run from its last checkpoint. Several GPUs or machines train
    together under torchrun: torchrun --nproc-per-node 4 -m medcli train ...
    """  # fmt: skip
    from medcli.cli.train_display import TrainDisplay
    from medcli.engine.memory import keep_freed_memory
    from medcli.train.choose import check_given, choose_method, choose_recipe, noise_weights
    from medcli.train.loop import Limits
    from medcli.train.run import TrainOptions
    from medcli.train.run_folder import run_folder, with_images
    from medcli.zoo.modelcard import portable

    check_given(recipe, pool, noise, options)
    quiet, stride, method_options = (options.pop(name) for name in ("quiet", "pd", "method_options"))
    limits = Limits(**{key: options.pop(key) for key in ("minutes", "save_every", "report_every")})
    options["range"] = chosen_range(options["range"], options.pop("range_from"), options["nodata"])
    of_run = {each.name: options.pop(each.name) for each in fields(TrainOptions) if each.name in options}
    options["options"] = assigned([*method_options, *([] if stride is None else [f"pd={stride}"])], "--option") or None
    options["config"] = assigned(options["config"], "--config") or None
    options["noises"] = noise_weights(pool, noise)
    given = {key: value for key, value in options.items() if value is not None}  # fields of Recipe
    pooled = not noise and pool != "camera" and not (of_run["noisy"] or of_run["pairs"])
    method = partial(choose_method, recipe, given, pooled=pooled)
    with run_folder(output, method, resume=of_run["resume"]) as folder:
        run = with_images(TrainOptions(folder, limits=limits, command=portable(["med", *sys.argv[1:]]), **of_run))
        chosen = choose_recipe(recipe, given, run, pooled=pooled)
        keep_freed_memory()
        is_main = os.environ.get("RANK", "0") == "0"  # under torchrun one process reports
        with TrainDisplay(chosen.steps, quiet=quiet or not is_main) as display:
            if output is None:
                display.say(f"the run goes to {folder} (-o names another folder)")
            _train(display, chosen, run, recipe, given)


def _train(display: TrainDisplay, chosen: Recipe, run: TrainOptions, name: str | None, given: dict[str, Any]) -> None:
    """name, given: the recipe and its fields on the command line."""
    from medcli.train.choose import free_sizes, frozen_recipe
    from medcli.train.run import train
    from medcli.zoo.modelcard import use
    from medcli.zoo.weights import read_card

    frozen = frozen_recipe(run)
    if run.data and run.data[0].is_file():
        display.say(f"{len(run.data)} images below the current folder, {Path.cwd()} (--data names another)")
    if name and frozen:
        display.say(f"{run.output} keeps the recipe that it was begun with: --recipe {name} is for new runs")
    run = replace(run, free=() if name or frozen else free_sizes(given), progress=display.say)
    path = train(chosen, run, display.report, display.say)
    if not display.quiet:  # processes that are not the first may be done before the file is there
        display.say(f"{path} is ready: {use(read_card(path), str(run.output), 'IMAGE')}")
