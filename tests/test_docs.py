"""The documentation: links lead somewhere, generated pages are complete, charts show the data that are committed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from medcli.cli import med
from medcli.cli.reference import entries as commands
from medcli.zoo.catalog import entries as models

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")


def module(path: str) -> ModuleType:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


hooks = module("docs/site_hooks.py")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors(text: str) -> set[str]:
    return {hooks.anchor(heading.replace("`", "")) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    made = hooks.generated()
    for target in LINK.findall((ROOT / page).read_text("utf-8")):
        if target.startswith(("http", "mailto")):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        text = made[name] if name in made and not path.exists() else None
        assert text or path.exists(), f"{page}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(text or path.read_text("utf-8")), f"{page}: {target}"


def test_the_page_of_models_has_every_model_with_its_scores() -> None:
    text = hooks.models_page()
    for entry in models().values():
        section = text.partition(f"## {entry.id}\n")[2].partition("\n## ")[0]
        assert entry.licence in section
        assert all(f"| {name} | {value:g} |" in section for name, value in entry.scores.items())
        assert f"(#{hooks.anchor(entry.id)})" in text


def test_the_reference_has_every_command() -> None:
    text = hooks.commands_page()
    assert all(f"\n## `{entry.words}`\n" in text for entry in commands(med))


def test_every_page_is_in_the_navigation() -> None:
    nav = re.findall(r"[\w-]+\.md", yaml.safe_dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert sorted(nav) == sorted({path.name for path in ROOT.glob("docs/*.md")} | hooks.generated().keys())


def test_the_chart_shows_the_data_that_are_committed() -> None:
    chart = module("docs/benchmarks/speed_quality.py")
    text = chart.CHART.read_text("utf-8")
    assert f"data {chart.fingerprint()}" in text, "run: python docs/benchmarks/speed_quality.py draw"
    rows = json.loads(chart.DATA.read_text("utf-8"))["rows"]
    assert all(f">{row['name']}<" in text for row in rows[1:])
    assert {row["name"] for row in rows[1:]} - set(chart.CLASSICAL.values()) <= models().keys()


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "site/models/index.html").read_text("utf-8")
    assert all(f'id="{hooks.anchor(name)}"' in page for name in models())
    assert not list((tmp_path / "site").rglob("*.py"))
