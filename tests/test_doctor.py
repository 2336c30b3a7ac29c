"""`med doctor`: what it reports, and that what is broken ends with exit code 1."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import json
import os
import urllib.error
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from test_cli_denoise import Med, home, med, tiny  # noqa: F401 - fixtures

import medcli.api
from medcli.batch import diagnosis
from medcli.batch.diagnosis import Finding
from medcli.errors import DeviceError, ModelError
from medcli.zoo import catalog


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(diagnosis, "SECONDS", 0.0)
    monkeypatch.setattr(diagnosis, "SIDE", 32)
    load = medcli.api.load
    monkeypatch.setattr(medcli.api, "load", lambda **options: load(tiny, **options))


def topics(found: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {finding["topic"]: finding for finding in found}


def test_a_sound_installation_has_nothing_broken(med: Med) -> None:
    result = med("doctor", "--json", "--device", "cpu")
    report = json.loads(result.out)
    found = topics(report["findings"])
    assert (result.code, report["broken"]) == (0, [])
    assert {"medcli", "torch", "cpu", "number formats", "speed", "memory", "models", "hub cache"} <= found.keys()
    assert "MP/s on cpu in" in found["speed"]["text"]
    assert found["models"]["text"].startswith(f"{len([e for e in catalog.entries().values() if not e.hub])} of")
    assert "hub" not in found


def test_lines_for_people_have_a_mark_and_a_hint(med: Med, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ['nosuch>=1; extra == "rare"', 'pytest; extra == "dev"'])
    result = med("doctor", "--device", "cpu")
    lines = result.out.decode().splitlines()
    at = lines.index("- extra rare: missing: nosuch")
    assert lines[at + 1].strip() == "pip install 'medcli[rare]'"
    assert not any("extra dev" in line for line in lines)
    assert lines[-1] == "nothing is broken"


def test_a_corrupt_model_is_broken(med: Med, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(entry: catalog.Entry) -> Path:
        if entry.id == "photo":
            raise ModelError("The weights of 'photo' are corrupt.", "Install medcli again.")
        return entry.path

    monkeypatch.setattr(catalog, "verify", verify)
    result = med("doctor", "--device", "cpu")
    assert result.code == 1
    assert b"! model photo: The weights of 'photo' are corrupt." in result.out
    assert result.out.decode().endswith("broken: model photo\n")


def test_a_device_that_is_not_there_is_broken(med: Med, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**_: Any) -> None:
        raise DeviceError("CUDA was requested, but there is none.", "Use --device cpu.")

    monkeypatch.setattr(medcli.api, "load", load)
    report = json.loads(med("doctor", "--json", "--device", "cuda").out)
    assert report["broken"] == ["speed"]
    assert topics(report["findings"])["speed"]["hint"] == "Use --device cpu."


def test_the_hub_is_asked_only_where_it_is_wanted(med: Med, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(request: Any, **_: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert med("doctor", "--device", "cpu").code == 0
    assert asked == []
    result = med("doctor", "--device", "cpu", "--hub")
    assert (result.code, len(asked)) == (1, 1)
    assert b"--from-bundle" in result.out


def test_files_of_killed_runs_are_found(med: Med, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = (tmp_path / f".medcli-{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert f"1 temporary files of killed runs in {tmp_path}" in med("doctor", "--device", "cpu").out.decode()


def test_folders_that_cannot_be_written_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = {finding.topic: finding for finding in diagnosis._folders()}
    assert found["hub cache"].status == "note"
    assert found["temporary files"].status == "broken"


def test_no_secret_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = diagnosis.environment()
    assert "HF_TOKEN" not in shown
    assert shown["OMP_NUM_THREADS"] == "1"


def test_findings_are_plain_rows() -> None:
    assert Finding("a", "b").as_row() == {"topic": "a", "text": "b", "status": "ok", "hint": ""}
