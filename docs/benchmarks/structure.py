"""Counts that describe the structure of one or several checkouts, as a Markdown table.

    python docs/benchmarks/structure.py CHECKOUT [CHECKOUT...]

Each checkout denoises one small image with `med denoise` in a process of its own, which is traced.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

FOLDERS = ("cli", "batch", "train", "engine", "zoo", "methods", "data", "archs", "noise", "images", "files")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    checkouts = [Path(each).resolve() for each in sys.argv[1:]]
    counts = [static(checkout / "medcli") | traced(checkout) for checkout in checkouts]
    print(f"| | {' | '.join(checkout.name for checkout in checkouts)} |")
    print("|---|" + "---|" * len(checkouts))
    for name in counts[0]:
        print(f"| {name} | {' | '.join(str(each[name]) for each in counts)} |")


def static(package: Path) -> dict[str, Any]:
    """Counts of the sources alone."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    classes = Counter(
        node.name
        for path, node in nodes
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and path.parent.name != "archs"
    )
    functions = [node for _, node in nodes if isinstance(node, Function)]
    private = [(path, node.name) for path, node in nodes if isinstance(node, Function) and is_private(node.name)]
    uses = Counter((path, name) for path, node in nodes for name in used(node))
    bodies = sorted(body_lines(node) for node in functions)
    found: dict[str, Any] = {
        "class names used more than once": sum(count > 1 for count in classes.values()),
        "private functions": len(private),
        "of these used once": sum(uses[each] == 1 for each in private),
        "lines of a function body, median": statistics.median_low(bodies),
        "lines of a function body, 90 %": bodies[9 * len(bodies) // 10],
    }
    for folder in FOLDERS:
        found[f"lines, {folder}"] = sum(n for path, n in lines.items() if (package / folder) in path.parents)
    return found | {"lines, all": sum(lines.values()), "modules": len(lines)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def body_lines(function: Function) -> int:
    """Without the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def traced(checkout: Path) -> dict[str, Any]:
    """Counts of one image through `med denoise`."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        command = [sys.executable, __file__, "--trace", str(checkout)]
        done = subprocess.run(command, cwd=scratch, env=environment, check=True, capture_output=True, text=True)
    counts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return counts


def trace(package: Path) -> dict[str, int]:
    """Runs the command in this process."""
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save("in.png")
    files: list[str] = []
    opened: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(package)) and frame.f_code.co_name != "<module>":
            files.append(name)

    def audit(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[0], str | Path):
            name = Path(given[0]).name
            opened["models.yaml"] += name == "models.yaml"
            opened["weights"] += name.endswith(".safetensors") and hashing(sys._getframe(), package)

    from medcli.cli import main

    sys.addaudithook(audit)
    sys.argv = ["med", "denoise", "in.png", "-o", "out", "--device", "cpu", "-q"]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
    return {
        "files entered by one image": len(set(files)),
        "changes of file": sum(one != other for one, other in pairwise(files)),
        "reads of models.yaml": opened["models.yaml"],
        "reads of the weights for checksums": opened["weights"],
    }


def hashing(frame: FrameType | None, package: Path) -> bool:
    """Whether the innermost function of the package computes a checksum."""
    while frame is not None and not frame.f_code.co_filename.startswith(str(package)):
        frame = frame.f_back
    return frame is not None and bool({"update", "sha256", "blake2b", "file_digest"} & {*frame.f_code.co_names})


if __name__ == "__main__":
    if sys.argv[1] == "--trace":
        print(json.dumps(trace(Path(sys.argv[2]) / "medcli")))
    else:
        main()
