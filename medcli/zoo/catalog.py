"""`models.yaml`: what models there are and where their weights lie. Reading it needs neither torch nor a network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError
from medcli.registry import nearest
from medcli.zoo.checksum import measure
from medcli.zoo.schema import FIELDS, HUB_FIELDS, Row, read_rows

if TYPE_CHECKING:
    from medcli.zoo.fetch import HubFile
    from medcli.zoo.weights import Card

PACKAGE = Path(__file__).parent.parent
WEIGHTS = PACKAGE / "weights"
HOME_VARIABLE = "MED_HOME"


@dataclass(frozen=True)
class Entry:
    """One model of the zoo: a row of `models.yaml`.

    domain: what pictures it is for, a key of `schema.DOMAINS`; noise: what it removes and how much of it, in words.
    architecture, config, strategy, channels, noises, gray: as on the card of its weights. value_range: of pictures.
    multiple, receptive_field: of its network, in pixels. macs_per_pixel: multiplications per pixel of 256x256.
    source: 'bundled', or a file on the Hub; file: its name there, or below `medcli/weights`. naming: of the tensors,
    where they are not ours. bytes: None where nobody stated it. licence: of the weights; data_licence: of the
    pictures it was trained on. scores: protocol to figure. tolerance: of the test vector, in grey levels of 255;
    None where there is no vector.
    """

    id: str
    title: str
    summary: str
    domain: str
    architecture: str
    config: dict[str, Any]
    strategy: str
    channels: int
    noise: str
    noises: list[str]
    value_range: tuple[float, float]
    multiple: int
    receptive_field: int
    half_safe: bool
    gray: bool | None
    parameters: int
    macs_per_pixel: int
    source: str | HubFile
    naming: str
    file: str
    bytes: int | None
    sha256: str
    licence: str
    data_licence: str
    training_data: list[str]
    method: str
    recipe: str
    scores: dict[str, float]
    citation: str
    tolerance: float | None

    @property
    def hub(self) -> HubFile | None:
        """Where on the Hub the weights are; None for those that come with medcli."""
        return None if isinstance(self.source, str) else self.source

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
    def card(self) -> Card:
        """What a weight file of this model says of itself."""
        from medcli.zoo.weights import Card

        return Card(**{item.name: getattr(self, item.name) for item in fields(Card) if hasattr(self, item.name)})


def ignore(line: str) -> None:
    """For those who do not want to hear about progress."""


def tell(line: str) -> None:
    """On standard error: a download that nobody asked for by name should not come as a surprise."""
    print(line, file=sys.stderr)


def catalog_path() -> Path:
    """`models.yaml`, inside the installed package or at the root of a checkout."""
    inside = PACKAGE / "models.yaml"
    return inside if inside.exists() else PACKAGE.parent / "models.yaml"


def store() -> Path:
    """The folder of models installed from a bundle and of converted ones: MED_HOME, or the user's data folder."""
    if home := os.environ.get(HOME_VARIABLE):
        return _expanded(home) / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("medcli", appauthor=False)) / "models"


