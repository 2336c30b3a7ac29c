"""What is known of a model beside what its weight file says: the part that its catalogue row and its page share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medcli.errors import ModelError
from medcli.zoo.weights import Card, build

SAMPLE_SIDE = 256  # pixels of the image over which MACs are counted
NOISE_DOMAIN = "noise"  # of models that generate noise instead of removing it


@dataclass(frozen=True)
class Description(Card):
    """A model in words and figures. What is not known is empty.

    summary: one or two sentences; noise, noises and the rest of a card: see `Card`. value_range: of images. multiple:
    what height and width must be multiples of; receptive_field: pixels to each side. macs_per_pixel: multiply-adds in
    an image of 256x256. data_licence: of the training images. scores: protocol to figure; the protocol ends in the
    metric, "CBSD68 sigma 25, float, PSNR dB".
    """

    summary: str = ""
    value_range: tuple[float, float] = (0, 1)
    multiple: int = 1
    receptive_field: int = 0
    parameters: int = 0
    macs_per_pixel: float = 0
    data_licence: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    citation: str = ""


def describe(card: Card) -> Description:
    """The card with what its network costs and needs of an image, counted on a network without memory.

    Raises ModelError where the card's network cannot be built or run.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network: Any = build(card).eval()
        side = -(-SAMPLE_SIDE // network.multiple) * network.multiple
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            try:
                network(torch.zeros(1, network.channels, side, side))
            except RuntimeError as error:
                raise ModelError(f"The network of '{card.id}' cannot run: {error}") from error
    return Description(
        **vars(card) | {"domain": card.domain or domain_of(network)},
        multiple=network.multiple,
        receptive_field=network.receptive_field,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs_per_pixel=counter.get_total_flops() / 2 / side**2,
    )


def domain_of(network: object) -> str:
    """`noise` for a network with a method `sample`, which generates noise for a clean image; empty for a denoiser."""
    return NOISE_DOMAIN if hasattr(network, "sample") else ""
