"""Manual pages, command reference and shell completion, all from the commands themselves."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

from medcli.cli import COMMANDS
from medcli.cli import med as door
from medcli.cli.reference import entries, manual_page, markdown
from medcli.zoo.catalog import entries as models


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers for the last word of a command line."""
    words = line.split(" ")
    asked = {"_MED_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-c", "from medcli.cli import main; main()"]
    ran = subprocess.run(command, env={**os.environ, **asked}, cwd=folder, capture_output=True, text=True, check=True)
    return [row.partition(",")[2] for row in ran.stdout.splitlines()]


def test_every_command_has_an_entry_a_summary_and_its_options() -> None:
    found = {entry.words: entry for entry in entries(door)}
    assert {f"med {name}" for name in COMMANDS} <= found.keys()
    assert "med models pull" in found
    assert all(entry.summary for entry in found.values())
    options = dict(found["med denoise"].options)
    assert "-o, --output OUTPUT" in options
    assert "[default: photo]" in options["-m, --model NAME|FILE"]


def test_the_reference_shows_text_as_it_is() -> None:
    @click.command(help="Makes *a_b* of <x>.\n\n\b\nExample:\n  med x | y\n")
    @click.option("--range", metavar="a|b", help="One of [a, b].")
    def command() -> None: ...

    text = markdown(next(entries(command, "med x")))
    assert r"Makes \*a\_b\* of \<x\>." in text
    assert "```text\nExample:\n  med x | y\n```" in text
    assert r"| `--range a\|b` | One of \[a, b\]. |" in text


def test_manual_pages_keep_hyphens_dots_and_backslashes() -> None:
    @click.command(help="\b\n.hidden --force a\\b\n'quoted'\n")
    def command() -> None: ...

    page = manual_page(next(entries(command, "med x")))
    assert ".nf\n\\&.hidden \\-\\-force a\\eb\n\\&'quoted'\n.fi" in page


def test_a_page_is_written_for_each_command_and_is_valid(med: Med, tmp_path: Path) -> None:
    assert med("manual", tmp_path / "man1").code == 0
    pages = sorted(path.name for path in (tmp_path / "man1").iterdir())
    assert {"med.1", "med-denoise.1", "med-models-pull.1"} <= set(pages)
    assert len(pages) == len(list(entries(door)))
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    ran = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-Wbreak", "-z", tmp_path / "man1/med-denoise.1"],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_complete_med(med: Med, tmp_path: Path, shell: str) -> None:
    result = med("completion", shell)
    assert result.code == 0
    script = tmp_path / "script"
    script.write_bytes(result.out)
    assert f"_MED_COMPLETE={shell}_complete" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", script], check=True)


def test_commands_models_and_files_are_completed(tmp_path: Path) -> None:
    assert {"denoise", "doctor"} <= set(completed("med d", tmp_path))
    assert "--strengths" in completed("med compare --st", tmp_path)
    assert completed("med denoise -m gauss", tmp_path) == [name for name in models() if name.startswith("gauss")]
    assert completed("med denoise -m ./ru", tmp_path) == ["./ru"]  # the shell completes files and folders from there
