"""The architecture as a test: imports go downwards only, and modules do not import one another in circles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import medcli
from medcli.registry import DEFAULT_METHOD, METHODS

PACKAGE = Path(medcli.__file__).parent
FLOORS = (
    {"errors", "cpu"},
    {"files", "losses", "registry", "seeding", "vst"},
    {"images"},
    {"blind_spot", "archs", "noise", "metrics"},
    {"data"},
    {"methods"},
    {"engine", "zoo"},
    {"train"},
    {"batch"},
    {"api"},  # the door for Python, which the command uses too
    {"cli"},
    {"__main__"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, source: str) -> Iterator[str]:
    """The modules of medcli that a module names, also inside functions and for type checking only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "medcli")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports within medcli are absolute"
            if node.module and node.module.partition(".")[0] == "medcli":
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    yield submodule if submodule in MODULES else node.module


def part(module: str) -> str:
    """`medcli.images.png` -> `images`; the empty string for the package itself."""
    return module.removeprefix("medcli").lstrip(".").partition(".")[0]


def violations(name: str, source: str) -> list[str]:
    """Imports that go upwards, or sideways into another part."""
    here = part(name)
    if not here:  # the package itself names its public parts for type checkers, and imports none of them
        return []
    return [
        target
        for target in imports(name, source)
        if (there := part(target)) not in ("", here) and FLOOR[there] >= FLOOR[here]
    ]


def test_every_part_has_a_floor() -> None:
    assert {part(name) for name in MODULES} - {""} <= set(FLOOR)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    assert violations(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["import medcli.cli", "from medcli.zoo import weights", "def f():\n    from medcli.batch.denoise.plan import Job"],
)
def test_upward_and_sideways_imports_are_seen(source: str) -> None:
    assert violations("medcli.engine.denoiser", source)


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops what is imported for the type checker alone."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def executed(name: str, source: str) -> set[str]:
    """The modules that `name` imports when it runs: at its top level and inside functions."""
    text = ast.unparse(WithoutTypeChecking().visit(ast.parse(source)))
    return {target for target in imports(name, text) if target in MODULES and target != name}


def circular(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves through others, and those that import such ones."""
    left = dict(graph)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_module_imports_itself_through_others() -> None:
    assert circular({name: executed(name, path.read_text(encoding="utf-8")) for name, path in MODULES.items()}) == []


def test_a_circle_through_a_function_is_seen() -> None:
    below = executed("medcli.zoo.fetch", "def f():\n    from medcli.zoo.catalog import entries")
    assert circular({"medcli.zoo.fetch": below, "medcli.zoo.catalog": {"medcli.zoo.fetch"}})


def duplicate_classes(sources: dict[str, str]) -> dict[str, list[str]]:
    """Public classes that several modules define, with these modules."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def test_no_public_class_name_stands_twice_outside_archs() -> None:
    """Networks follow their papers' names."""
    sources = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items() if part(name) != "archs"}
    assert duplicate_classes(sources) == {}


def test_a_duplicate_class_is_seen() -> None:
    assert duplicate_classes({"a": "class Row: ...", "b": "class Row: ...\nclass _Row: ..."}) == {"Row": ["a", "b"]}


def named(source: str) -> set[str]:
    """The methods of the package that a module names: imported, as a string, or in words.

    "med" is the command's own name, and supervised is a word: of these only a string that is nothing else counts.
    """
    words = "|".join(sorted(METHODS.keys() - {"med", DEFAULT_METHOD}))
    found = set(re.findall(rf"medcli\.methods\.({'|'.join(METHODS)})\b", source))
    found |= set(re.findall(rf"\b(?:{words})\b", source))
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return found | {value for value in strings if value == DEFAULT_METHOD}


def without_prose(source: str) -> str:
    """The code without comments and strings of several words, such as help texts with examples."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            node.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if part(name) not in ("methods", "archs", "registry") and part(name)]
)
def test_no_module_names_a_method(name: str) -> None:
    """What a method has to say goes through the protocols of `medcli.methods.base`; examples in help may name one."""
    source = MODULES[name].read_text(encoding="utf-8")
    assert named(without_prose(source) if part(name) == "cli" else source) == set()


@pytest.mark.parametrize(
    "source",
    ["from medcli.methods.med import MeD", "x = method == 'amsnet'", "# as n2s does", f"m = {DEFAULT_METHOD!r}"],
)
def test_a_named_method_is_seen(source: str) -> None:
    assert named(source)
