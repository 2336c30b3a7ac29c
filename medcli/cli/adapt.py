"""`med adapt`: its options. What it does is in `medcli.cli.adapt_run`, imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Let a model learn from your own noisy images, then denoise them with it.

\b
Examples:
  med adapt cells.png --minutes 3 -o clean.png
  med adapt scans/ --minutes 10 -o clean/ --save mine.safetensors
  med adapt cells.png --compare page.html   shows held-out rows before and after
  med adapt cells.png --dry-run             only measures the noise

No clean image is needed. The model learns to predict hidden pixels from those around them. Some rows of each
image are held out: on them, both models are compared, and the adapted model is used only where it is clearly
better; otherwise the model as it was. The adapted weights are kept beside the results, or where --save says.

\b
Methods:
  noise2vst   learns a transform of the values that suits the model, and leaves the model as it is: for noise that
              depends on the brightness. The default for gray images; takes a minute or two.
  n2s         trains the model itself. The default for colour.
  amsnet      trains a blind-spot model; the default for these.

Spatially correlated noise, as after demosaicking and JPEG, needs a blind-spot model ('med train --method amsnet'),
which learns in sub-images of pixels that are far enough apart. Other models need noise that is independent from pixel
to pixel, as that of microscopes and scientific cameras mostly is; otherwise med denoises with the model as it is.
Results go where those of 'med denoise' go.
"""


@click.command(name="adapt", help=HELP, epilog=EXIT_CODES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=options.PATH)
@options.output_option("File or folder.")
@options.model_option("The model to start from.", default="photo")
@click.option("--method", metavar="NAME", help="How to adapt.  [default: by the images and the model]")
@click.option("--minutes", default=5.0, show_default="5", type=click.FloatRange(min=0, min_open=True),
              help="How long to train.")  # fmt: skip
@click.option("--save", metavar="FILE", type=options.FILE,
              help="Where the adapted weights go.  [default: beside the results]")  # fmt: skip
@click.option("--compare", metavar="FILE.html", type=options.FILE,
              help="Write a page that shows held-out rows before and after.")  # fmt: skip
@click.option("--seed", "train_seed", default=0, show_default=True, type=int, envvar="MED_ADAPT_SEED",
              help="Random seed.")  # fmt: skip
@options.device_options("fp32", "bf16")
@options.threads()
@options.range_options(nodata=True)
@options.recursive_option
@options.run_options(force="Overwrite.", dry_run="Measure the noise and say what would be done.")
def command(**params: Any) -> None:
    from medcli.cli.adapt_run import AdaptOptions, run_adapt

    run_adapt(AdaptOptions(**params))
