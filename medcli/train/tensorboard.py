"""The log for those who watch it in TensorBoard, where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from medcli.train.curves import INPUT, is_figure, is_term


class _Writer(Protocol):
    """What is used of `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None: ...

    def close(self) -> None: ...


class TensorBoardWriter:
    """Writes an event file into a folder, from the first line on.

    start: makes the writer; its argument is the step from which events of an interrupted run no longer hold.
    """

    def __init__(self, start: Callable[[int], _Writer]) -> None:
        self._start = start
        self._writer: _Writer | None = None

    @classmethod
    def open(cls, folder: Path) -> TensorBoardWriter | None:
        """A board that writes into `folder`, or None where the package `tensorboard` is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return cls(lambda step: SummaryWriter(str(folder), purge_step=step))

    def scalars(self, line: Mapping[str, float]) -> None:
        """The figures of one line of the log, at its "step": under loss/, validation/ and run/."""
        step = int(line["step"])
        for name, value in line.items():
            if name != "step":
                self._at(step).add_scalar(f"{_part(name)}/{name.removeprefix('val_')}", value, step)

    def image(self, path: Path, step: int) -> None:
        """An image file, such as the grid, under validation/."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._at(step).add_image("validation/images", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still held back."""
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> _Writer:
        self._writer = self._writer or self._start(step)
        return self._writer


def _part(name: str) -> str:
    """The heading of TensorBoard that a name of the log goes under."""
    if is_term(name):
        return "loss"
    return "validation" if is_figure(name) or name == INPUT else "run"
