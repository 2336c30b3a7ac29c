"""From the options of a run to its task and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.batch.denoise.files import ImageFiles, Settings
from medcli.batch.denoise.inpaint import Inpaint, mask_of_each_job
from medcli.batch.denoise.options import BLACK, DenoiseOptions
from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.residuals import residual_targets
from medcli.batch.denoise.restore import Denoise, ImageTask
from medcli.batch.denoise.store_files import StoreFiles
from medcli.batch.denoise.work import DenoiseWork
from medcli.zoo.model import Model

if TYPE_CHECKING:
    from medcli.engine.denoiser import Denoiser


def prepare(
    options: DenoiseOptions, model: Model, jobs: Sequence[Job], load: Callable[[str, int | None], Denoiser]
) -> DenoiseWork:
    """What the run does with each image, where images come from and where they go. load: see `DenoiseWork`.

    Raises ModelError where the model was not trained for the task, InputError for masks that are missing.
    """
    task: ImageTask = Denoise(options.sliders())
    masks: dict[Job, Path] = {}
    if options.mask:
        model.capabilities.require_inpainting()
        masks = {} if options.mask == BLACK else mask_of_each_job(Path(options.mask), jobs, options.inputs)
        task = Inpaint(masks, options.max_pixels)
    elif options.upscale:
        from medcli.batch.denoise.upscale import Upscale  # imports torch

        filter_ = model.capabilities.upscale_filter(options.upscale)
        task = Upscale(options.upscale, filter_, options.sliders().strength, options.max_pixels, options.format)
    residual, is_folder = options.residual
    files = partial(
        StoreFiles if options.results_in_store else ImageFiles,
        settings_of(options, model),
        masks=masks,
        residuals=residual_targets(jobs, residual, folder=is_folder) if residual else {},
        max_pixels=options.max_pixels,
        keep_time=options.keep_time,
    )
    return DenoiseWork(load, files, task, model.gray_warning, residual is not None, options.encoding, options.depth)


def settings_of(options: DenoiseOptions, model: Model) -> Settings:
    """The options that change the bytes of a result."""
    shared = {each.name: getattr(options, each.name) for each in fields(Settings) if hasattr(options, each.name)}
    own = {
        "weights": model.checksums.blake2b,
        "upscale": options.upscale or 1,
        "mask": BLACK if options.mask else "",
        "sliders": options.sliders(),
        "development": options.development(),
        "range": str(options.range),
    }
    return Settings(**(shared | own))
