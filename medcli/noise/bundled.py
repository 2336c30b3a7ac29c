"""The pools of noises that come with the package, as text: importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml


@cache
def bundled() -> Mapping[str, Mapping[str, float]]:
    """Name -> notation -> weight."""
    text = resources.files("medcli.noise").joinpath("pools.yaml").read_text(encoding="utf-8")
    pools: Mapping[str, Mapping[str, float]] = yaml.safe_load(text)
    return pools
