"""`med synth-pairs`: its options. What it does is in `medcli.cli.synth_run`, imported when the command is called."""

from __future__ import annotations

import re
from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Make a noisy copy of every clean image, with the same relative path and bit depth.

\b
Examples:
  med synth-pairs --from clean/ --to noisy/                       the pool 'noise'
  med synth-pairs --from clean/ --to noisy/ --noise gaussian:25
  med synth-pairs --from clean/ --to noisy/ --pool mine.yaml --count 4 --seed 1
  med synth-pairs --from clean/ --to noisy/ --like mine/          noise as in your own noisy images, of any scenes
  med synth-pairs --from clean/ --to noisy/ --model run/          a noise model trained before
  med eval -m photo --clean clean/ --noisy noisy/                 then measure a model on the pairs

Noise is added in float to the colours, never to alpha. Integers are clipped to black and white after the last component
and rounded; floats are neither. For a clip in between, write it: gaussian:25+clip+speckle:25. Depth, gray, alpha,
profile and metadata come back as they were.

\b
Names and formats:
  PNG, TIFF, BMP   keep their name and format, if it can hold the depth
  JPEG, WebP       become .png, as compression would change the noise
  --count N        one folder per draw, 0000/ to N-1, each a whole mirror of the clean folder, so that
                   'med eval' and 'med train' pair each of them by name
  pairs.jsonl      one line per output: source, noise drawn with its parameters, seed, number of the
                   draw, SHA-256 of both files, protocol, version

A draw depends on the seed, the noise and the image's relative name alone: neither the number of workers nor what
else is in the folder changes it. Draw 0 is what 'med eval --noise SPEC' adds to the same image with the same seed.

Run it again to continue: noisy copies that are up to date (same noise, seed, depth and clean file) are skipped, other
results of earlier runs are made again. Files that med did not create are kept unless --overwrite is given.

\b
Noise as in your own images:
  --like           first trains a noise model on the images in a folder; the clean images may show other scenes. The
                   time it takes is measured and printed. The model is kept in TO/.noise-model, with an image of its
                   noise beside the real one, for use with --model. If interrupted, the same command continues. A
                   model that was trained on other images or settings is not used: --overwrite trains a new one
  --minutes        of training  [default: the steps of the recipe 'ludvae', whatever they take]
  -m, --model      a model to start from, for a shorter training
  --option, --config  as of 'med train --method ludvae': match=true, width=16 ...

\b
A model instead of a noise, or after --like:
  --sigma          of the white noise under which the model reads what an image shows: the higher, the more noise
                   comes out  [default: from the model's sigma_y, which gives what was learned, to its sigma_x]
  --temperature    factor on what the model draws: 1 as learned, 0 for none
  --direction      noisy-to-clean makes clean copies of noisy images  [default: clean-to-noisy]

Every option can be set in the environment: MED_SYNTH_PAIRS_SEED, ...
"""

RANGE = re.compile(r"(\d+\.?\d*|\.\d+)(?:-(\d+\.?\d*|\.\d+))?")


def span(value: str) -> tuple[float, float]:
    """`25` or `5-50`: a number, 0 or more, or two of them."""
    if not (match := RANGE.fullmatch(value)):
        raise click.BadParameter(f"'{value}' is neither a number such as 25 nor a range such as 5-50.")
    return float(match[1]), float(match[2] or match[1])


@click.command(name="synth-pairs", help=HELP, epilog=EXIT_CODES)
@click.option("--from", "clean", required=True, type=options.EXISTING_FOLDER, metavar="DIR",
              help="Folder of clean images, with its subfolders.")  # fmt: skip
@click.option("--to", "noisy", required=True, type=options.FOLDER, metavar="DIR",
              help="Folder for the noisy copies; neither may lie in the other.")  # fmt: skip
@click.option("--noise", metavar="SPEC", help="Noise to add, such as gaussian:25 or poisson:30+gaussian:5-10.")
@click.option("--pool", type=options.name_or_path, metavar="NAME|YAML",
              help="Noises to draw from, one per image.  [default: noise]")  # fmt: skip
@options.model_option("A noise model.")
@click.option(
    "--like", type=options.EXISTING_FOLDER, metavar="DIR", help="Folder of noisy images whose noise to learn."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="With --like.  [default: see above]")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="With --like: of the method.")
@click.option("--config", multiple=True, metavar="NAME=VALUE", help="With --like: of the network.")
@click.option("--sigma", type=span, metavar="LOW-HIGH", help="Of a model: in grey levels.  [default: see above]")
@click.option("--temperature", type=span, metavar="LOW-HIGH", help="Of a model.  [default: 1]")
@click.option("--direction", type=click.Choice(["clean-to-noisy", "noisy-to-clean"]), help="Of a model.")
@click.option("--device", type=options.devices, metavar="DEVICE,...", help="Of a model.  [default: auto]")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Draws per image.")
@click.option("--depth", type=click.Choice(["8", "16", "float"]), help="Of the copies.  [default: as the clean file]")
@click.option("--format", type=options.ImageFormat(["png", "tiff", "bmp"]), help="Of the copies.  [default: as above]")
@options.range_options()
@options.worker_options("--processes", default="cores")
@options.threads(exposed=True, help="Of training with --like, and the default of --workers.  [default: cores]")
@click.option("--overwrite", is_flag=True, help="Replace any file; make again what is up to date.")
@options.run_options(dry_run="Say what would be done, and do nothing.")
def command(**params: Any) -> None:
    from medcli.batch.synth.options import SynthPairsOptions
    from medcli.cli.synth_run import run_synth_pairs

    of_model: dict[str, Any] = {name: options.assigned(params.pop(name), f"--{name}") for name in ("option", "config")}
    run_synth_pairs(SynthPairsOptions(**params, **of_model))
