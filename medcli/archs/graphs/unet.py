"""The graph of `medcli.archs.unet`, and the residual blocks that `medcli.archs.split` shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcli.archs.graphs.graph import Graph, Traits, Value


def traits(config: Mapping[str, Any]) -> Traits:
    """By the configuration of a `ResidualUNet`."""
    blocks, unshuffle = config["blocks"], config["unshuffle"]
    multiple = unshuffle * 2 ** len(blocks)
    radius = 2  # head and tail
    radius += sum(4 * depth * 2**level for level, depth in enumerate(blocks))
    radius += 2 * config["middle"] * 2 ** len(blocks)
    return Traits(config["channels"], multiple, unshuffle * radius + multiple - 1)


def build(graph: Graph, config: Mapping[str, Any]) -> Value:
    """The nodes of `ResidualUNet.forward`."""
    widths, blocks, unshuffle = config["widths"], config["blocks"], config["unshuffle"]
    features = graph.conv(graph.unshuffle(graph.subtract(graph.noisy, 0.5), unshuffle), "head", widths[0])
    skips = []
    for level, depth in enumerate(blocks):
        features = stage(graph, features, f"encoders.{level}", depth)
        skips.append(features)
        features = graph.conv(features, f"downs.{level}", widths[level + 1], 2, stride=2)
    features = stage(graph, features, "middle", config["middle"])
    for level in reversed(range(len(blocks))):
        joined = graph.add(graph.double(features, f"ups.{level}", widths[level]), skips[level])
        features = stage(graph, joined, f"decoders.{level}", blocks[level])
    tail = graph.conv(features, "tail", config["channels"] * unshuffle**2)
    return graph.add(graph.noisy, graph.shuffle(tail, unshuffle))


def stage(graph: Graph, features: Value, name: str, depth: int) -> Value:
    """`depth` residual blocks: x + conv(relu(conv(x)))."""
    for number in range(depth):
        first = graph.relu(graph.conv(features, f"{name}.{number}.first", features.channels))
        features = graph.add(features, graph.conv(first, f"{name}.{number}.second", features.channels))
    return features
