"""Which worker does which task, whatever the workers are: processes of this machine, or actors of a cluster.

Tasks are taken from their source one by one, as workers become free, and belong to no worker before that. A task whose
worker dies is done again by another one; since any task in the hands of a dead worker may have killed it, such tasks
are then done alone. One that was in the hands of `DEATHS` dead workers is given up, and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from medcli.errors import MedcliError

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

DEATHS = 3
GPU_HANDS = 3  # tasks of a worker with a GPU: one image is read, one is in the network, one is written


class Work(Protocol[T_contra, R_co]):
    """What each worker of a run does. It is pickled once for each of them; tasks and results are pickled too."""

    def opened(self, device: str) -> Callable[[T_contra], R_co]:
        """Called once in a worker, on whose device it computes: "auto", "cuda:1" ... Raises MedcliError.

        What it returns is called with each task, perhaps by several threads at once, and does not raise. If it has a
        method `close`, that is called when the worker is let go.
        """


class Executor(Protocol):
    """Where the tasks of a run are done."""

    @property
    def workers(self) -> int:
        """How many workers there are, for those who report speeds."""

    def run(self, work: Work[T, R], tasks: Iterable[T]) -> Generator[tuple[int, R | Lost], None, None]:
        """(number of a task from 0 on, its result) as they come in.

        Closing the generator leaves no worker behind, and lets tasks in hand be finished if that does not take long.
        Raises what `work.opened` raises, and MedcliError where no worker can be had any more.
        """


@dataclass(frozen=True)
class Lost:
    """What is known of a task whose workers died. how: `was killed by signal 9`."""

    how: str


@dataclass(frozen=True)
class Ready:
    """Worker number `place` has opened its work."""

    place: int


@dataclass(frozen=True)
class Finished(Generic[R]):
    """Worker number `place` has the result of task `number`."""

    place: int
    number: int
    result: R


@dataclass(frozen=True)
class Died:
    """Worker number `place` is gone; how: `was killed by signal 9`."""

    place: int
    how: str


class Crew(Protocol[T_contra, R]):
    """The workers of a run, numbered from 0."""

    def hire(self, place: int) -> None:
        """Starts worker number `place`; an event says when it is ready."""

    def give(self, place: int, number: int, task: T_contra) -> None:
        """One more task for a worker that is ready."""

    def release(self, place: int) -> None:
        """Lets a worker go that has nothing in hand."""

    def events(self) -> Iterable[Ready | Finished[R] | Died]:
        """Waits until something has happened. Raises MedcliError where a worker cannot open its work."""

    def close(self) -> None:
        """Lets all workers go, at once or after the tasks in hand."""


def dispatch(
    crew: Crew[T, R], tasks: Iterable[T], *, workers: int, hands: int = 1
) -> Generator[tuple[int, R | Lost], None, None]:
    """Does the tasks, see `Executor.run`. hands: how many tasks a worker gets at once."""
    board = _Board(crew, iter(tasks), hands)
    try:
        for place in range(min(workers, board.seen(workers))):
            board.hire(place)
        while board.unfinished():
            for event in crew.events():
                yield from board.told(event)
    finally:
        crew.close()


class _Board(Generic[T, R]):
    """The tasks that are left, and who holds which."""

    def __init__(self, crew: Crew[T, R], tasks: Iterator[T], hands: int) -> None:
        self._crew, self._tasks, self._hands = crew, enumerate(tasks), hands
        self.holds: dict[int, dict[int, T]] = {}  # tasks by the number of each worker that was hired and not released
        self._next: deque[tuple[int, T]] = deque()  # taken already, to see whether there are any
        self._suspects: deque[tuple[int, T]] = deque()
        self._deaths: dict[int, int] = {}  # of workers that held a task, by its number
        self._idle_deaths = 0  # in a row, of workers that held nothing

    def hire(self, place: int) -> None:
        self._crew.hire(place)
        self.holds[place] = {}

    def unfinished(self) -> bool:
        """Whether there is anything left to do; workers that are not ready by then are not waited for."""
        return bool(any(self.holds.values()) or self._suspects or self.seen(1))

    def seen(self, count: int) -> int:
        """How many tasks nobody has had yet, up to `count`."""
        while len(self._next) < count and (task := next(self._tasks, None)) is not None:
            self._next.append(task)
        return len(self._next)

    def told(self, event: Ready | Finished[R] | Died) -> Iterator[tuple[int, R | Lost]]:
        """What follows from an event: results, and tasks for those who are free."""
        if isinstance(event, Died):
            yield from self._buried(event)
            return
        self._idle_deaths = 0
        if isinstance(event, Finished):
            del self.holds[event.place][event.number]
            self._deaths.pop(event.number, None)
            yield event.number, event.result
        self._fill(event.place)

    def _fill(self, place: int) -> None:
        held = self.holds[place]
        while len(held) < self._hands and not any(number in self._deaths for number in held):
            if self._suspects:
                if held:
                    return  # soon it is free to do a suspect alone
                number, task = self._suspects.popleft()
            elif self.seen(1):
                number, task = self._next.popleft()
            else:
                break
            held[number] = task
            self._crew.give(place, number, task)
        if not held:
            del self.holds[place]
            self._crew.release(place)

    def _buried(self, event: Died) -> Iterator[tuple[int, Lost]]:
        held = self.holds.pop(event.place)
        self._idle_deaths = 0 if held else self._idle_deaths + 1
        if self._idle_deaths == DEATHS:
            raise MedcliError(
                f"The workers of this run cannot work: {DEATHS} in a row died without a task; the last {event.how}.",
                "What they wrote on standard error may say why. Without --workers and --cluster this process works.",
            )
        for number, task in held.items():
            self._deaths[number] = self._deaths.get(number, 0) + 1
            if self._deaths[number] == DEATHS:
                del self._deaths[number]
                yield number, Lost(event.how)
            else:
                self._suspects.append((number, task))
        if self._suspects or self.seen(1):
            self.hire(event.place)
