"""Executors on many small pictures: the same bytes as one process, what kills cost, and throughput.

    python docs/benchmarks/executors.py processes [--pictures 200] [--kills 5]
    python docs/benchmarks/executors.py ray       [--pictures 200] [--kills 5]
    python docs/benchmarks/executors.py s3        [--pictures 200] [--kills 5]
    python docs/benchmarks/executors.py many      [--pictures 10000]
    python docs/benchmarks/executors.py listing   [--pictures 100000]

`processes` and `ray` kill a worker, `ray` also a node, at random moments; `s3` kills the whole command with SIGKILL and
starts it again, against moto's server on the loopback address. `ray` needs a network with the loopback interface alone:

    unshare --net --map-root-user bash -c 'ip link set lo up && exec "$@"' - python docs/benchmarks/executors.py ray
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MED = [sys.executable, "-m", "medcli"]
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def pictures(folder: Path, count: int, side: int) -> None:
    """Noisy squares, (side, side, 3) uint8."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    waves = np.sin(np.mgrid[0:side, 0:side].sum(0)[..., None] / [9, 11, 13]) * 50 + 120
    for number in range(count):
        noisy = waves + rng.normal(0, 20, waves.shape)
        cv2.imwrite(str(folder / f"{number:06}.png"), noisy.clip(0, 255).astype(np.uint8))


def run(arguments: list[object], after: list[tuple[int, Callable[[int], None]]] = ()) -> dict[str, Any]:  # type: ignore[assignment]
    """A `med denoise --json`. after: what to call with its pid once so many pictures are done."""
    started = first = time.perf_counter()
    seen, due = 0, sorted(after, key=lambda each: each[0])
    command = [*MED, "denoise", *map(str, arguments), "--json", "--quiet", "--device", "cpu"]
    statuses: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | ONE_CORE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] != "image":
                continue
            statuses.append(event["status"])
            seen += 1
            first = time.perf_counter() if seen == 1 else first
            while due and seen >= due[0][0]:
                threading.Thread(target=due.pop(0)[1], args=(process.pid,)).start()
    now = time.perf_counter()
    rate = (seen - 1) / (now - first) if seen > 1 else 0.0
    return {"code": process.returncode, "statuses": statuses, "seconds": now - started, "rate": rate}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def check(folder: Path, out: Path, count: int) -> str:
    """Whether all is there, as one process makes it, with one line each in the manifest."""
    lines = [json.loads(line)["output"] for line in (out / ".medcli.jsonl").read_text().splitlines()]
    same = content(out) == content(folder / "inline")
    left = [path.name for path in out.glob(".medcli-*")]
    return f"{len(content(out))} of {count}, same bytes: {same}, lines {len(lines)} of {len(set(lines))}, left {left}"


def workers_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def kill_one(pids: list[int]) -> None:
    if pids:
        os.kill(random.choice(pids), signal.SIGKILL)


def processes(folder: Path, given: argparse.Namespace) -> None:
    pictures(folder / "in", given.pictures, given.side)
    model = ["--model", given.model]
    one = run([folder / "in", "-o", folder / "inline", *model])
    two = run([folder / "in", "-o", folder / "two", "--workers", 2, *model])
    print(f"inline {one['rate']:.2f}/s, --workers 2 {two['rate']:.2f}/s", flush=True)
    print(check(folder, folder / "two", given.pictures), flush=True)
    moments = sorted(random.sample(range(1, given.pictures), given.kills))
    kills = [(moment, lambda pid: kill_one(workers_of(pid))) for moment in moments]
    killed = run([folder / "in", "-o", folder / "killed", "--workers", 2, *model], kills)
    print(f"a worker killed after {moments}: {check(folder, folder / 'killed', given.pictures)}, code {killed['code']}")


