"""`models.yaml`: what models there are and where their weights lie. Reading it needs neither torch nor a network.

The fields of `Entry` are the keys of a row, with their types; `tests/test_zoo_catalog.py` checks the file that ships
in more depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import yaml
from msgspec import Meta
from rich.filesize import decimal

from medcli.errors import ModelError
from medcli.files.checksum import checksums
from medcli.registry import nearest
from medcli.zoo import fetch
from medcli.zoo.description import NOISE_DOMAIN, Description
from medcli.zoo.fetch import HubFile, Say, ignore
from medcli.zoo.weights import Card

PACKAGE = Path(__file__).parent.parent
WEIGHTS = PACKAGE / "weights"
HOME_VARIABLE = "MED_HOME"
MAX_BYTES = 1_000_000  # of a catalogue, which takes a few kilobytes per model
DOMAINS: Mapping[str, str] = {
    "photo": "photographs, scans and screenshots with real noise",
    "gaussian": "additive white Gaussian noise, as in the literature",
    "gray": "images of one channel",
    "microscopy": "micrographs",
    NOISE_DOMAIN: "learned noise, which med synth-pairs adds to clean images",
}
REINSTALL = "Install medcli again."
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry(Description):
    """One model of the zoo: a row of `models.yaml`.

    domain: what images it is for, a key of `DOMAINS`. source: "bundled", or a file on the Hub; file: its name there,
    or below `medcli/weights`. naming: of the tensors, a key of `checkpoint_formats.NAMINGS` where they are not ours.
    bytes: None where it is not stated. tolerance: of the test vector, in grey levels of 255; None where there is none.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}\Z")]
    macs_per_pixel: int
    source: Literal["bundled"] | HubFile
    naming: str = ""
    file: Annotated[str, Meta(pattern=r"^[\w-][\w./ -]*\Z")]
    bytes: int | None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    tolerance: float | None = None

    @property
    def hub(self) -> HubFile | None:
        """Where on the Hub the weights are; None for those that come with medcli."""
        return None if self.source == "bundled" else self.source

    @property
    def path(self) -> Path:
        """The weights as they were published: inside medcli, or in the store of this machine (which may lack them)."""
        return WEIGHTS / self.file if self.hub is None else store() / self.plain_name

    @property
    def vector(self) -> Path:
        """The test vector; it may be absent."""
        return WEIGHTS / self.vector_name

    @property
    def plain_name(self) -> str:
        """The weights' name in the store and in a bundle, where ids keep files apart."""
        return f"{self.id}{Path(self.file).suffix}"

    @property
    def vector_name(self) -> str:
        return f"{self.id}.vector.safetensors"

    @property
    def size(self) -> str:
        """Of the weights, in words."""
        return "not stated" if self.bytes is None else decimal(self.bytes)

    @property
    def card(self) -> Card:
        """What a weight file of this model says of itself."""
        return Card(**{item.name: getattr(self, item.name) for item in fields(Card)})


KEYS = {item.name for item in fields(Entry)} - {"steps", "version"}


def catalog_path() -> Path:
    """`models.yaml`, inside the installed package or at the root of a checkout."""
    inside = PACKAGE / "models.yaml"
    return inside if inside.exists() else PACKAGE.parent / "models.yaml"


def store() -> Path:
    """The folder of models installed from a bundle and of converted ones: MED_HOME, or the user's data folder."""
    if home := os.environ.get(HOME_VARIABLE):
        return expanded(home) / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("medcli", appauthor=False)) / "models"


