"""Workers that are actors of a Ray cluster; they hold a model, get paths and return what is printed, never pixels.

An actor gets no task before it is there, so actors for which the cluster has no room delay nothing and begin when a
node joins. None is restarted in place, and no call is retried by Ray: calls to an actor whose node is gone can wait for
ever. The head is asked by a plain connection, since most calls of Ray wait for a head that is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
import ray._private.worker
from ray.exceptions import RayActorError, RayError, RayTaskError

from medcli import __version__, cpu
from medcli.batch.executors.dispatch import GPU_HANDS, Died, Finished, Lost, Ready, Work, dispatch
from medcli.errors import DeviceError, MedcliError

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 10.0  # seconds for tasks in hand when the run is stopped, and for a head that does not answer
POLL = 1.0  # seconds between two looks at the head while no result comes


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to. workers, threads, hands: as of `Processes`. gpu: one per worker."""

    head: tuple[str, int]
    workers: int
    threads: int = 1
    gpu: bool = False
    hands: int = 1

    def run(self, work: Work[T, R], tasks: Iterable[T]) -> Generator[tuple[int, R | Lost], None, None]:
        """See `dispatch.Executor`."""
        yield from dispatch(_Crew(work, self), tasks, workers=self.workers, hands=self.hands)

    def check_head(self) -> None:
        """Raises MedcliError where the head has not answered for a while."""
        deadline = time.monotonic() + PATIENCE
        while not _answers(self.head):
            if time.monotonic() > deadline:
                raise MedcliError(
                    f"The head of the Ray cluster at {_address(self.head)} does not answer any more.",
                    "Start the cluster again and repeat the command: results that are complete are skipped.",
                )
            time.sleep(POLL)


def connect(address: str, device: str, workers: int | None, threads: int | None, hands: int) -> RayCluster:
    """Connects this process to the cluster.

    address: `host:port` of its head, or "auto" for the one that this machine belongs to. device: auto, cpu or cuda.
    workers: None for as many as there is room for now. threads: of each worker on the CPU, None for 1.
    Raises MedcliError where there is no cluster, DeviceError where it lacks the device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"Workers of a cluster cannot use --device {device}.", "Say cpu or cuda; Ray numbers GPUs.")
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise MedcliError(f"'{address}' is no address of a cluster.", "Say auto, or host:port of its head.")
    if address != "auto" and not _answers((host, int(port))):
        raise MedcliError(f"Nothing answers at {address}.", "Start a cluster with 'ray start --head'.")
    if hasattr(ray._private.worker, "print_to_stdstream"):  # it would mix reports of nodes into standard output
        ray._private.worker.print_to_stdstream = _silent
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError) as error:
        problem = f"There is no Ray cluster to be found: {_first_line(error)}"
        raise MedcliError(problem, "Start one with 'ray start --head', or give the address of its head.") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    head, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    room = ray.cluster_resources()
    gpu = device == "cuda" or (device == "auto" and room.get("GPU", 0) >= 1)
    if device == "cuda" and room.get("GPU", 0) < 1:
        raise DeviceError("The cluster has no GPU.", "Use --device cpu, or wait until its nodes are there.")
    fits = int(room["GPU"] if gpu else room.get("CPU", 0) // (threads or 1))
    return RayCluster((head, int(port)), workers or max(1, fits), threads or 1, gpu, GPU_HANDS if gpu else hands)


class Worker:
    """What an actor is made of. folder: the working directory of the command, which relative paths start from."""

    def __init__(self, work: Work[Any, Any], device: str, threads: int, folder: str) -> None:
        self._work, self._device, self._threads, self._folder = work, device, threads, folder

    def open(self) -> MedcliError | None:
        """What is wrong here, if anything is."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            return MedcliError(
                f"The node {socket.gethostname()} has no folder {self._folder}: {error.strerror}.",
                "All nodes must see the images under the same paths, or work on s3:// and the like.",
            )
        cpu.use_threads(self._threads)
        try:
            self._do = self._work.opened(self._device)
        except MedcliError as error:
            return error
        return None

    def version(self) -> str:
        return __version__

    def do(self, task: Any) -> Any:
        return self._do(task)

    def leave(self) -> None:
        """Ends the actor after what it has in hand."""
        if close := getattr(self._do, "close", None):
            close()
        ray.actor.exit_actor()


class _Crew(Generic[T, R]):
    """See `dispatch.Crew`."""

    def __init__(self, work: Work[T, R], cluster: RayCluster) -> None:
        self._cluster = cluster
        self._arguments = (work, "cuda" if cluster.gpu else "cpu", cluster.threads, str(Path.cwd()))
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, int | None]] = {}  # the worker of each call, and its task: None for opening
        self._leaving: list[tuple[Any, Any]] = []  # actors without a task, and the calls that end them
        self._looked = time.monotonic()
        self._headless = False

    def hire(self, place: int) -> None:
        self._check_head()
        options: dict[str, Any] = {"num_cpus": self._cluster.threads, "num_gpus": int(self._cluster.gpu)}
        options |= {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": self._cluster.hands}
        actor = ray.remote(**options)(Worker).remote(*self._arguments)
        self._actors[place] = actor
        self._calls[actor.open.remote()] = place, None

    def give(self, place: int, number: int, task: T) -> None:
        self._calls[self._actors[place].do.remote(task)] = place, number

    def release(self, place: int) -> None:
        actor = self._actors.pop(place)
        self._leaving.append((actor, actor.leave.remote()))

    def events(self) -> Iterator[Ready | Finished[R] | Died]:
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=POLL)
        if time.monotonic() > self._looked + POLL:
            self._check_head()
        for call in done:
            place, number = self._calls.pop(call)
            try:
                result = ray.get(call)
            except RayError as error:
                self._check_head()
                self._bury(place)
                yield Died(place, _how(error))
                continue
            if number is None and result is not None:
                raise result
            yield Ready(place) if number is None else Finished(place, number, result)

    def close(self) -> None:
        if self._headless:
            return
        in_hand = [call for call, (_, number) in self._calls.items() if number is not None]
        if in_hand:
            ray.wait(in_hand, num_returns=len(in_hand), timeout=PATIENCE)
        opening = {place for place, number in self._calls.values() if number is None}
        for place in self._actors.keys() - opening:
            self.release(place)
        if self._leaving:
            ray.wait([call for _, call in self._leaving], num_returns=len(self._leaving), timeout=PATIENCE)
        for actor in (*self._actors.values(), *(actor for actor, _ in self._leaving)):
            ray.kill(actor)

    def _bury(self, place: int) -> None:
        self._calls = {call: whose for call, whose in self._calls.items() if whose[0] != place}
        with suppress(RayError):
            ray.kill(self._actors.pop(place))

    def _check_head(self) -> None:
        try:
            self._cluster.check_head()
        except MedcliError:
            self._headless = True
            raise
        self._looked = time.monotonic()


def _silent(*_arguments: Any, **_options: Any) -> None:
    """In place of what prints."""


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=2).close()
    except OSError:
        return False
    return True


def _address(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _how(error: RayError) -> str:
    """What became of an actor, in words."""
    if isinstance(error, RayTaskError):
        return f"raised {error.cause!r}"
    if isinstance(error, RayActorError):
        return f"is gone: {_first_line(error)}"
    return f"failed: {_first_line(error)}"