def ray(folder: Path, given: argparse.Namespace) -> None:
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = (
        os.pathsep.join(sys.path[1:]) if "PYTHONPATH" not in os.environ else os.environ["PYTHONPATH"]
    )
    checks = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_timeout_ms": 1000,
              "health_check_failure_threshold": 4}  # fmt: skip
    small = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": checks, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(3)]
    pictures(folder / "in", given.pictures, given.side)
    model = ["--model", given.model]
    one = run([folder / "in", "-o", folder / "inline", *model])
    three = run([folder / "in", "-o", folder / "three", "--workers", 3, *model])
    way = ["--cluster", cluster.address]
    whole = run([folder / "in", "-o", folder / "whole", "--workers", 3, *way, *model])
    rates = [each["rate"] for each in (one, three, whole)]
    print("inline {:.2f}/s, --workers 3 {:.2f}/s, three nodes {:.2f}/s".format(*rates), f"({rates[2] / rates[1]:.2f})")
    print(check(folder, folder / "whole", given.pictures), flush=True)

    def lose(_pid: int) -> None:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)

    for kill in range(given.kills):
        moment = random.randint(1, given.pictures - 20)
        out = folder / f"killed{kill}"
        killed = run([folder / "in", "-o", out, "--workers", 3, *way, *model], [(moment, lose)])
        print(f"a node killed after {moment}: {check(folder, out, given.pictures)}, code {killed['code']}, "
              f"{killed['seconds']:.0f} s", flush=True)  # fmt: skip
        nodes.append(cluster.add_node(num_cpus=1, **small))


def s3_server() -> subprocess.Popen[bytes]:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", code], stdout=quiet, stderr=quiet)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.1)
    return process


def s3(folder: Path, given: argparse.Namespace) -> None:
    from medcli.files.stores import StorePath, file_system, objects_below, read_object, write_object

    server = s3_server()
    try:
        file_system("s3").mkdir("bucket")
        pictures(folder / "in", given.pictures, given.side)
        for path in (folder / "in").iterdir():
            write_object(StorePath.of(f"s3://bucket/in/{path.name}"), path.read_bytes())
        model = ["--model", given.model]
        one = run([folder / "in", "-o", folder / "inline", *model])
        done: list[int] = []
        for _ in range(given.kills):
            moment = random.randint(1, max(2, given.pictures // given.kills))
            killed = run(
                ["s3://bucket/in", "-o", "s3://bucket/out", *model],
                [(moment, lambda pid: os.kill(pid, signal.SIGKILL))],
            )
            done.append(killed["statuses"].count("done"))
        last = run(["s3://bucket/in", "-o", "s3://bucket/out", *model])
        objects = list(objects_below(StorePath.of("s3://bucket/out")))
        same = {each.name: read_object(each)[0] for each in objects} == content(folder / "inline")
        fresh = run(["s3://bucket/in", "-o", "s3://bucket/fresh", *model])
        print(f"killed {given.kills} times after {done} done; then {last['statuses'].count('skipped')} skipped and "
              f"{last['statuses'].count('done')} done, same bytes: {same}; {fresh['rate']:.2f}/s against "
              f"{one['rate']:.2f}/s from files")  # fmt: skip
    finally:
        server.kill()


def many(folder: Path, given: argparse.Namespace) -> None:
    import psutil

    pictures(folder / "in", given.pictures, given.side)
    sizes: list[int] = []

    def watch(pid: int) -> None:
        sizes.append(psutil.Process(pid).memory_info().rss >> 20)

    tenths = [(max(1, given.pictures * tenth // 10 - 1), watch) for tenth in range(1, 11)]
    done = run([folder / "in", "-o", folder / "out", "--model", given.model], tenths)
    print(f"{given.pictures} pictures of {given.side}x{given.side}: {done['rate']:.1f}/s, memory by tenths {sizes} MB")


def listing(folder: Path, given: argparse.Namespace) -> None:
    """Jobs of a long listing, without doing them: memory of this process."""
    import psutil

    from medcli.batch.denoise.plan import OutputNaming
    from medcli.batch.denoise.store_plan import stored_jobs
    from medcli.files.stores import StorePath, file_system

    server = s3_server()
    try:
        store = file_system("s3")
        store.mkdir("bucket")
        for number in range(given.pictures):
            store.call_s3("put_object", Bucket="bucket", Key=f"in/{number:07}.png", Body=b"")
        before = psutil.Process().memory_info().rss
        started, count = time.perf_counter(), 0
        naming = OutputNaming(StorePath.of("s3://bucket/out"))
        for _ in stored_jobs([StorePath.of("s3://bucket/in")], naming, recursive=True, force=False):
            count += 1
        grown = (psutil.Process().memory_info().rss - before) / 1e6
        print(f"{count} keys listed in {time.perf_counter() - started:.0f} s, memory grew by {grown:.0f} MB")
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = {each.__name__: each for each in (processes, ray, s3, many, listing)}
    parser.add_argument("what", choices=ways)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--model", default="photo")
    given = parser.parse_args()
    given.pictures = given.pictures or {"many": 10_000, "listing": 100_000}.get(given.what, 200)
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ways[given.what](Path(folder), given)


if __name__ == "__main__":
    main()
