"""`med eval`: its options. What it does is in `medcli.cli.eval_run`, imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Measure denoisers on pairs of noisy and clean images.

\b
Examples:
  med eval -m photo --clean kodak/ --noise gaussian:25
  med eval -m photo -m run/ --classical bm3d --clean kodak/ --noise gaussian:15 --noise noise
  med eval -m photo --clean real/clean/ --noisy real/noisy/ --markdown scores.md

The noisy input is always the first row. Every table says how its numbers were made: the noise, whether it was clipped
or rounded, and what was scored. Figures are the mean over images, ± their standard deviation; a gain is PSNR over
that of the noisy input.

\b
Where the noisy images come from:
  --noise SPEC   noise is added to the clean ones in float; may be given again, one table each
  --noisy DIR    pairs of files, matched by relative path; the extension may differ

\b
Metrics:
  psnr           in dB, over all channels, always there
  ssim           11x11 Gaussian window, sigma 1.5, population covariance
  ssim7          7x7 uniform window, sample covariance: scikit-image's own choice
  ms-ssim        five scales; sides of at least 176 pixels
  lpips, fid     lower is better; only with weights that are on this machine, nothing is downloaded

Figures are measured where the range of the values, as 'med denoise' finds it or --range says, is [0, 1]: PSNR has its
width for a peak. Both images of a pair are put on one scale, and clipped to it.
Pixels without data in one of them (NaN, infinity, GDAL's nodata, --nodata VALUE) do not count in PSNR, nor do
SSIM's windows around them.

A draw of noise depends on the seed, the noise and the image's relative name alone, so neither order nor number of
files changes it.
"""
CLASSICAL = ("bm3d", "nlm", "wavelet")


@click.command(name="eval", help=HELP, epilog=EXIT_CODES)
@options.model_option("A model's name, a weight file or a run's folder; may be given again.", "models", multiple=True)
@click.option("--clean", required=True, type=options.EXISTING_FOLDER, metavar="DIR",
              help="Folder of clean images, with its subfolders.")  # fmt: skip
@click.option("--noisy", type=options.EXISTING_FOLDER, metavar="DIR", help="Folder of noisy images of the same names.")
@click.option("--noise", multiple=True, metavar="SPEC", help="Noise to add, such as gaussian:25; may be given again.")
@click.option("--clip/--no-clip", default=None, help="Clip to [0, 1] after each component of --noise.  [default: no]")
@click.option("--round/--no-round", "rounded", default=None,
              help="Give methods, and score, integers: 8 bits with --noise, the file's with --noisy.  "
                   "[default: with --noisy]")  # fmt: skip
@click.option("--seed", "noise_seed", type=int, default=0, show_default=True, envvar="MED_EVAL_SEED",
              help="Random seed of the noise.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many images, spread evenly.")
@click.option("--metrics", default="psnr,ssim,ssim7", show_default=True, metavar="LIST", help="Separated by commas.")
@click.option("--classical", multiple=True, type=click.Choice(CLASSICAL),
              help="A denoiser that was not trained; may be given again.")  # fmt: skip
@click.option("--csv", type=options.FILE, metavar="FILE", help="One line per image.")
@click.option("--json", type=options.FILE, metavar="FILE", help="All there is.")
@click.option("--markdown", type=options.FILE, metavar="FILE", help="The tables.")
@options.device_options("fp32", "fp16", "bf16", help="For models.", several=True)
@options.runtime_option()
@click.option("--ensemble", is_flag=True, help="Models: mean over eight flips and turns.")
@options.sharpen_options()
@click.option("--strength", type=options.strength, default=1.0, show_default="1", metavar="0..1", help="Of models.")
@options.tile_option("Of models.")
@options.threads(exposed=True)
@options.worker_options()
@options.range_options(nodata=True)
@options.run_options(quiet="No bar; only tables and errors.")
def command(**params: Any) -> None:
    from medcli.batch.evaluate.plan import EvalOptions
    from medcli.cli.eval_run import run_eval

    run_eval(EvalOptions(**params))
