"""The graph of `medcli.archs.plainunet`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcli.archs.graphs.graph import Graph, Traits, Value

SLOPE = 0.2  # of the leaky ReLUs


def traits(config: Mapping[str, Any]) -> Traits:
    """By the configuration of a `PlainUNet`."""
    multiple = 2 ** config["levels"]
    # One convolution down and two up at each level, one at the bottom, one before; plus the pooling.
    return Traits(config["channels"], multiple, 3 * (multiple - 1) + multiple + 1 + multiple - 1)


def build(graph: Graph, config: Mapping[str, Any]) -> Value:
    """The nodes of `PlainUNet.forward`."""
    width, levels, channels = config["width"], config["levels"], config["channels"]

    def conv(value: Value, name: str, outputs: int, side: int = 3) -> Value:
        return graph.relu(graph.conv(value, f"{name}.0", outputs, side), SLOPE)

    features, skips = conv(graph.noisy, "head", width), [graph.noisy]
    for level in range(levels):
        features = graph.halve(conv(features, f"encoders.{level}", width))
        skips.append(features)
    features = conv(skips.pop(), "middle", width)
    for level in range(levels):
        up = graph.double(features, f"ups.{level}", features.channels)
        features = graph.concatenate([up, skips.pop()])
        name = "last" if level == levels - 1 else f"decoders.{level}"
        outputs = config["head"] if level == levels - 1 else 2 * width
        features = conv(conv(features, f"{name}.0", outputs), f"{name}.1", outputs)
    features = conv(conv(features, "tail.0", config["head"], 1), "tail.1", config["head"], 1)
    return graph.conv(features, "tail.2", channels, 1)
