"""A Ray cluster of three nodes on this machine, in a network of its own; slow, so CI leaves these tests out.

    MED_TEST_RAY=1 pytest -n 0 tests/test_ray.py

Ray takes the machine's own address even where it is given 127.0.0.1, so the cluster and the commands
run in a network namespace that has the loopback interface alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_batch import write_png
from test_cli_denoise import left_behind, save_tiny
from test_workers import content, outputs

IN_NETWORK = ["unshare", "--net", "--map-root-user", "bash", "-c", 'ip link set lo up && exec "$@"', "-"]


def namespaces() -> bool:
    try:
        return subprocess.run([*IN_NETWORK, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_cluster = [
    pytest.mark.skipif("MED_TEST_RAY" not in os.environ, reason="slow; MED_TEST_RAY=1 runs it"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(not namespaces(), reason="network namespaces are not allowed"),
]

# Starts the cluster, then obeys: a line of JSON for each command on standard input, an answer on standard output.
HELPER = """
import json, os, random, subprocess, sys, threading, time
from ray.cluster_utils import Cluster
checks = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_timeout_ms": 500,
          "health_check_failure_threshold": 3}
small = {"object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                  "_system_config": checks, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(int(sys.argv[1]))]

def killed(process, after, what):
    while sum(b'"image"' in line for line in lines) < after and process.poll() is None:
        time.sleep(0.02)
    if what == "head":
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    elif what == "node":
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    elif what == "worker":
        found = subprocess.run(["pgrep", "-f", "ray::Worker"], capture_output=True, text=True).stdout.split()
        found and os.kill(int(random.choice(found)), 9)
    elif what == "ctrl-c":
        process.send_signal(2)

print("ready", cluster.address, flush=True)
for line in sys.stdin:
    command = json.loads(line)
    lines = []
    process = subprocess.Popen([sys.executable, "-m", "medcli", *command["arguments"]], cwd=command["folder"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watchers = [threading.Thread(target=killed, args=(process, *each)) for each in command["kill"]]
    said = []
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))
    for thread in [*watchers, reader]:
        thread.start()
    for out in process.stdout:
        lines.append(out)
    process.wait()
    for thread in [*watchers, reader]:
        thread.join()
    for what in command["after"]:
        nodes.append(cluster.add_node(num_cpus=1, **small))
    events = [json.loads(x) for x in lines if x.startswith(b"{")]
    print(json.dumps({"code": process.returncode, "err": said[0].decode(), "events": events}), flush=True)
"""


class Cluster:
    """Runs `med` beside a cluster. address: of its head."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
        command = [*IN_NETWORK, sys.executable, "-c", HELPER, str(nodes)]
        pipe = subprocess.PIPE
        self.errors = (folder / "cluster.log").open("wb")
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=self.errors, text=True
        )
        while not (line := self._line()).startswith("ready"):
            pass
        self.address = line.split()[1]

    def med(
        self, folder: Path, *arguments: str, kill: tuple[tuple[int, str], ...] = (), more: int = 0
    ) -> dict[str, Any]:
        """kill: what ends after how many images: node, worker, head, or ctrl-c for the run. more: nodes, later."""
        command = {"folder": str(folder), "arguments": arguments, "kill": kill, "after": ["node"] * more}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise AssertionError("the cluster ended; see cluster.log")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.errors.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("ray"))
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny.safetensors")
    for number in range(30):
        write_png(tmp_path / f"in/{number}.png", number)
    (tmp_path / "in/bad.png").write_bytes((tmp_path / "in/0.png").read_bytes()[:99])
    assert inline("denoise in -o inline --device cpu --model tiny.safetensors") == 3
    return tmp_path


def inline(words: str) -> int:
    """Exit code of a `med` without a cluster."""
    return subprocess.run([sys.executable, "-m", "medcli", *words.split()], capture_output=True, check=False).returncode


DENOISE = "denoise in -o out --json --model tiny.safetensors --device cpu --cluster"


