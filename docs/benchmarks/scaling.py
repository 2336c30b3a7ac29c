"""How long a large set takes: a simulation of workers that take pictures from one queue, fail, and go on.

    python docs/benchmarks/scaling.py [--pictures 1000000] [--megapixels 24] [--speed 0.36] [--workers 1 16 256 1024]

Each worker takes the next picture when it is free: it fetches it, computes, and sends the result. Pictures vary in size
(log-normal, --spread). Workers of a node fail together, at random (--hours-between-failures of a node), are noticed
after --detection seconds and replaced after --replacement; the pictures that they had in hand are done again. Fetching
and sending share the store's bandwidth. Static shares (`--shard K/N`) are simulated beside the queue: a share is done
when its own pictures are, and a failed one is started again by the batch system.
"""

from __future__ import annotations

import argparse
import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """speed: megapixels per second and worker. bytes: of a megapixel, fetched and sent. bandwidth: bytes per second of
    the store for all workers together, and of one connection.
    """

    pictures: int
    megapixels: float
    spread: float
    speed: float
    start: float
    bytes: float
    bandwidth: float
    connection: float
    workers_per_node: int
    between_failures: float
    detection: float
    replacement: float

    def transfer(self, megapixels: float, workers: int) -> float:
        """Seconds that a picture spends on the way, in both directions."""
        return megapixels * self.bytes / min(self.connection, self.bandwidth / workers)


@dataclass
class Outcome:
    """hours: of the run. busy: share of the workers' time in which they computed. again: pictures done twice."""

    hours: float
    busy: float
    again: int


def queue(setting: Setting, workers: int, sizes: list[float], seed: int = 0) -> Outcome:
    """All workers take pictures from one queue."""
    chance = random.Random(seed)
    nodes = max(1, workers // setting.workers_per_node)
    fails = [chance.expovariate(1 / setting.between_failures) for _ in range(nodes)]
    free = [(setting.start, worker) for worker in range(workers)]
    heapq.heapify(free)
    todo, computed, again, last = list(reversed(sizes)), 0.0, 0, 0.0
    while todo:
        now, worker = heapq.heappop(free)
        node = worker % nodes
        size = todo.pop()
        end = now + size / setting.speed + setting.transfer(size, workers)
        if fails[node] < now:  # it failed while this worker was between two pictures, or was replaced since
            fails[node] = now + chance.expovariate(1 / setting.between_failures)
        if fails[node] < end:
            todo.append(size)
            again += 1
            back = fails[node] + setting.detection + setting.replacement + setting.start
            heapq.heappush(free, (back, worker))
            continue
        computed += size / setting.speed
        last = max(last, end)
        heapq.heappush(free, (end, worker))
    return Outcome(last / 3600, computed / (workers * last), again)


def shares(setting: Setting, workers: int, sizes: list[float], seed: int = 0) -> Outcome:
    """Each worker has its own pictures, and is started again where it stopped."""
    chance = random.Random(seed)
    ends, computed, again = [], 0.0, 0
    for worker in range(workers):
        now, fail = setting.start, chance.expovariate(1 / setting.between_failures)
        for size in sizes[worker::workers]:
            took = size / setting.speed + setting.transfer(size, workers)
            while fail < now + took:
                now = fail + setting.replacement + setting.start
                fail = now + chance.expovariate(1 / setting.between_failures)
                again += 1
            now += took
            computed += size / setting.speed
        ends.append(now)
    return Outcome(max(ends) / 3600, computed / (workers * max(ends)), again)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--spread", type=float, default=0.3, help="deviation of the logarithm of a picture's size")
    parser.add_argument("--speed", type=float, default=0.36, help="MP/s of a worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 256, 1024])
    parser.add_argument("--start", type=float, default=10, help="seconds until a worker has its model")
    parser.add_argument("--bytes", type=float, default=0.75, help="MB of a megapixel, fetched and sent together")
    parser.add_argument("--bandwidth", type=float, default=2500, help="MB/s of the store")
    parser.add_argument("--connection", type=float, default=40, help="MB/s of one connection")
    parser.add_argument("--workers-per-node", type=int, default=16)
    parser.add_argument("--hours-between-failures", type=float, default=100, help="of a node")
    parser.add_argument("--detection", type=float, default=30)
    parser.add_argument("--replacement", type=float, default=300)
    given = parser.parse_args()
    setting = Setting(
        given.pictures, given.megapixels, given.spread, given.speed, given.start, given.bytes, given.bandwidth,
        given.connection, given.workers_per_node, given.hours_between_failures * 3600, given.detection,
        given.replacement,
    )  # fmt: skip
    chance = random.Random(1)
    mean = -(given.spread**2) / 2  # of the logarithm, so that the mean size is as requested
    sizes = [given.megapixels * chance.lognormvariate(mean, given.spread) for _ in range(given.pictures)]
    hours = sum(sizes) / given.speed / 3600
    print(
        f"{given.pictures:,} pictures of {given.megapixels:g} MP at {given.speed:g} MP/s: {hours:,.0f} worker-hours\n"
    )
    print("| workers | one queue, hours | busy | done again | static shares, hours | busy | done again |")
    print("|---|---|---|---|---|---|---|")
    for workers in given.workers:
        one, fixed = (way(setting, workers, sizes) for way in (queue, shares))
        cells = [f"{each.hours:,.1f} | {each.busy:.1%} | {each.again:,}" for each in (one, fixed)]
        print(f"| {workers:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
