"""The notation of noises, on the command line, in YAML and in tables.

    gaussian:25                        a level
    gaussian:5-50                      a range, drawn once per image
    salt-pepper:0.1,salt=0.3           further arguments by name
    gaussian:25+clip+speckle:25+clip   a chain, in this order; clip and round (8 bits) only where they are written
    noise                              a pool by name (pools.yaml beside this file)
    mine.yaml                          your own pool: lines of `notation: weight`

`str(noise)` is the inverse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from medcli.errors import RecipeError
from medcli.noise.base import Noise, level_fields
from medcli.noise.bundled import bundled
from medcli.noise.chain import chained
from medcli.noise.pool import Pool
from medcli.registry import NOISES, nearest, resolve

T = TypeVar("T", int, float)
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
SPAN = re.compile(rf"({NUMBER})(?:-({NUMBER}))?", re.IGNORECASE)
PLUS = re.compile(r"\+(?!\d)")  # not the one of 1e+3


def parse(text: str) -> Noise:
    """The noise, chain or pool that `text` describes; raises RecipeError with the closest name if it is invalid."""
    if text.strip().endswith((".yaml", ".yml")):
        return read_pool(Path(text.strip()))
    return _chain(text)


def parse_pool(text: str) -> Pool:
    """A pool by name or YAML file; raises RecipeError for others."""
    if text.endswith((".yaml", ".yml")):
        return read_pool(Path(text))
    if text not in bundled():
        raise RecipeError(f"There is no pool called '{text}'.", nearest(text, bundled()) + " Or name a YAML file.")
    return _pool(bundled()[text], text)


def read_pool(path: Path) -> Pool:
    """The pool in a YAML file of lines `notation: weight`; raises RecipeError if it is invalid."""
    try:
        return _pool(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise RecipeError(f"The pool {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error


def entries(fingerprint: str) -> list[str]:
    """The notations in `(weight*notation|...)`, the form of a pool in manifests, or the notation itself.

    Empty for a pool within a pool or a chain, whose context may change its effect.
    """
    if "(" not in fingerprint:
        return [fingerprint]
    whole = fingerprint.startswith("(") and fingerprint.endswith(")") and fingerprint.count("(") == 1
    return [each.partition("*")[2] for each in fingerprint[1:-1].split("|")] if whole else []


def _pool(shares: object, name: str) -> Pool:
    hint = "It must have lines such as 'gaussian:25: 0.5', a noise and its weight."
    if not isinstance(shares, Mapping) or not shares:
        raise RecipeError(f"{name} is not a pool of noises.", hint)
    for notation, weight in shares.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise RecipeError(f"{name}: the weight of '{notation}' is {weight!r}, not a number.", hint)
    return Pool(tuple((float(weight), _chain(str(notation))) for notation, weight in shares.items()), name)


def _chain(text: str) -> Noise:
    return chained(*(_component(part.strip(), text) for part in PLUS.split(text)))


def _component(part: str, text: str) -> Noise:
    name, _, arguments = part.partition(":")
    if not part:
        raise RecipeError(f"'{text}' has nothing next to a '+'.", "A chain looks like gaussian:25+speckle:25.")
    if name not in NOISES and part in bundled():
        return parse_pool(part)
    if name not in NOISES:
        raise RecipeError(f"There is no noise or pool called '{name}'.", nearest(name, {*NOISES, *bundled()}))
    kind: type[Noise] = resolve(NOISES, name, kind="noise", error=RecipeError)
    try:
        return kind(**_arguments(kind, name, arguments))
    except TypeError as error:
        raise RecipeError(f"'{part}' needs a level.", f"For example {name}:2.") from error


def _arguments(kind: type[Noise], name: str, text: str) -> dict[str, Any]:
    known = {item.name: item for item in fields(kind)}
    level = level_fields(kind)
    found: dict[str, Any] = {}
    for position, word in enumerate(text.split(",") if text else []):
        key, named, value = (part.strip() for part in word.partition("="))
        if not named and position == 0 and len(level) == 2:
            found.update(zip(level, _pair(name, key), strict=True))
        elif not named and position == 0 and level:
            found[level[0]] = _value(known[level[0]], name, key)
        elif key in known:
            found[key] = _value(known[key], f"{name}: {key}", value)
        else:
            raise RecipeError(f"'{name}' has no argument '{key}'.", nearest(key, known) if known else "It has none.")
    return found


def _value(item: Field[Any], what: str, word: str) -> object:
    convert: Mapping[str, Callable[[str, str], object]] = {
        "float": _float, "int": _int, "str": lambda _, word: word,
        "tuple[float, float]": _pair, "tuple[int, int]": _whole_pair,
    }  # fmt: skip
    return convert[str(item.type)](what, word)  # annotations are strings here


def _pair(what: str, word: str) -> tuple[float, float]:
    if not (match := SPAN.fullmatch(word)):
        raise RecipeError(f"'{word}' is not a valid level for '{what}'.", "Give a number (25) or a range (5-50).")
    return float(match[1]), float(match[2] or match[1])


def _whole_pair(what: str, word: str) -> tuple[int, int]:
    low, high = _pair(what, word)
    if not (low.is_integer() and high.is_integer()):
        raise RecipeError(f"'{what}' takes whole numbers, not {word}.")
    return int(low), int(high)


def _float(what: str, word: str) -> float:
    return _single(what, _pair(what, word))


def _int(what: str, word: str) -> int:
    return _single(what, _whole_pair(what, word))


def _single(what: str, pair: tuple[T, T]) -> T:
    if pair[0] != pair[1]:
        raise RecipeError(f"'{what}' takes one number, not the range {pair[0]:g}-{pair[1]:g}.")
    return pair[0]
