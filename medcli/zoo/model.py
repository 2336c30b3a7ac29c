"""A model, found once per command: by a name of the catalogue, as a weight file, or in the folder of a training run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.errors import ModelError
from medcli.files.checksum import Checksums, checksums
from medcli.noise.bundled import bundled
from medcli.registry import GRAPHS
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry
from medcli.zoo.fetch import Say
from medcli.zoo.weights import Card, load_graph, load_network, read_card

if TYPE_CHECKING:
    from torch import nn

    from medcli.archs.graphs.graph import Traits
    from medcli.zoo.capabilities import Capabilities

DROP = "drop"  # in the notation of every noise that drops pixels


@dataclass(frozen=True)
class Model:
    """A model on this machine. name: as it was given; path: of its weights in our form, checked against the
    catalogue; entry: its row of the catalogue, None for a weight file or a run. The rest is read when needed.
    """

    name: str
    path: Path
    entry: Entry | None = None

    @cached_property
    def card(self) -> Card:
        """What the weight file says of itself. Raises ModelError where it is not one of ours."""
        return read_card(self.path)

    @property
    def domain(self) -> str:
        """A key of `catalog.DOMAINS`; empty where neither catalogue nor file say."""
        return self.entry.domain if self.entry else self.card.domain

    @property
    def checksums(self) -> Checksums:
        """Of the weight file, which is read once for all of them."""
        return checksums(self.path)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What it can do beside denoising. Raises ModelError where its card names a noise that there is not."""
        from medcli.zoo.capabilities import capabilities_of  # imports torch

        return capabilities_of(self.card)

    @property
    def inpaints(self) -> bool:
        """Whether it fills in missing pixels; imports no torch where its card names no noise that drops pixels."""
        pools = bundled()
        seen = (text for notation in self.card.noises for text in (notation, *pools.get(notation, ())))
        return any(DROP in text for text in seen) and self.capabilities.inpaints

    @property
    def has_graph(self) -> bool:
        """Whether its network runs without PyTorch."""
        return self.card.architecture in GRAPHS

    @property
    def gray_warning(self) -> str:
        """One line for gray images where the model is known not to restore them; empty for others.

        The catalogue knows it of weights that were published before cards could say so.
        """
        card = self.entry or self.card
        if card.gray is not False or card.channels == 1:
            return ""
        better = " or ".join(f"-m {entry.id}" for entry in catalog.entries().values() if entry.gray)
        return f"{self.name} has not learned gray images and hardly changes them" + (
            f"; try {better}." if better else "."
        )

    def network(self) -> nn.Module:
        """In fp32, in evaluation mode. Raises ModelError where the file is corrupt."""
        return load_network(self.path)[0]

    def graph(self) -> tuple[bytes, Traits]:
        """The network as an ONNX model, made without PyTorch, and its traits. Raises ModelError where there is none."""
        return load_graph(self.path)

    def require_blind_spot(self, options: Iterable[str]) -> None:
        """Raises ModelError for options of models that are applied through masks which this one does not take."""
        if given := " or ".join(each for each in options if each.lstrip("-") not in self.card.mask_options):
            if self.card.mask_options:
                known = ", ".join(self.card.mask_options)
                raise ModelError(
                    f"'{self.card.id}' hides pixels at random and cannot take {given}.", f"Known: {known}."
                )
            others = ", ".join(blind_spot_models())
            raise ModelError(
                f"'{self.card.id}' is not a blind-spot model, so it cannot take {given}.",
                f"Blind-spot models: {others}." if others else "",
            )


def blind_spot_models() -> list[str]:
    """The ids of the catalogue's blind-spot models."""
    return [entry.id for entry in catalog.entries().values() if entry.blind_spot]


def tell(line: str) -> None:
    """On standard error: a download that was not requested by name is announced."""
    print(line, file=sys.stderr)


def find_model(name: str, say: Say = tell) -> Model:
    """The model of this name, weight file, or training run's folder.

    Weights of the catalogue are checked against their checksum; those on the Hub are fetched where this machine lacks
    them, and converted to our form once. `say` reports it. Raises ModelError for an unknown name, with the nearest
    known one, and for a file that is missing or corrupt.
    """
    known = catalog.entries()
    if name in known:
        return Model(name, catalog.pull(known[name], say), known[name])
    path = catalog.expanded(name)
    if path.is_dir():
        path = _result(path)
    if path.is_file():
        return Model(name, path)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise ModelError(f"There is no model file {path}.")
    raise catalog.unknown(name, known)


def _result(run: Path) -> Path:
    """The weights that a run kept; its checkpoints are in a folder below."""
    found = sorted(path for path in run.glob("*.safetensors") if not path.name.endswith(".vector.safetensors"))
    if len(found) != 1:
        raise ModelError(f"{run} holds {len(found)} weight files, not one.", "Name the .safetensors file itself.")
    return found[0]
