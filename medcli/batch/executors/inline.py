"""The tasks of a run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from medcli.batch.executors.dispatch import Lost, Work

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Inline:
    """device: of the work. threads: that compute, None for as many as before; with 1 sums are made as in a worker."""

    device: str = "auto"
    threads: int | None = None
    workers: int = 1

    def run(self, work: Work[T, R], tasks: Iterable[T]) -> Generator[tuple[int, R | Lost], None, None]:
        """See `dispatch.Executor`."""
        with _threads(self.threads):
            do = work.opened(self.device)
            for number, task in enumerate(tasks):
                yield number, do(task)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
