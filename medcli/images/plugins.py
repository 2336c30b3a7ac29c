"""Packages that only some formats need: imported when such a file comes, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from medcli.errors import MedcliError


def plugin(module: str, package: str, format: str, error: type[MedcliError], extra: str = "formats") -> Any:
    """The imported module. Raises `error` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        missing = isinstance(problem, ModuleNotFoundError)
        text = f"{format} needs the package {package}, which {'is missing' if missing else f'fails: {problem}'}."
        raise error(text, f"pip install 'medcli[{extra}]'") from None