def _expanded(name: str) -> Path:
    """With `~` as the user's home; a home that nobody has is a name like any other, not an error."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def entries(path: Path | None = None) -> dict[str, Entry]:
    """Every model by id; raises ModelError, with file and line, where the catalogue is malformed."""
    path = path or catalog_path()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", "Install medcli again.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no catalogue of models: it is not UTF-8 text.", "Install medcli again.") from error
    return {row["id"]: _entry(row) for row in read_rows(text, path)}


def _entry(row: Row) -> Entry:
    if isinstance(row["source"], str):
        return Entry(**row)
    from medcli.zoo.fetch import HubFile

    where = row["source"]
    file = HubFile(**where, bytes=row["bytes"], sha256=row["sha256"])
    return Entry(**row | {"source": file, "file": where["file"]})


def as_row(entry: Entry) -> Row:
    """The row of `models.yaml` that says this; plain data for YAML and JSON."""
    row = {key: getattr(entry, key) for key in FIELDS} | {"value_range": list(entry.value_range)}
    if entry.hub is not None:
        row["source"] = {key: getattr(entry.hub, key) for key in HUB_FIELDS}
        del row["file"]
    empty: Row = {"naming": "", "noises": [], "gray": None, "tolerance": None}
    return {key: value for key, value in row.items() if key not in empty or value != empty[key]}


def find(name: str, known: dict[str, Entry] | None = None) -> Entry:
    """The model called `name`; raises ModelError with the nearest known one."""
    known = entries() if known is None else known
    if name not in known:
        raise unknown(name, known)
    return known[name]


def masked_models() -> list[str]:
    """The ids of models that are asked through masks."""
    return [entry.id for entry in entries().values() if entry.card.masked]


def need_masks(card: Card, given: Iterable[str]) -> None:
    """Raises ModelError for a model that is not asked through masks; given: what it has no use for."""
    if card.masked:
        return
    known = ", ".join(masked_models())
    raise ModelError(
        f"'{card.id}' is not asked through masks, so it has no use for {' or '.join(given)}.",
        f"Models that are: {known}." if known else "Models that 'med train --method amsnet' makes are.",
    )


def gray_warning(name: str) -> str:
    """One line for gray pictures where the model called `name` is known not to restore them; empty for others.

    name: of the zoo or a file's. The catalogue knows it of weights that were published before cards could say so.
    """
    from medcli.zoo.weights import read_card

    known = entries()
    card = known[name].card if name in known else read_card(locate(name))
    if card.gray is not False or card.channels == 1:
        return ""
    better = " or ".join(f"-m {entry.id}" for entry in known.values() if entry.gray)
    return f"{name} has not learned gray pictures and hardly changes them" + (f"; try {better}." if better else ".")


def unknown(name: str, known: Iterable[str]) -> ModelError:
    """The letter for a name that no model has, with the nearest of those there are."""
    return ModelError(f"There is no model called '{name}'.", nearest(name, known))


def locate(name: str, say: Callable[[str], None] = tell) -> Path:
    """The weight file behind a name of the zoo, the path of a file, or a training run's folder.

    Weights of the zoo are checked against their checksum; those on the Hub are fetched where this machine lacks them,
    and turned into our form once. `say` hears about it. Raises ModelError for an unknown name, with the nearest known
    one, and for a file that is missing or corrupt.
    """
    known = entries()
    if name in known:
        return pull(known[name], say)
    path = _expanded(name)
    if path.is_dir():
        return _product(path)
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise ModelError(f"There is no model file {path}.")
    raise unknown(name, known)


def _product(folder: Path) -> Path:
    """The weights that a run kept; its checkpoints lie deeper."""
    found = sorted(path for path in folder.glob("*.safetensors") if not path.name.endswith(".vector.safetensors"))
    if len(found) != 1:
        raise ModelError(f"{folder} holds {len(found)} weight files, not one.", "Name the .safetensors file itself.")
    return found[0]


def pull(entry: Entry, say: Callable[[str], None] = ignore) -> Path:
    """The weights in our form, ready for use without a network from now on. Raises ModelError."""
    return ours(entry, present(entry) or _fetched(entry, say))


def _fetched(entry: Entry, say: Callable[[str], None]) -> Path:
    from medcli.zoo.fetch import fetch

    assert entry.hub is not None
    return fetch(entry.hub, name=entry.id, say=say)


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
    from medcli.zoo.fetch import cached

    return cached(entry.hub)


def is_here(entry: Entry) -> bool:
    """Whether the weights lie on this machine, whole or not; neither their bytes nor the network are asked."""
    if entry.hub is None or entry.path.exists():
        return True
    from medcli.zoo.fetch import is_there

    return is_there(entry.hub)


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
    remedy = "Install medcli again."
    if entry.hub is not None:
        remedy = f"Remove it (med models rm {entry.id}) and pull it again."
    try:
        size, digest = measure(entry.path)
    except OSError as error:
        raise ModelError(f"The weights of '{entry.id}' are missing: {entry.path}.", remedy) from error
    if size != (entry.bytes or size) or digest != entry.sha256:
        raise ModelError(f"The weights of '{entry.id}' are corrupt: {entry.path}.", remedy)


def remove(entry: Entry) -> int:
    """Removes fetched, installed and converted weights; returns how many bytes that freed.

    Raises ModelError for weights that come with medcli.
    """
    if entry.hub is None:
        raise ModelError(f"'{entry.id}' comes with medcli and stays.", "Only fetched models can be removed.")
    from medcli.zoo.fetch import remove as forget

    ours = [entry.path, *sorted(converted_folder(entry).glob("*"))]
    freed = sum(path.stat().st_size for path in ours if path.is_file())
    for path in ours:
        path.unlink(missing_ok=True)
    if converted_folder(entry).is_dir():
        converted_folder(entry).rmdir()
    return freed + forget(entry.hub)
