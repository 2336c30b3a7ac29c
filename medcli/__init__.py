"""medcli: denoise images from the command line or from Python.

Public names, imported when first used, so that `import medcli` costs nothing:
`denoise`, `load`, `Denoiser`, `MedcliError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcli.api import denoise, load
    from medcli.engine.denoiser import Denoiser
    from medcli.errors import MedcliError

__version__ = "0.1.0"
__all__ = ["Denoiser", "MedcliError", "__version__", "denoise", "load"]

_HOMES = {
    "Denoiser": "medcli.engine.denoiser",
    "MedcliError": "medcli.errors",
    "denoise": "medcli.api",
    "load": "medcli.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medcli' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
