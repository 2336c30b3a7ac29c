"""Hooks of MkDocs: pages made from the package itself, when the site is built, so that they cannot be stale.

    pip install '.[docs]' && mkdocs build

models.md from `models.yaml`, commands.md from the help texts; CHANGELOG.md and CONTRIBUTING.md from the root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
SOURCES = re.compile(r"\]\((?:\.\./)*(CHANGELOG|CONTRIBUTING|README)\.md(#[^)]*)?\)")
INSIDE = re.compile(r"\]\(docs/([^)]*)\)")
HOMES = {"CHANGELOG": "changelog.md", "CONTRIBUTING": "contributing.md", "README": "index.md"}


def generated() -> dict[str, str]:
    """Markdown by the name of the page."""
    pages = {name: (ROOT / source).read_text("utf-8") for name, source in FROM_ROOT.items()}
    return pages | {"models.md": models_page(), "commands.md": commands_page()}


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the root lead to their pages."""
    inside = INSIDE.sub(r"](\1)", markdown)
    return SOURCES.sub(lambda match: f"]({HOMES[match[1]]}{match[2] or ''})", inside)


def commands_page() -> str:
    from medcli.cli import med
    from medcli.cli.reference import entries, markdown

    intro = "# Commands\n\nThe help texts of all commands; `med COMMAND --help` prints them too.\n"
    return "\n".join([intro, *(markdown(entry) for entry in entries(med))])


def models_page() -> str:
    from medcli.zoo.catalog import DOMAINS, entries

    known = list(entries().values())
    lines = [
        "# Models\n",
        "From `models.yaml`. Every model is blind: no noise level is needed. The weights of *bundled* models are part",
        "of the package; others are fetched from the Hugging Face Hub when they are first used",
        "([manage](model-files.md)). `photo` is the default, the best on photographs, and the one to use for gray",
        "images; a model that hardly changes those says so in its table, and `med` prints a note.\n",
        "![noisy.png and the results of several models](images/models.png)\n",
        "| model | for | title | parameters | weights | licence |",
        "|---|---|---|---|---|---|",
    ]
    for entry in known:
        where = "bundled" if entry.hub is None else "Hub"
        name, size = f"[`{entry.id}`](#{anchor(entry.id)})", f"{entry.parameters:,}"
        lines.append(f"| {name} | {entry.domain} | {entry.title} | {size} | {where} | {entry.licence} |")
    lines += ["", *(f"- *{name}*: {words}" for name, words in DOMAINS.items()), ""]
    for entry in known:
        lines += model_section(entry)
    return "\n".join(lines) + "\n"


def model_section(entry: Any) -> list[str]:
    rows: Mapping[str, str] = {
        "noise": entry.noise,
        "method": entry.method,
        "network": f"{entry.architecture}, {entry.macs_per_pixel / 1000:.0f} kMAC per pixel",
        "gray images": {True: "trained for them", False: "hardly changed", None: "not measured"}[entry.gray],
        "weights": f"{entry.licence}; {entry.size}, {'bundled' if entry.hub is None else f'Hub: {entry.hub.repo}'}",
        "training data": "; ".join(filter(None, [", ".join(entry.training_data), entry.data_licence])),
        "citation": entry.citation,
    }
    lines = [f"## {entry.id}", "", entry.summary or entry.title, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {' '.join(str(value).split())} |" for name, value in rows.items() if value]
    if entry.scores:
        lines += [
            "",
            "| measured | |",
            "|---|---|",
            *(f"| {name} | {value:g} |" for name, value in entry.scores.items()),
        ]
    return [*lines, ""]


def anchor(name: str) -> str:
    """As MkDocs makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", name.lower()).strip().replace(" ", "-")
