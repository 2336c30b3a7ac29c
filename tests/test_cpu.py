"""Claims about what is requested of the CPU: number format, threads, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import CliRunner, Result

import medcli
from medcli import cpu
from medcli.cli import COMMANDS, med
from medcli.train.hardware import choose_hardware
from medcli.train.muon import orthogonalise

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
UNITS = ("amx_tile", "avx512_bf16")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LIMITS, *cpu.WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENCV_FOR_THREADS_NUM"):
        monkeypatch.setenv(name, "")  # so that it is put back, also where the code under test sets it
        monkeypatch.delenv(name)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies bf16."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for unit in UNITS:
        monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda: True, raising=False)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.usefixtures("capable")
def test_either_unit_multiplies_bf16(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    for each in UNITS:
        monkeypatch.setattr(torch.cpu, f"_is_{each}_supported", lambda: False)
    assert not cpu.multiplies_bf16()
    monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda: True)
    assert cpu.multiplies_bf16()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not cpu.multiplies_bf16()


@pytest.mark.parametrize(
    ("name", "value", "fast"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", True),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", True),
        ("DNNL_MAX_CPU_ISA", "AVX2", False),
        ("ATEN_CPU_CAPABILITY", "avx2", False),
        ("ATEN_CPU_CAPABILITY", "default", False),
        ("ATEN_CPU_CAPABILITY", "avx512", True),
    ],
)
@pytest.mark.usefixtures("capable")
def test_a_cpu_can_be_imitated(monkeypatch: pytest.MonkeyPatch, name: str, value: str, fast: bool) -> None:
    monkeypatch.setenv(name, value)
    assert cpu.multiplies_bf16() is fast
    assert choose_hardware("cpu").dtype == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.usefixtures("capable")
def test_muon_computes_in_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))
    half = orthogonalise(matrix)
    assert torch.equal(half, half.bfloat16().float())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    whole = orthogonalise(matrix)
    assert not torch.equal(whole, whole.bfloat16().float())
    torch.testing.assert_close(whole, half, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/host/only\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
         "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 2),
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 8),
        ("2:cpuset:/\n1:name=systemd:/\n", {}, 8),
        (None, {"cpu.max": "100000 100000\n"}, 8),
    ],
)  # fmt: skip
def test_cores_follow_the_quota_of_every_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str | None, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(cpu, "CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpu, "OWN_GROUPS", tmp_path / "self")
    if own is not None:
        (tmp_path / "self").write_text(own)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpu.usable_cores() == cores
    cpu.set_openmp_defaults()
    assert os.environ.get("OMP_NUM_THREADS") == (None if cores == 8 else str(cores))


def test_cores_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "OWN_GROUPS", Path("nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert cpu.usable_cores() == 1
    assert choose_hardware("cpu").workers == 1


@pytest.mark.parametrize(("platform", "libgomp"), [("linux", True), ("darwin", False), ("win32", False)])
def test_waiting_threads_soon_sleep(monkeypatch: pytest.MonkeyPatch, platform: str, libgomp: bool) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    cpu.set_openmp_defaults()
    assert os.environ["KMP_BLOCKTIME"] == cpu.BLOCK_TIME
    assert os.environ.get("GOMP_SPINCOUNT") == (cpu.SPIN_COUNT if libgomp else None)


@pytest.mark.parametrize("name", sorted(cpu.WAITING))
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(cpu, "usable_cores", lambda: 0)
    cpu.set_openmp_defaults()
    assert {key: os.environ[key] for key in cpu.WAITING & os.environ.keys()} == {name: "7"}
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_the_command_sets_them_before_torch_is_imported() -> None:
    code = (
        "import os, sys; from medcli import cli\n"
        "sys.argv = ['med', '--version']\n"
        "try: cli.main()\n"
        "except SystemExit: print(os.environ['KMP_BLOCKTIME'], 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(medcli.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{cpu.BLOCK_TIME} False"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(med, words)


@pytest.mark.parametrize(
    "command", ["denoise", "adapt", "train", "synth-pairs", "eval", "models verify", "models export"]
)
def test_every_command_that_computes_takes_threads(command: str) -> None:
    assert command.partition(" ")[0] in COMMANDS
    assert "--threads" in invoke(*command.split(), "--help").output
    refused = invoke(*command.split(), "--threads", "0")
    assert refused.exit_code == 2
    assert "--threads" in refused.output


def test_threads_overrule_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    try:
        invoke("models", "verify", "--threads", "3", "no-such-model")
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
        code = "import torch, cv2; print(torch.get_num_threads(), cv2.getNumThreads())"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.split() == ["3", "3"]
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
