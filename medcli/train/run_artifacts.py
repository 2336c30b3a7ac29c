"""What a run leaves for people to look at: curves, images of the validation set, events for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcli.data.crops import SampleSource
from medcli.engine.strategies import parse
from medcli.errors import InputError
from medcli.images.contact_sheet import contact_sheet
from medcli.methods.base import EstimatesNoise, Method, ShowsImages
from medcli.train import curves
from medcli.train.auto_options import patches
from medcli.train.hardware import Hardware
from medcli.train.noise_plot import NoiseNetwork, plot_noise
from medcli.train.tensorboard import TensorBoardWriter
from medcli.train.validation import Validation, exported, fitting, in_place, strategy_of
from medcli.train.validation_page import ValidationPage

PAUSE = 60.0  # seconds between two drawings of the curves, which take about one
ROWS = 6
Line = dict[str, float]


class RunArtifacts:
    """Passes each line of the log on to `report`, and draws from time to time into the run's folder."""

    def __init__(self, folder: Path, report: Callable[[Line], None]) -> None:
        self.folder, self._report = folder, report
        self._page = ValidationPage(folder)
        self._board = TensorBoardWriter.open(folder / "events")
        self._drawn = time.monotonic()

    def __call__(self, line: Line) -> None:
        self._report(line)
        if self._board:
            self._board.scalars(line)
        if time.monotonic() - self._drawn > PAUSE:
            self.draw()

    def draw(self) -> None:
        """curves.png as the log stands."""
        curves.draw(self.folder / "log.jsonl", self.folder / "curves.png")
        self._drawn = time.monotonic()

    def show(self, validation: Validation, method: Method, network: nn.Module, hardware: Hardware, step: int) -> None:
        """validation.png: noisy, restored, the noise taken away, and the clean image where there is one."""
        columns = _columns(validation, method, network, hardware)
        path = self.folder / "validation.png"
        contact_sheet(list(zip(*map(_images, columns.values()), strict=True)), list(columns), path)
        if self._board:
            self._board.image(path, step)

    def show_step(
        self, validation: Validation, method: Method, hardware: Hardware, network: nn.Module, step: int
    ) -> None:
        """Adds the step to validation.html."""
        columns = _columns(validation, method, network, hardware)
        self._page.add(step, columns["noisy"], columns["restored"], columns.get("clean"))
        validation.source.release()

    def show_noise(self, sampler: NoiseNetwork, source: SampleSource) -> None:
        """noise.png: learned noise beside the real one; nothing where no image has a flat place."""
        seen = patches(source)
        with suppress(InputError):
            plot_noise(sampler, seen.noisy, seen.clean, self.folder / "noise.png")

    def close(self) -> None:
        if self._board:
            self._board.close()


def _columns(validation: Validation, method: Method, network: nn.Module, hardware: Hardware) -> dict[str, Tensor]:
    """The first patches, (B, C, H, W): noisy, restored, estimated noise about mid-gray, and clean where it is known."""
    batch, strategy = next(validation.batches(hardware)), parse(strategy_of(method))  # noise is drawn in fp32
    with torch.no_grad(), in_place(method.model, network), hardware.autocast():
        shown = exported(method, method.model)
        noisy = fitting(batch.noisy, shown, strategy)
        restored = strategy(shown, noisy).float()
        noise = method.noise(noisy).float() if isinstance(method, EstimatesNoise) else noisy - restored
        others = method.shown(batch) if isinstance(method, ShowsImages) else {}
    columns = {"noisy": noisy, "restored": restored, "estimated noise": noise + 0.5}
    if batch.clean is not None and validation.by_psnr:
        columns["clean"] = fitting(batch.clean, shown, strategy)
    return {**columns, **{name: image.float() for name, image in others.items()}}


def _images(batch: Tensor) -> list[NDArray[Any]]:
    """(B, C, H, W) -> the first few as (H, W, C)."""
    return list(batch[:ROWS].permute(0, 2, 3, 1).cpu().numpy())
