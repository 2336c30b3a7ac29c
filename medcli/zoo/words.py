"""How models are spoken of: their size, and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medcli.zoo.catalog import Entry


def size(number: int | None) -> str:
    """Bytes for a person; None is what nobody stated."""
    if number is None:
        return "not stated"
    return f"{number / 1e6:,.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def place(entry: Entry) -> str:
    """`bundled`: comes with medcli; `cached`: on this machine; `hub`: would be fetched. Asks no network."""
    from medcli.zoo.catalog import is_here  # imports YAML, which sizes can do without

    if entry.hub is None:
        return "bundled"
    return "cached" if is_here(entry) else "hub"
