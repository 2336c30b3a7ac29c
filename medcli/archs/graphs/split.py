"""The graph of `medcli.archs.split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcli.archs.graphs.graph import Graph, Traits, Value
from medcli.archs.graphs.unet import stage


def traits(config: Mapping[str, Any]) -> Traits:
    """By the configuration of a `SplitUNet`."""
    depths = zip(config["encoders"], config["decoders"], strict=True)
    reach = 2 + sum(2 * (before + after) * 2**level for level, (before, after) in enumerate(depths))
    multiple = config["unshuffle"] * 2 ** (len(config["widths"]) - 1)
    return Traits(config["channels"], multiple, config["unshuffle"] * reach + multiple - 1)


def build(graph: Graph, config: Mapping[str, Any]) -> Value:
    """The nodes of `Encoder.forward` and `Decoder.forward`."""
    widths, unshuffle = config["widths"], config["unshuffle"]
    folded = graph.unshuffle(graph.subtract(graph.noisy, 0.5), unshuffle)
    features, latent = graph.conv(folded, "encoder.head", widths[0]), []
    for level, depth in enumerate(config["encoders"]):
        if level:
            features = graph.conv(features, f"encoder.downs.{level - 1}", widths[level], 2, stride=2)
        features = stage(graph, features, f"encoder.stages.{level}", depth)
        latent.append(features)
    features = stage(graph, latent.pop(), f"decoder.stages.{len(widths) - 1}", config["decoders"][-1])
    for level in reversed(range(len(widths) - 1)):
        joined = graph.add(graph.double(features, f"decoder.ups.{level}", widths[level]), latent.pop())
        features = stage(graph, joined, f"decoder.stages.{level}", config["decoders"][level])
    image = graph.shuffle(graph.conv(features, "decoder.tail", config["channels"] * unshuffle**2), unshuffle)
    return image if config["noise"] else graph.add(image, 0.5)
