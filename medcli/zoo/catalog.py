"""`models.yaml`: what models there are and where their weights lie. Reading it needs neither torch nor a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from medcli.errors import ModelError
from medcli.registry import nearest

PACKAGE = Path(__file__).parent.parent
WEIGHTS = PACKAGE / "weights"


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    file, bytes, sha256: the weights below `medcli/weights`. noise: what it removes, in words. scores: protocol to
    figure. licence: of the weights; data_licence: of the pictures it was trained on.
    """

    id: str
    title: str
    summary: str
    architecture: str
    noise: str
    file: str
    bytes: int
    sha256: str
    licence: str
    data_licence: str
    training_data: list[str]
    recipe: str
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return WEIGHTS / self.file


def catalog_path() -> Path:
    """`models.yaml`, inside the installed package or at the root of a checkout."""
    inside = PACKAGE / "models.yaml"
    return inside if inside.exists() else PACKAGE.parent / "models.yaml"


def entries(path: Path | None = None) -> dict[str, Entry]:
    """Every model by id; raises ModelError where the catalogue is malformed."""
    path = path or catalog_path()
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        return {entry.id: entry for entry in (_entry(row, path) for row in rows)}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ModelError(f"The catalogue {path} cannot be read: {error}") from error


def _entry(row: Mapping[str, Any], path: Path) -> Entry:
    known = {item.name for item in fields(Entry)}
    unknown = set(row) - known
    if unknown:
        raise ModelError(f"{path}: unknown key '{unknown.pop()}' in model '{row.get('id')}'.", nearest("", known))
    return Entry(**row)


def locate(name: str) -> Path:
    """The weight file behind a name of the zoo, the path of a file, or a training run's folder.

    Weights of the zoo are checked against their checksum. Raises ModelError for an unknown name, with the nearest
    known one, and for a file that is missing or corrupt.
    """
    known = entries()
    if name in known:
        verify(known[name])
        return known[name].path
    path = Path(name).expanduser()
    if path.is_dir():
        return _product(path)
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise ModelError(f"There is no model file {path}.")
    raise ModelError(f"There is no model called '{name}'.", nearest(name, known))


def _product(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(f"{folder} holds {len(found)} weight files, not one.", "Name the .safetensors file itself.")
    return found[0]


def verify(entry: Entry) -> None:
    """Raises ModelError unless the bundled weights are there, whole and unchanged."""
    try:
        data = entry.path.read_bytes()
    except OSError as error:
        raise ModelError(f"The weights of '{entry.id}' are missing: {entry.path}.", "Install medcli again.") from error
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelError(f"The weights of '{entry.id}' are corrupt: {entry.path}.", "Install medcli again.")
