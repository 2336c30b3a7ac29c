"""What a row of `models.yaml` may hold. A letter names the file, the line and the remedy.

The text is read as nodes, which know their lines, and only plain data comes out of it: no anchors, no tags, no dates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from medcli.errors import ModelError
from medcli.registry import ARCHITECTURES, NOISES, STRATEGIES, nearest

DOMAINS: Mapping[str, str] = {
    "photo": "photographs, scans and screenshots with real noise",
    "gaussian": "additive white Gaussian noise, as in the literature",
    "gray": "pictures of one channel",
    "microscopy": "micrographs",
    "noise": "noise that was learned, which med synth-pairs adds to clean pictures",
}
HUB_KINDS: Mapping[str, str] = {
    "model": "a repository of models",
    "space": "a Space",
    "dataset": "a repository of data",
}
BUNDLED = "bundled"
MAX_TEXT = 1_000_000  # characters; a catalogue is a few kilobytes per model
MAX_DEPTH = 12

Row = dict[str, Any]
Kind = Callable[[Node], Any]


class _Misfit(Exception):
    """A node that does not fit: where, what, and what to write instead."""

    def __init__(self, node: Node, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.line = node.start_mark.line + 1
        self.problem, self.remedy = problem, remedy


def read_rows(text: str, name: str | Path) -> list[Row]:
    """The rows of a catalogue, each with every key of `FIELDS`; the value of an optional one may be missing: None.

    `name` stands for the file in letters. Raises ModelError for the first thing that does not fit.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ModelError(f"{name} is no catalogue of models: it has {len(text)} characters.")
        root = yaml.compose(text, _PlainLoader)
        return _rows(root) if root is not None else _nothing(name)
    except _Misfit as misfit:
        raise ModelError(f"{name}, line {misfit.line}: {misfit.problem}.", misfit.remedy) from misfit
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ModelError(f"{name}, line {line}: this cannot be read: {error.problem}.", "Mend the line.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        hint = "Save the file as plain UTF-8 text."
        raise ModelError(f"{name}, line {line}: a character that YAML does not allow.", hint) from error
    except (RecursionError, ValueError, OverflowError) as error:  # escapes that are no character
        raise ModelError(f"{name} is no catalogue of models: {error}.", "Install medcli again.") from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, a few bytes of which can stand for terabytes, and nesting without end."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used here", mark)
        if self.depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        self.depth += 1
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _nothing(name: str | Path) -> list[Row]:
    raise ModelError(f"{name}, line 1: there is no key 'models'.", "Install medcli again.")


def _rows(root: Node) -> list[Row]:
    top = _pairs(root)
    for key, (key_node, _) in top.items():
        if key != "models":
            raise _Misfit(key_node, f"unknown key '{key}'", "The only key at the top is 'models'.")
    if "models" not in top:
        raise _Misfit(root, "there is no key 'models'", "Write 'models:' and a list below it.")
    rows: dict[str, Row] = {}
    for node in _items(top["models"][1]):
        row = _row(node)
        if row["id"] in rows:
            raise _Misfit(node, f"the id '{row['id']}' is taken already", "Give this model an id of its own.")
        rows[row["id"]] = row
    return list(rows.values())


def _row(node: Node) -> Row:
    cells = _pairs(node)
    hub = "source" in cells and isinstance(cells["source"][1], MappingNode)
    optional = HUB_OPTIONAL if hub else BUNDLED_OPTIONAL
    _check_keys(node, cells, FIELDS, FIELDS.keys() - optional.keys())
    row = {key: FIELDS[key](cells[key][1]) if key in cells else optional[key] for key in FIELDS}
    if hub and "file" in cells:
        raise _Misfit(cells["file"][0], "the file of a Hub model is named in 'source'", "Remove this line.")
    if not hub and row["bytes"] is None:
        raise _Misfit(cells["bytes"][1], "'bytes' may be null for Hub models only", "Write the size of the file.")
    return row


