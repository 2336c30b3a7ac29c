"""Work shared among processes: each has one task at a time and a pipe to this one; one that dies costs only its task.

Workers are spawned, so nothing of this process leaks into them, and compute on one thread each. They heed no signal:
whoever hired them decides when to stop. When their pipe closes, because there is nothing left to do or because this
process is gone, they finish the task in hand and end.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

import cv2
import torch

T = TypeVar("T")
R = TypeVar("R")


PATIENCE = 10.0  # seconds that a worker has to end its last task once no result is waited for


@dataclass(frozen=True)
class Lost:
    """What is known of a task whose process died. how: `was killed by signal 9`."""

    how: str


def spread(work: Callable[[T], R], tasks: Sequence[T], processes: int) -> Generator[tuple[int, R | Lost], None, None]:
    """(number of a task, its result) as they come in; one process is this one.

    work: what can be pickled, with the tasks and their results, and does not raise. Closing the generator leaves no
    process behind, and lets tasks in hand be finished if that takes no longer than PATIENCE.
    """
    if processes == 1:
        yield from _alone(work, tasks)
    else:
        yield from _Crew(work, tasks).results(processes)


def _alone(work: Callable[[T], R], tasks: Sequence[T]) -> Generator[tuple[int, R], None, None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    _use_threads(1, 1)  # as in a worker, so that the same sums are made in the same order
    try:
        yield from ((number, work(task)) for number, task in enumerate(tasks))
    finally:
        _use_threads(*before)


def _use_threads(torch_threads: int, opencv_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(opencv_threads)


class _Crew(Generic[T, R]):
    """The workers, and who is at work on what."""

    def __init__(self, work: Callable[[T], R], tasks: Sequence[T]) -> None:
        self._work, self._todo = work, deque(enumerate(tasks))
        self._context = get_context("spawn")
        self._hired: list[SpawnProcess] = []
        self._busy: dict[Connection, tuple[SpawnProcess, int]] = {}

    def results(self, processes: int) -> Generator[tuple[int, R | Lost], None, None]:
        try:
            for _ in range(min(processes, len(self._todo))):
                self._hire()
            while self._busy:
                ready = wait(list(self._busy))
                yield from [self._received(pipe) for pipe in list(self._busy) if pipe in ready]
        finally:
            for pipe in self._busy:
                pipe.close()
            for process in self._hired:
                process.join(PATIENCE)
                if process.is_alive():  # it may be caught in a decoder; a file that it writes is not there until whole
                    process.kill()
                    process.join()

    def _hire(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._work))
        with _signals_held():
            process.start()
        there.close()
        self._hired.append(process)
        self._give(here, process)

    def _give(self, pipe: Connection, process: SpawnProcess) -> None:
        """The next task; where none is left, the worker is let go."""
        if not self._todo:
            pipe.close()
            return
        number, task = self._todo.popleft()
        self._busy[pipe] = process, number
        with suppress(OSError):  # it has just died, which the pipe will report
            pipe.send(task)

    def _received(self, pipe: Connection) -> tuple[int, R | Lost]:
        process, number = self._busy.pop(pipe)
        try:
            result: R = pipe.recv()
        except (EOFError, OSError):
            pipe.close()
            process.join()
            if self._todo:
                self._hire()
            return number, Lost(_end(process.exitcode or 0))
        self._give(pipe, process)
        return number, result


def _end(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _serve(pipe: Connection, work: Callable[[T], R]) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _use_threads(1, 1)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(work(pipe.recv()))


@contextmanager
def _signals_held() -> Iterator[None]:
    """A process that is started here ignores Ctrl-C while it imports, and obeys it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