def expanded(name: str) -> Path:
    """With `~` as the user's home; the home of an unknown user is a name like any other, not an error."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def entries(path: Path | None = None) -> Mapping[str, Entry]:
    """Every model by id; a file is read once in a process as long as it stays the same.

    Raises ModelError, naming the file and the row, where the catalogue is malformed.
    """
    path = path or catalog_path()
    try:
        seen = path.stat()
        return _read(path, seen.st_ino, seen.st_size, seen.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", REINSTALL) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ModelError(f"{path} is not a catalogue of models: {' '.join(str(error).split())}.", REINSTALL) from error


@lru_cache(maxsize=8)
def _read(path: Path, *_identity: int) -> dict[str, Entry]:
    """Raises OSError, ModelError, and what the YAML reader raises."""
    with path.open("rb") as file:
        text = file.read(MAX_BYTES)
    rows = msgspec.convert(yaml.load(text, _Loader), dict[Literal["models"], list[Row]]).get("models")
    if rows is None:
        raise ValueError("there is no key 'models'")
    found = {(entry := _entry(row, path)).id: entry for row in rows}
    if len(found) < len(rows):
        raise ValueError("two models have the same id")
    return found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain data alone: no dates, no binary, and no aliases, a few bytes of which can stand for terabytes."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node in self.constructed_objects:
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not used here", node.start_mark)
        return super().construct_object(node, deep)


def _entry(row: Row, path: Path) -> Entry:
    where = f"{path}, model '{row.get('id')}'"
    if unknown := row.keys() - KEYS:
        raise ModelError(f"{where}: unknown key '{(key := sorted(map(str, unknown))[0])}'.", nearest(key, KEYS))
    source = row.get("source")
    if isinstance(source, dict):
        pinned = {**source, "bytes": row.get("bytes"), "sha256": row.get("sha256")}
        row = row | {"source": pinned, "file": source.get("file")}
    try:
        return msgspec.convert(row, Entry)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: {error}.", REINSTALL) from error


def as_row(entry: Entry) -> Row:
    """The row of `models.yaml` that says this; plain data for YAML and JSON."""
    row = {key: value for key, value in msgspec.to_builtins(entry).items() if key in KEYS}
    row["value_range"] = list(entry.value_range)
    if entry.hub is not None:
        del row["file"], row["source"]["bytes"], row["source"]["sha256"]
    empty: Row = {"naming": "", "noises": [], "gray": None, "tolerance": None}
    return {key: value for key, value in row.items() if key not in empty or value != empty[key]}


def find(name: str, known: Mapping[str, Entry] | None = None) -> Entry:
    """The model called `name`; raises ModelError with the nearest known one."""
    known = entries() if known is None else known
    if name not in known:
        raise unknown(name, known)
    return known[name]


def unknown(name: str, known: Iterable[str]) -> ModelError:
    """The error for a name that no model has, with the nearest of those there are."""
    return ModelError(f"There is no model called '{name}'.", nearest(name, known))


def pull(entry: Entry, say: Say = ignore) -> Path:
    """The weights in our form, ready for use without a network from now on. Raises ModelError."""
    raw = present(entry)
    if raw is None:
        assert entry.hub is not None
        raw = fetch.fetch(entry.hub, name=entry.id, say=say)
    return ours(entry, raw)


def ours(entry: Entry, raw: Path) -> Path:
    """The published weights `raw` as a weight file of ours: themselves, or what they were converted to."""
    if not entry.naming:
        return raw
    from medcli.zoo.convert import converted

    return converted(raw, entry.card, entry.naming, converted_folder(entry))


def converted_folder(entry: Entry) -> Path:
    """Where the foreign weights of this model lie in our form, once they were used."""
    return store() / "converted" / entry.id


def present(entry: Entry) -> Path | None:
    """The published weights on this machine, whole and unchanged; None where they would have to be fetched.

    Raises ModelError for bundled weights that are missing, and for bundled or installed ones that are corrupt.
    """
    if entry.hub is None or entry.path.exists():
        _check(entry)
        return entry.path
    return fetch.cached(entry.hub)


def where(entry: Entry) -> str:
    """`bundled`: part of medcli; `cached`: on this machine; `hub`: to be downloaded. Needs no network."""
    if entry.hub is None:
        return "bundled"
    return "cached" if is_here(entry) else "hub"


def is_here(entry: Entry) -> bool:
    """Whether the weights lie on this machine, whole or not; without reading them or the network."""
    return entry.hub is None or entry.path.exists() or fetch.is_there(entry.hub)


def verify(entry: Entry) -> Path:
    """The published weights; raises ModelError unless they are on this machine, whole and unchanged."""
    found = present(entry)
    if found is not None:
        return found
    if is_here(entry):
        hint = f"Fetch it again: med models pull {entry.id}"
        raise ModelError(f"The weights of '{entry.id}' are corrupt in the Hub's cache.", hint)
    raise ModelError(f"'{entry.id}' is not on this machine.", f"Fetch it: med models pull {entry.id}")


def _check(entry: Entry) -> None:
    remedy = REINSTALL
    if entry.hub is not None:
        remedy = f"Remove it (med models rm {entry.id}) and pull it again."
    try:
        found = checksums(entry.path)
    except OSError as error:
        raise ModelError(f"The weights of '{entry.id}' are missing: {entry.path}.", remedy) from error
    if found.bytes != (entry.bytes or found.bytes) or found.sha256 != entry.sha256:
        raise ModelError(f"The weights of '{entry.id}' are corrupt: {entry.path}.", remedy)


def remove(entry: Entry) -> int:
    """Removes fetched, installed and converted weights; returns how many bytes that freed.

    Raises ModelError for weights that come with medcli.
    """
    if entry.hub is None:
        raise ModelError(f"'{entry.id}' is part of medcli and is kept.", "Only downloaded models can be removed.")
    ours = [entry.path, *sorted(converted_folder(entry).glob("*"))]
    freed = sum(path.stat().st_size for path in ours if path.is_file())
    for path in ours:
        path.unlink(missing_ok=True)
    if converted_folder(entry).is_dir():
        converted_folder(entry).rmdir()
    return freed + fetch.remove(entry.hub)