def statuses(ran: dict[str, Any]) -> list[str]:
    return [each["status"] for each in ran["events"] if each["event"] == "image"]


class TestCluster:
    pytestmark = needs_cluster

    def test_it_makes_the_files_of_one_process_and_skips_them_later(self, cluster: Cluster, home: Path) -> None:
        ran = cluster.med(home, *DENOISE.split(), cluster.address)
        assert ran["code"] == 3
        assert sorted(statuses(ran)) == ["done"] * 30 + ["failed"]
        assert content("out") == content("inline")
        assert outputs("out") == outputs("inline")
        assert not left_behind(home)
        assert "in/bad.png is damaged" in ran["err"]
        assert sorted(statuses(cluster.med(home, *DENOISE.split(), "auto"))) == ["failed"] + ["skipped"] * 30

    @pytest.mark.parametrize("what", ["node", "worker"])
    def test_what_is_killed_costs_nothing(self, cluster: Cluster, home: Path, what: str) -> None:
        kill = ((4, what), (12, what)) if what == "worker" else ((4, what),)
        ran = cluster.med(home, *DENOISE.split(), cluster.address, "--workers", "4", kill=kill, more=what == "node")
        assert sorted(statuses(ran)) == ["done"] * 30 + ["failed"]
        assert content("out") == content("inline")
        assert outputs("out") == outputs("inline")
        assert not left_behind(home)

    def test_ctrl_c_ends_all_and_the_next_run_goes_on(self, cluster: Cluster, home: Path) -> None:
        ran = cluster.med(home, *DENOISE.split(), cluster.address, kill=((3, "ctrl-c"),))
        assert ran["code"] == 130
        assert "Traceback" not in ran["err"]
        assert not left_behind(home)
        assert outputs("out") == sorted(content("out"))
        assert len(content("out")) < 30
        assert cluster.med(home, *DENOISE.split(), cluster.address)["code"] == 3
        assert content("out") == content("inline")

    def test_other_commands(self, cluster: Cluster, home: Path) -> None:
        (home / "in/bad.png").unlink()
        noisy = "synth-pairs --from in --to noisy --noise gaussian:25 --cluster"
        assert cluster.med(home, *noisy.split(), cluster.address)["code"] == 0
        assert len(content("noisy")) == 31  # and the manifest
        score = "eval -m tiny.safetensors --clean in --noisy noisy --metrics psnr --csv a.csv --device cpu --cluster"
        assert cluster.med(home, *score.split(), cluster.address)["code"] == 0
        assert len(Path("a.csv").read_text().splitlines()) == 61

    def test_messages(self, cluster: Cluster, home: Path) -> None:
        ran = cluster.med(home, *DENOISE.split(), "127.0.0.1:9")
        assert (ran["code"], "Nothing answers at 127.0.0.1:9" in ran["err"]) == (1, True)
        ran = cluster.med(home, *DENOISE.replace("cpu", "cuda").split(), cluster.address)
        assert (ran["code"], "The cluster has no GPU" in ran["err"]) == (1, True)

    def test_a_head_that_is_gone_is_said_and_a_second_run_finishes(self, home: Path) -> None:
        first = Cluster(home, 1)
        ran = first.med(home, *DENOISE.split(), first.address, kill=((3, "head"),))
        first.close()
        assert ran["code"] == 1
        assert f"The head of the Ray cluster at {first.address} does not answer any more." in ran["err"]
        assert not left_behind(home)
        assert inline(DENOISE.removesuffix(" --cluster")) == 3
        assert content("out") == content("inline")


def test_without_ray_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcli.batch.executors.choose import ExecutorOptions
    from medcli.errors import MedcliError

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "medcli.batch.executors.ray", raising=False)
    with pytest.raises(MedcliError, match="needs Ray") as caught:
        ExecutorOptions(cluster="auto").executor()
    assert caught.value.hint == "pip install 'medcli[ray]'"
