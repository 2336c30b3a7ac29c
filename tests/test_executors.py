"""Executors: every task is done once, whoever dies; what kills its workers is given up, and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from medcli.batch.executors.dispatch import DEATHS, Died, Executor, Finished, Lost, Ready, dispatch
from medcli.batch.executors.inline import Inline
from medcli.batch.executors.processes import Processes
from medcli.errors import DeviceError, MedcliError


@dataclass(frozen=True)
class Squares:
    """Squares numbers. deadly: kills its worker each time; once: only if its mark in `folder` is not there yet."""

    deadly: int = -1
    once: int = -1
    folder: Path = Path()
    refuses: bool = False

    def opened(self, device: str) -> Callable[[int], tuple[int, str]]:
        if self.refuses:
            raise DeviceError(f"There is no {device}.", "Buy one.")
        return lambda number: self.squared(number, device)

    def squared(self, number: int, device: str) -> tuple[int, str]:
        mark = self.folder / "died"
        if number == self.deadly or (number == self.once and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number, device


def results(executor: Executor, work: Squares, tasks: list[int]) -> dict[int, tuple[int, str] | Lost]:
    found = list(executor.run(work, iter(tasks)))
    assert sorted(number for number, _ in found) == list(range(len(tasks)))  # each exactly once
    return dict(found)


@pytest.mark.parametrize("executor", [Inline(), Processes(2), Processes(2, hands=3)])
def test_every_task_is_done_once(executor: Executor) -> None:
    found = results(executor, Squares(), list(range(20)))
    assert found == {number: (number * number, "auto") for number in range(20)}
    assert not multiprocessing.active_children()


def test_devices_go_round() -> None:
    found = results(Processes(2, ("cuda:0", "cuda:1")), Squares(), list(range(30)))
    assert {device for _, device in found.values()} <= {"cuda:0", "cuda:1"}  # type: ignore[misc]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("hands", [1, 3])
def test_a_task_that_kills_its_workers_is_given_up(hands: int, tmp_path: Path) -> None:
    found = results(Processes(2, hands=hands), Squares(deadly=4, folder=tmp_path), list(range(9)))
    assert found.pop(4) == Lost("was killed by signal 9")
    assert found == {number: (number * number, "auto") for number in range(9) if number != 4}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_task_whose_worker_died_is_done_again(tmp_path: Path) -> None:
    found = results(Processes(1), Squares(once=2, folder=tmp_path), list(range(4)))
    assert found == {number: (number * number, "auto") for number in range(4)}
    assert (tmp_path / "died").exists()


def test_an_error_of_the_work_is_raised_and_no_worker_is_left() -> None:
    for executor in (Inline("tpu"), Processes(2, ("tpu",))):
        with pytest.raises(DeviceError, match=r"There is no tpu\."):
            list(executor.run(Squares(refuses=True), [1, 2, 3]))
    assert not multiprocessing.active_children()


def test_stopping_early_leaves_no_worker() -> None:
    with closing(Processes(2).run(Squares(), range(10**9))) as found:
        assert next(found)[1] is not None
    assert not multiprocessing.active_children()


class FakeCrew:
    """Workers that die at random, sometimes before they are ready; `killers` kill theirs always."""

    def __init__(self, seed: int, killers: set[int], risk: float) -> None:
        self.random, self.killers, self.risk = random.Random(seed), killers, risk
        self.opening: set[int] = set()
        self.held: dict[int, list[int]] = {}
        self.most, self.closed = 0, False

    def hire(self, place: int) -> None:
        assert place not in self.opening | self.held.keys()
        self.opening.add(place)

    def give(self, place: int, number: int, task: int) -> None:
        assert task == number + 100
        self.held[place].append(number)
        self.most = max(self.most, len(self.held[place]))

    def release(self, place: int) -> None:
        assert self.held.pop(place) == []

    def events(self) -> Iterator[Ready | Finished[int] | Died]:
        if self.opening and (not self.held or self.random.random() < 0.5):
            place = self.opening.pop()
            if self.random.random() < self.risk:
                yield Died(place, "vanished")
            else:
                self.held[place] = []
                yield Ready(place)
            return
        place = self.random.choice([place for place, held in self.held.items() if held])
        number = self.random.choice(self.held[place])
        if number in self.killers or self.random.random() < self.risk:
            del self.held[place]
            yield Died(place, "vanished")
        else:
            self.held[place].remove(number)
            yield Finished(place, number, number * number)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("hands", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_nothing_is_done_twice(seed: int, hands: int) -> None:
    crew = FakeCrew(seed, {5, 17}, 0.02)
    found = list(dispatch(crew, range(100, 160), workers=4, hands=hands))
    assert sorted(number for number, _ in found) == list(range(60))
    lost = {number for number, result in found if isinstance(result, Lost)}
    assert {5, 17} <= lost
    assert len(lost) <= 4  # that chance kills the workers of one task three times is rare
    assert crew.closed
    assert crew.most <= hands


def test_of_tasks_that_died_together_only_the_guilty_one_is_given_up() -> None:
    found = dict(dispatch(FakeCrew(0, {2}, 0), range(100, 110), workers=1, hands=3))
    assert found == {number: number * number for number in range(10) if number != 2} | {2: Lost("vanished")}


def test_workers_that_never_get_ready_end_the_run() -> None:
    crew = FakeCrew(0, set(), 1)
    with pytest.raises(MedcliError, match=f"{DEATHS} in a row died without a task; the last vanished"):
        list(dispatch(crew, range(100, 110), workers=2))
    assert crew.closed


def test_tasks_are_taken_only_as_workers_become_free() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(100, 200):
            taken.append(number)
            yield number

    found = dispatch(FakeCrew(0, set(), 0), tasks(), workers=2, hands=2)
    next(found)
    assert len(taken) <= 5
    found.close()


def test_no_worker_is_started_for_nothing() -> None:
    crew = FakeCrew(0, set(), 0)
    assert list(dispatch(crew, [100], workers=8)) == [(0, 0)]
    assert not crew.opening
    assert list(dispatch(crew, [], workers=8)) == []
    assert not crew.opening