def _check_keys(
    node: Node, cells: Mapping[str, tuple[Node, Node]], known: Mapping[str, Kind], required: set[str]
) -> None:
    whose = f" in model '{cells['id'][1].value}'" if "id" in cells else ""
    for key, (key_node, _) in cells.items():
        if key not in known:
            raise _Misfit(key_node, f"unknown key '{key}'{whose}", nearest(key, known))
    for key in known:
        if key in required and key not in cells:
            raise _Misfit(node, f"'{key}' is missing{whose}", f"Add a line '{key}:' to what begins here.")


def _pairs(node: Node) -> dict[str, tuple[Node, Node]]:
    """Key to (its node, the node of its value)."""
    if not isinstance(node, MappingNode):
        raise _Misfit(node, f"{_seen(node)} where keys and values are expected", "Write 'key: value' lines.")
    cells: dict[str, tuple[Node, Node]] = {}
    for key, value in node.value:
        name = _text(key)
        if name in cells:
            raise _Misfit(key, f"the key '{name}' stands here twice", "Remove one of them.")
        cells[name] = (key, value)
    return cells


def _items(node: Node) -> list[Node]:
    if not isinstance(node, SequenceNode):
        raise _Misfit(node, f"{_seen(node)} where a list is expected", "Write '- ' before each item.")
    return list(node.value)


def _seen(node: Node) -> str:
    """What stands there, in a word."""
    if isinstance(node, ScalarNode):
        value = str(node.value)
        return f"'{value if len(value) <= 40 else value[:37] + '...'}'"
    return "a list" if isinstance(node, SequenceNode) else "a table of keys"


def _tag(node: Node) -> str:
    """str, int, float, bool or null for a plain value; what else it is for others."""
    return str(node.tag).removeprefix("tag:yaml.org,2002:") if isinstance(node, ScalarNode) else ""


def _text(node: Node) -> str:
    """One text, may be empty."""
    if _tag(node) != "str":
        raise _Misfit(node, f"{_seen(node)} is not a text", "Write a text; numbers and dates need quotes around them.")
    return str(node.value)


def _words(node: Node) -> str:
    if not _text(node).strip():
        raise _Misfit(node, "an empty text where words are expected", "Say it in words.")
    return str(node.value)


def _matching(pattern: str, remedy: str) -> Kind:
    expression = re.compile(pattern)

    def read(node: Node) -> str:
        if not isinstance(node, ScalarNode) or not expression.fullmatch(node.value):
            raise _Misfit(node, f"{_seen(node)} does not fit", remedy)
        return str(node.value)

    return read


def _one_of(table: Mapping[str, str]) -> Kind:
    def read(node: Node) -> str:
        name = _text(node)
        if name not in table:
            raise _Misfit(node, f"'{name}' is not known here", nearest(name, table))
        return name

    return read


def _strategy(node: Node) -> str:
    """Its name is looked up here; its arguments are read where it is used, which needs torch."""
    notation = _text(node)
    name = notation.partition(":")[0]
    if name not in STRATEGIES:
        raise _Misfit(node, f"'{name}' is not known here", nearest(name, STRATEGIES))
    return notation


def _noises(node: Node) -> list[str]:
    """Notations, whose names are looked up here; their arguments are read where they are used, which needs torch."""
    for item in _items(node):
        for part in re.split(r"\+(?!\d)", _words(item)):
            if (name := part.partition(":")[0].strip()) not in NOISES:
                raise _Misfit(item, f"'{name}' is no noise", nearest(name, NOISES))
    return _list_of_words(node)


def _whole(least: int) -> Kind:
    def read(node: Node) -> int:
        if _tag(node) != "int" or not re.fullmatch(r"\d{1,15}", node.value) or int(node.value) < least:
            raise _Misfit(node, f"{_seen(node)} is not a whole number from {least} on", "Write digits alone.")
        return int(node.value)

    return read


def _whole_or_unstated(node: Node) -> int | None:
    return None if _tag(node) == "null" else int(_whole(1)(node))


def _number(node: Node) -> float:
    if _tag(node) not in ("int", "float") or not re.fullmatch(r"-?\d{1,15}(\.\d*)?", node.value):
        raise _Misfit(node, f"{_seen(node)} is not a number", "Write a number such as 37.93.")
    return float(node.value)


