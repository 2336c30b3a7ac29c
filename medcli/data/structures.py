"""What fluorescence microscopes show, made by code: filaments, puncta, nuclei, meshes, membranes, and empty fields.

Each is drawn sharp, then blurred as by a microscope, whose pixels are smaller than its resolution. Two kinds may lie
over each other, and blurred copies of them are the light from out of focus.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from medcli.noise.base import log_uniform, uniform

Plane = NDArray[np.float32]  # (side, side), 0 for no light; not yet scaled

SHIFT = 3  # OpenCV draws to an eighth of a pixel


def structures(channels: int, side: int, generator: Generator) -> Tensor:
    """A random specimen, (channels, side, side) float32 in [0, 1], equal in all channels, dark where it is empty."""
    plane = np.zeros((side, side), np.float32)
    for _ in range(1 + (uniform(0, 1, generator) < 0.35)):
        kind = STRUCTURES[_below(len(STRUCTURES), generator)]
        drawn = _peak_one(_blurred(kind(side, generator), log_uniform(0.5, 2.5, generator)))
        plane = plane + np.float32(log_uniform(0.2, 1.0, generator)) * drawn
    if uniform(0, 1, generator) < 0.6:
        haze = _blurred(plane, log_uniform(4, 24, generator))
        plane = plane + np.float32(uniform(0, 1.5, generator)) * haze
    if uniform(0, 1, generator) < 0.3:
        plane = plane * (0.3 + 0.7 * smooth(side, side / 2, generator))  # uneven illumination
    return torch.from_numpy(_peak_one(plane)).expand(channels, side, side).contiguous()


def filaments(side: int, generator: Generator) -> Plane:
    """Curves of slowly changing direction: microtubules, actin, mitochondria where they are thick."""
    canvas = np.zeros((side, side), np.float32)
    turning, thickness = log_uniform(0.005, 0.2, generator), 1 + _below(4, generator) * _below(2, generator)
    for _ in range(int(log_uniform(2, 40, generator))):
        steps = int(log_uniform(10, 2 * side, generator))
        angles = uniform(0, 2 * np.pi, generator) + turning * np.cumsum(_normal(steps, generator))
        start = np.array([uniform(0, side, generator), uniform(0, side, generator)])
        path = start + np.stack([np.cos(angles), np.sin(angles)], 1).cumsum(0)
        curve = np.zeros((side, side), np.uint8)
        points = np.round(path * 2**SHIFT).astype(np.int32)[:, None]
        cv2.polylines(curve, [points], False, 255, thickness, cv2.LINE_AA, SHIFT)
        canvas += curve * np.float32(log_uniform(0.2, 1, generator) / 255)
    return canvas


def puncta(side: int, generator: Generator) -> Plane:
    """Points and small discs of different brightness: vesicles, FISH signals, beads."""
    canvas = np.zeros((side, side), np.float32)
    count = int(log_uniform(3, side**2 / 60, generator))
    rows, columns = (_integers(count, side, generator) for _ in range(2))
    light = np.exp(-2.5 * torch.rand(count, generator=generator).numpy())
    np.add.at(canvas, (rows, columns), light)
    return _blurred(canvas, log_uniform(0.4, 2.0, generator))


def nuclei(side: int, generator: Generator) -> Plane:
    """Filled smooth outlines with a texture inside, some touching."""
    canvas = np.zeros((side, side), np.float32)
    radius = log_uniform(side / 24, side / 2, generator)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    for _ in range(1 + int(uniform(0.3, 1.5, generator) * (0.4 * side / radius) ** 2)):
        waves = [uniform(-0.12, 0.12, generator) * np.cos(k * angles + uniform(0, 6.3, generator)) for k in (2, 3)]
        reach = radius * uniform(0.6, 1.2, generator) * (1 + waves[0] + waves[1])
        centre = np.array([uniform(0, side, generator), uniform(0, side, generator)])
        outline = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        blob = np.zeros((side, side), np.uint8)
        cv2.fillPoly(blob, [np.round(outline * 2**SHIFT).astype(np.int32)[:, None]], 255, cv2.LINE_AA, SHIFT)
        canvas = np.maximum(canvas, blob * np.float32(log_uniform(0.2, 1, generator) / 255))
    depth = uniform(0, 1, generator)
    texture: Plane = canvas * (1 - depth * smooth(side, log_uniform(1, 8, generator), generator))
    return texture


def mesh(side: int, generator: Generator) -> Plane:
    """Lines where a smooth random field passes through a value: reticulum, folded membranes."""
    field = smooth(side, log_uniform(2, 16, generator), generator)
    width = uniform(0.02, 0.12, generator)
    lines: Plane = np.exp(-0.5 * ((field - 0.5) / width) ** 2).astype(np.float32) * smooth(side, side / 6, generator)
    return lines


def membranes(side: int, generator: Generator) -> Plane:
    """The borders of cells around random points, and some light inside."""
    count = int(log_uniform(4, side**2 / 100, generator))
    centres = side * torch.rand(count, 2, generator=generator)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixels = torch.stack([row, column], -1).reshape(-1, 2).float()
    nearest, _ = torch.cdist(pixels, centres).topk(2, largest=False)
    gap = (nearest[:, 1] - nearest[:, 0]).reshape(side, side).numpy()
    walls: Plane = np.exp(-gap / uniform(0.5, 2.5, generator)) + np.float32(uniform(0, 0.3, generator))
    lit: Plane = walls * (0.3 + 0.7 * smooth(side, side / 8, generator))
    return lit


def tissue(side: int, generator: Generator) -> Plane:
    """Texture of all sizes, weaker the finer it is."""
    layers = [smooth(side, size, generator) * np.float32(size ** uniform(0.3, 1.2, generator)) for size in (1, 3, 9)]
    everything: Plane = np.square(layers[0] + layers[1] + layers[2])
    return everything


def empty(side: int, generator: Generator) -> Plane:
    """Nothing but a weak slope."""
    slope: Plane = np.float32(0.5) + np.float32(uniform(0, 0.5, generator)) * smooth(side, side / 2, generator)
    return slope


STRUCTURES: tuple[Callable[[int, Generator], Plane], ...] = (
    filaments, filaments, puncta, nuclei, nuclei, mesh, membranes, tissue, empty,
)  # fmt: skip


def smooth(side: int, size: float, generator: Generator) -> Plane:
    """A random field in [0, 1] whose details are about `size` pixels large."""
    coarse = max(3, round(2 * side / max(1.0, size)) + 2) if size > 2 else side
    field = torch.rand(coarse, coarse, generator=generator).numpy()
    if coarse < side:
        field = cv2.resize(cv2.GaussianBlur(field, (0, 0), 0.8), (side, side), interpolation=cv2.INTER_CUBIC)
    else:
        field = cv2.resize(_blurred(field, size), (side, side))
    spread: Plane = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return spread


def _blurred(plane: Plane, size: float) -> Plane:
    soft: Plane = cv2.GaussianBlur(plane, (0, 0), size, borderType=cv2.BORDER_REFLECT).astype(np.float32)
    return soft


def _peak_one(plane: Plane) -> Plane:
    scaled: Plane = plane / np.float32(max(float(plane.max()), 1e-6))
    return scaled


def _normal(count: int, generator: Generator) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = torch.randn(count, generator=generator).numpy()
    return drawn


def _integers(count: int, limit: int, generator: Generator) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = torch.randint(limit, (count,), generator=generator).numpy()
    return drawn


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
