"""The pipeline: while one image is in the network, the next is being read and the last is being written.

Reading and writing happen in threads, the network in the caller's thread. Images in memory are bounded by count and
by bytes: a large one travels alone. An image that fails is reported and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

from medcli.batch.denoise.plan import STREAM, Job
from medcli.batch.denoise.report import ImageStats, Outcome
from medcli.errors import InputError, MedcliError, OutputError, ran_out
from medcli.images import DecodedImage
from medcli.images.reader import READER

AHEAD = 2  # images being read or waiting for the network
BEHIND = 2  # images being written
BUDGET = 256 << 20  # bytes of pixels in memory above which no further image is read ahead

# What ends one image alone; of the last two kinds, only those that say that memory ran out.
FAILURES = (MedcliError, OSError, MemoryError, RuntimeError, ImportError)

T = TypeVar("T")
Restore = Callable[[Job, DecodedImage], ImageStats]


@dataclass(frozen=True)
class Stages:
    """What an image passes through.

    read: called in a thread. prepare: called once, while the first image is being read; what it returns denoises a
    image in place. write: called in a thread.
    """

    read: Callable[[Job], DecodedImage]
    prepare: Callable[[], Restore]
    write: Callable[[Job, DecodedImage], None]


class Lookahead(Generic[T]):
    """Items that are taken one by one from where they come, with the knowledge whether there is one more."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items, self._next = iter(items), list[T]()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(islice(self._items, 1))
        return bool(self._next)

    def popleft(self) -> T:
        """The next one, of which there must be one."""
        assert self
        return self._next.pop()


def run(jobs: Iterable[Job], stages: Stages, *, budget: int = BUDGET) -> Generator[Outcome, None, None]:
    """Does the jobs and yields what became of each, in their order.

    Raises only what `prepare` raises. Stopping early (closing the iterator, Ctrl-C) lets a write in progress finish,
    but waits for no reader: a decoder may hang.
    """
    readers = ThreadPoolExecutor(AHEAD, READER)
    with ThreadPoolExecutor(BEHIND, "med-write") as writers:
        try:
            yield from _Pipeline(Lookahead(jobs), stages, readers, writers, budget).outcomes()
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


class OneByOne:
    """Does single jobs, as a worker gets them. Threads may share it; one at a time is in the network.

    close: called after the last one.
    """

    def __init__(self, stages: Stages, close: Callable[[], None]) -> None:
        """Raises what `prepare` raises."""
        self.close = close
        self._stages, self._restore, self._network = stages, stages.prepare(), Lock()

    def __call__(self, job: Job) -> Outcome:
        try:
            image = self._stages.read(job)
            with self._network:
                facts = self._restore(job, image)
        except FAILURES as error:
            return Outcome(job, "failed", error=_translated(error, job, InputError))
        if image.written:
            return Outcome(job, "done", facts, tuple(image.notes))
        return _written(self._stages, job, image, facts)


class _Pipeline:
    """The state of a run: who is being read, who is being written, and how many bytes that makes."""

    def __init__(
        self,
        todo: Lookahead[Job],
        stages: Stages,
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
        budget: int,
    ) -> None:
        self.todo, self.stages, self.budget = todo, stages, budget
        self.readers, self.writers = readers, writers
        self.reading: deque[tuple[Job, Future[DecodedImage]]] = deque()
        self.ending: deque[tuple[int, Future[Outcome]]] = deque()
        self.largest = 0  # stands for the size of an image that is still being read

    def outcomes(self) -> Iterator[Outcome]:
        if not self.todo:
            return
        self._read_next()
        restore = self.stages.prepare()
        while self.reading:
            self.ending.append(self._advance(restore))
            yield from self._ended()
            if not self.reading and self.todo:
                self._read_next()
        while self.ending:
            yield self.ending.popleft()[1].result()

    def _read_next(self) -> None:
        job = self.todo.popleft()
        self.reading.append((job, self.readers.submit(self.stages.read, job)))

    def _held(self) -> int:
        return len(self.reading) * self.largest + sum(size for size, _ in self.ending)

    def _advance(self, restore: Restore) -> tuple[int, Future[Outcome]]:
        """Takes the next image through the network and hands it to a writer."""
        job, future = self.reading.popleft()
        try:
            image = future.result()
            size = _bytes(image)
            self.largest = max(self.largest, size)
            while self.todo and len(self.reading) < AHEAD and size + self._held() < self.budget:
                self._read_next()
            facts = restore(job, image)
            if image.written:
                return 0, _settled(Outcome(job, "done", facts, tuple(image.notes)))
        except FAILURES as error:
            return 0, _settled(Outcome(job, "failed", error=_translated(error, job, InputError)))
        return _bytes(image), self.writers.submit(_written, self.stages, job, image, facts)  # it may have been enlarged

    def _ended(self) -> Iterator[Outcome]:
        """What has been written by now, in order; waits where too much is in memory."""
        while self.ending and (self.ending[0][1].done() or len(self.ending) > BEHIND or self._held() >= self.budget):
            yield self.ending.popleft()[1].result()


def _written(stages: Stages, job: Job, image: DecodedImage, facts: ImageStats) -> Outcome:
    try:
        stages.write(job, image)
    except FAILURES as error:
        return Outcome(job, "failed", error=_translated(error, job, OutputError))
    return Outcome(job, "done", facts, tuple(image.notes))


def _bytes(image: DecodedImage) -> int:
    return sum(page.pixels.nbytes for page in (*image.pages, *image.residual))


def _settled(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _translated(error: Exception, job: Job, kind: type[MedcliError]) -> MedcliError:
    """The error as one of this image; raises one that is none."""
    if isinstance(error, MedcliError):
        return error
    path, stream = (job.source, "standard input") if kind is InputError else (job.target, "standard output")
    name = stream if path == STREAM else path
    if ran_out(error):
        hint = "Close other programs, or raise the limit on memory, if there is one."
        return kind(f"{name}: there is not enough memory for this image.", hint)
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
        raise error  # a bug; or standard output was closed
    return kind(f"{name}: {error.strerror or error}.")
