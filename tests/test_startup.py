"""What a shell user waits for before anything happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import medcli

HEAVY = {"torch", "cv2", "numpy", "PIL", "rich", "yaml", "safetensors", "huggingface_hub"}


def imported_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    script = f"import sys\n{code}\nprint('MODULES', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def run_med(*arguments: str) -> str:
    return f"from medcli.cli import med\nmed.main({list(arguments)!r}, prog_name='med', standalone_mode=False)"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(run_med(*arguments)) & HEAVY == set()


def all_commands() -> list[list[str]]:
    from medcli.cli import COMMANDS
    from medcli.cli.models import COMMANDS as OF_MODELS

    return [*([name] for name in COMMANDS), *(["models", name] for name in OF_MODELS)]


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_help_of_a_command_imports_no_arrays(command: list[str]) -> None:
    assert imported_by(run_med(*command, "--help")) & {"torch", "cv2", "numpy", "PIL", "safetensors"} == set()


@pytest.mark.parametrize(
    "code",
    [
        "import medcli",
        "from medcli import MedcliError",
        "import medcli.images",
        "import medcli.zoo.catalog",
        "import medcli.batch.denoise.plan, medcli.batch.denoise.run, medcli.batch.denoise.files",
        "import medcli.cli.denoise_run",
    ],
)
def test_torch_waits_until_a_network_is_needed(code: str) -> None:
    assert "torch" not in imported_by(code)


@pytest.mark.skipif(os.name == "nt", reason="the time of child processes is not known there")
def test_help_is_there_at_once() -> None:
    before = os.times()
    subprocess.run([sys.executable, "-m", "medcli", "--help"], capture_output=True, check=True)
    after = os.times()  # processor time, which a busy machine does not stretch
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.3


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_very_end_changes_nothing(number: signal.Signals) -> None:
    late = f"import atexit, os\natexit.register(os.kill, os.getpid(), {int(number)})"
    code = f"{late}\nimport sys\nsys.argv = ['med', '--help']\nfrom medcli.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands:" in done.stdout


def test_public_names() -> None:
    assert medcli.__all__ == ["Denoiser", "MedcliError", "__version__", "denoise", "load"]
    assert all(getattr(medcli, name) for name in medcli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'denoize'"):
        _ = medcli.denoize


def test_messages_do_not_control_the_terminal() -> None:
    from medcli.cli.progress import message_lines
    from medcli.errors import MedcliError

    lines = message_lines(MedcliError("a file called \x1b[31mred\x07\nin two lines", "with a \x9b hint"))
    assert lines == ["error: a file called \ufffd[31mred\ufffd\nin two lines", "  with a \ufffd hint"]


def test_python_and_the_command_line_take_the_same_options_of_the_engine() -> None:
    import inspect
    from dataclasses import fields

    from medcli.batch.denoise.options import DenoiseOptions
    from medcli.cli.denoise import command
    from medcli.engine.options import EngineOptions

    shared = {each.name for each in fields(EngineOptions)}
    assert set(inspect.signature(medcli.load).parameters) - {"name"} == shared
    assert {each.name for each in command.params if each.expose_value} == {each.name for each in fields(DenoiseOptions)}
