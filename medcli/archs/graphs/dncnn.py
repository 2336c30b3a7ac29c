"""The graph of `medcli.archs.dncnn`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcli.archs.graphs.graph import Graph, Traits, Value


def traits(config: Mapping[str, Any]) -> Traits:
    """By the configuration of a `DnCNN`."""
    return Traits(config["channels"], 1, config["depth"])


def build(graph: Graph, config: Mapping[str, Any]) -> Value:
    """The nodes of `DnCNN.forward`."""
    depth, width, normalised = config["depth"], config["width"], config["batch_norm"]
    features = graph.relu(graph.conv(graph.noisy, "layers.0", width))
    layer = 2  # number in the stack, in which ReLUs count
    for _ in range(depth - 2):
        features = graph.conv(features, f"layers.{layer}", width, bias=not normalised)
        if normalised:
            features = graph.batch_norm(features, f"layers.{layer + 1}")
        features = graph.relu(features)
        layer += 3 if normalised else 2
    return graph.subtract(graph.noisy, graph.conv(features, f"layers.{layer}", config["channels"]))
