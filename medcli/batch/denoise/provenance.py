"""How a result came about, as a JSON file beside it: for methods sections, and to compare results."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medcli import __version__
from medcli.batch.denoise.files import Settings
from medcli.batch.denoise.report import Outcome
from medcli.files.atomic import atomic_write
from medcli.files.checksum import checksums
from medcli.zoo.model import Model

SUFFIX = ".json"


def record(outcome: Outcome, model: Model, settings: Settings, command: str) -> dict[str, Any]:
    """Program, command, model with its checksum, settings, range of values, and notes such as the measured noise."""
    assert outcome.facts is not None
    facts, source, target = outcome.facts, outcome.job.source, outcome.job.target
    return {
        "program": f"medcli {__version__}",
        "command": command,
        "input": {"file": source.name, "sha256": checksums(source).sha256},
        "output": {"file": target.name, "sha256": checksums(target).sha256},
        "model": {"id": model.card.id, "sha256": model.checksums.sha256},
        "settings": {name: value for name, value in asdict(settings).items() if value not in (None, "")},
        "range": [facts.values.low, facts.values.high],
        "precision": facts.precision,
        "notes": list(outcome.notes),
    }


def write(outcome: Outcome, model: Model, settings: Settings, command: str) -> Path:
    """Writes the record to `RESULT.json`, such as `clean.tif.json`. Raises OutputError, OSError."""
    target = outcome.job.target
    path = target.with_name(target.name + SUFFIX)
    with atomic_write(path) as file:
        text = json.dumps(record(outcome, model, settings, command), indent=2, ensure_ascii=False)
        file.write(text.encode() + b"\n")
    return path
