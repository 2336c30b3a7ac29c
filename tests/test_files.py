"""Checksums and JSON lines."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

import medcli
from medcli.files import jsonl
from medcli.files.checksum import blake2b, blake2b_of, checksums, sha256, sha256_of

PACKAGE = Path(medcli.__file__).parent


def test_checksums_are_those_of_the_library(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest(), hashlib.blake2b(content, digest_size=20).hexdigest()
    assert (sha256_of(tmp_path / "a"), blake2b_of(tmp_path / "a")) == expected
    assert (sha256(content), blake2b(content)) == expected
    assert checksums(tmp_path / "a") == (len(content), *expected)
    assert len(blake2b(content, digits=32)) == 32


def test_a_line_may_be_torn_anywhere(tmp_path: Path) -> None:
    path, rows = tmp_path / "log.jsonl", [{"step": 1, "x": "\u00e4"}, {"step": 2}]
    for row in rows:
        jsonl.append(path, row)
    whole = path.read_bytes()
    assert list(jsonl.parse(whole)) == rows
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        jsonl.append(path, {"step": 3})
        assert list(jsonl.parse(path.read_bytes()))[-1] == {"step": 3}
        assert whole[:length] in path.read_bytes()


@pytest.mark.parametrize("line", [b"text", b"[1]", b"\xff", b'{"other": '])
def test_a_line_of_another_program_is_passed_over_or_refused(line: bytes) -> None:
    content = json.dumps({"source": "a"}).encode() + b"\n"
    assert list(jsonl.parse(content + line)) == [{"source": "a"}]
    with pytest.raises(ValueError, match="Not a line"):
        list(jsonl.parse(content + line, start=b'{"source": '))
    for torn in (b'{"sour', b'{"source": "b'):
        assert list(jsonl.parse(content + torn, start=b'{"source": ')) == [{"source": "a"}]


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        (r"hashlib\.", {"files/checksum.py", "seeding.py"}),
        (r"\.tmp\b|\.part\b", {"files/atomic.py", "train/checkpoint.py"}),  # a link to the best checkpoint
        (r"/proc/self/cgroup", {"cpu.py"}),
    ],
)
def test_checksums_atomic_writes_and_control_groups_are_in_one_module(pattern: str, allowed: set[str]) -> None:
    paths = PACKAGE.rglob("*.py")
    assert {p.relative_to(PACKAGE).as_posix() for p in paths if re.search(pattern, p.read_text("utf-8"))} == allowed