def _yes_or_no(node: Node) -> bool:
    if _tag(node) != "bool" or node.value not in ("true", "false"):
        raise _Misfit(node, f"{_seen(node)} is neither true nor false", "Write true or false.")
    return bool(node.value == "true")


def _list_of_words(node: Node) -> list[str]:
    return [_words(item) for item in _items(node)]


def _range(node: Node) -> tuple[float, float]:
    ends = [_number(item) for item in _items(node)]
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise _Misfit(node, "the range of values is not two ascending numbers", "Write it like [0, 1].")
    return ends[0], ends[1]


def _scores(node: Node) -> dict[str, float]:
    return {protocol: _number(figure) for protocol, (_, figure) in _pairs(node).items()}


def _table(node: Node) -> dict[str, Any]:
    return {key: _plain(value) for key, (_, value) in _pairs(node).items()}


def _plain(node: Node) -> Any:
    """The arguments of a network: numbers, texts, true and false, lists and tables of them."""
    if isinstance(node, SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, MappingNode):
        return _table(node)
    tag = _tag(node)
    if tag == "bool":
        return _yes_or_no(node)
    if tag in ("int", "float"):
        return int(node.value) if re.fullmatch(r"-?\d{1,15}", node.value) else _number(node)
    return None if tag == "null" else _text(node)


def _source(node: Node) -> str | Row:
    """`bundled`, or where on the Hub."""
    if isinstance(node, MappingNode):
        cells = _pairs(node)
        _check_keys(node, cells, HUB_FIELDS, set(HUB_FIELDS) - {"kind"})
        return {"kind": "model"} | {key: HUB_FIELDS[key](value) for key, (_, value) in cells.items()}
    if not isinstance(node, ScalarNode) or node.value != BUNDLED:
        keys = ", ".join(HUB_FIELDS)
        raise _Misfit(node, f"{_seen(node)} is not a source", f"Write '{BUNDLED}', or a table with the keys {keys}.")
    return BUNDLED


HUB_FIELDS: Mapping[str, Kind] = {
    "repo": _matching(r"[\w.-]{1,96}/[\w.-]{1,96}", "Write the repository as owner/name."),
    "file": _matching(
        r"(?!.*\.\.)[\w-][\w.-]*(/[\w-][\w.-]*)*", "Write the file's path in the repository, with '/' between folders."
    ),
    "revision": _matching(r"[0-9a-f]{40}", "Write the full revision: 40 digits of 0-9 and a-f, not a branch."),
    "kind": _one_of(HUB_KINDS),
}

FIELDS: Mapping[str, Kind] = {
    "id": _matching(r"[a-z0-9][a-z0-9.-]{0,63}", "An id has small letters, digits, '-' and '.' in it, at most 64."),
    "title": _words,
    "summary": _words,
    "domain": _one_of(DOMAINS),
    "architecture": _one_of(ARCHITECTURES),
    "config": _table,
    "strategy": _strategy,
    "channels": _whole(1),
    "noise": _words,
    "noises": _noises,
    "value_range": _range,
    "multiple": _whole(1),
    "receptive_field": _whole(0),
    "half_safe": _yes_or_no,
    "gray": _yes_or_no,
    "parameters": _whole(1),
    "macs_per_pixel": _whole(1),
    "source": _source,
    "naming": _matching(r"[a-z0-9-]*", "Name the naming of the tensors, such as kair or basicsr."),
    "file": _matching(r"[\w-][\w.-]*\.safetensors", "Write the name of a .safetensors file, without a folder."),
    "bytes": _whole_or_unstated,
    "sha256": _matching(r"[0-9a-f]{64}", "Write the checksum: 64 digits of 0-9 and a-f."),
    "licence": _words,
    "data_licence": _words,
    "training_data": _list_of_words,
    "method": _words,
    "recipe": _text,
    "scores": _scores,
    "citation": _text,
    "tolerance": _number,
}

BUNDLED_OPTIONAL: Mapping[str, Any] = {"naming": "", "noises": [], "gray": None}
HUB_OPTIONAL: Mapping[str, Any] = {**BUNDLED_OPTIONAL, "file": None, "tolerance": None}
