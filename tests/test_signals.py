"""Signals end a run also while a file is being read that never comes: a named pipe stands for a decoder that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")

MED = "from medcli.batch.executors import processes; processes.PATIENCE = 0.5; from medcli.cli import main; main()"
COMMANDS = {
    "denoise": "denoise clean -o out",
    "eval": "eval -m photo --clean clean --noise gaussian:25",
    "synth-pairs": "synth-pairs --from clean --to out --noise gaussian:25 --processes 2",
    "train": "train --data clean --noise gaussian:25 --steps 1 -o run --device cpu --cache cache",
}


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        *((name, signal.SIGTERM, 143) for name in COMMANDS),
        ("denoise", signal.SIGINT, 130),
        ("eval", signal.SIGINT, 130),
    ],
)
def test_a_file_that_never_comes_keeps_no_run(
    name: str, number: signal.Signals, code: int, image_folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(image_folder / "00.png")  # neither the first of its folder nor the last
    command = [sys.executable, "-c", MED, *COMMANDS[name].split()]
    with ThreadPoolExecutor(1) as pool, subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        opened = pool.submit(os.open, image_folder / "00.png", os.O_WRONLY)
        pipe = opened.result(timeout=100)  # it is being read
        try:
            process.send_signal(number)
            assert process.wait(timeout=30) == code
        finally:
            process.kill()
            os.close(pipe)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()
    assert not list(tmp_path.rglob("*.part"))
