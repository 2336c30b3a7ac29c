"""Workers that are processes of this machine, each with a pipe to this one; one that dies costs only its tasks in hand.

Workers are spawned, so nothing of this process leaks into them. They ignore signals: whoever started them decides when
to stop. When their pipe closes, because there is nothing left to do or because this process is gone, they finish the
tasks in hand and end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Lock
from typing import Any, Generic, TypeVar

from medcli import cpu
from medcli.batch.executors.dispatch import Died, Finished, Lost, Ready, Work, dispatch
from medcli.errors import MedcliError

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 10.0  # seconds that a worker has to end its last tasks once no result is waited for


@dataclass(frozen=True)
class Processes:
    """workers: their number. devices: of the workers, in turn. threads: that compute in each of them on a CPU.

    hands: tasks in each worker at once, so that one is read and another written while a third is computed.
    """

    workers: int
    devices: Sequence[str] = ("auto",)
    threads: int = 1
    hands: int = 1

    def run(self, work: Work[T, R], tasks: Iterable[T]) -> Generator[tuple[int, R | Lost], None, None]:
        """See `dispatch.Executor`."""
        yield from dispatch(_Crew(work, self), tasks, workers=self.workers, hands=self.hands)


class _Crew(Generic[T, R]):
    """See `dispatch.Crew`."""

    def __init__(self, work: Work[T, R], options: Processes) -> None:
        self._work, self._options = work, options
        self._context = get_context("spawn")
        self._started: list[SpawnProcess] = []
        self._pipes: dict[int, Connection] = {}
        self._processes: dict[int, SpawnProcess] = {}

    def hire(self, place: int) -> None:
        here, there = self._context.Pipe()
        device = self._options.devices[place % len(self._options.devices)]
        arguments = (there, self._work, device, self._options.threads, self._options.hands)
        process = self._context.Process(target=_serve, args=arguments)
        with _signals_held():
            process.start()
        there.close()
        self._started.append(process)
        self._pipes[place], self._processes[place] = here, process

    def give(self, place: int, number: int, task: T) -> None:
        with suppress(OSError):  # it has just died, which the pipe will report
            self._pipes[place].send((number, task))

    def release(self, place: int) -> None:
        self._pipes.pop(place).close()

    def events(self) -> Iterator[Ready | Finished[R] | Died]:
        ready = wait(list(self._pipes.values()))
        for place, pipe in list(self._pipes.items()):
            if pipe in ready:
                yield self._event(place, pipe)

    def _event(self, place: int, pipe: Connection) -> Ready | Finished[R] | Died:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            self._pipes.pop(place).close()
            process = self._processes[place]
            process.join()
            return Died(place, _end(process.exitcode or 0))
        if isinstance(message, MedcliError):
            raise message
        return Ready(place) if message is None else Finished(place, *message)

    def close(self) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        deadline = time.monotonic() + PATIENCE
        for process in self._started:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():  # it may be caught in a decoder; a file that it writes is not there until complete
                process.kill()
                process.join()


def _end(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _serve(pipe: Connection, work: Work[Any, Any], device: str, threads: int, hands: int) -> None:
    """The life of a worker. Its first message is None, or the error of its work; then (number, result) of each task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cpu.use_threads(threads)
    sending = Lock()
    try:
        do = work.opened(device)
    except MedcliError as error:
        pipe.send(error)
        return

    def one(number: int, task: Any) -> None:
        try:
            result = do(task)
            with sending, suppress(OSError):  # nobody waits for it any more
                pipe.send((number, result))
        except BaseException:  # a mistake of ours ends the process, and with it the task
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    with suppress(EOFError, OSError), ThreadPoolExecutor(hands) as pool:
        pipe.send(None)
        while True:
            pool.submit(one, *pipe.recv())
    if close := getattr(do, "close", None):
        close()


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
