"""Test vectors: a tiny noisy image and what a model makes of it, stored beside its weights.

A checksum says that the weights are the ones that were published; a vector says that this machine and this version of
medcli still do with them what they did then. The input is stored too, so that no generator has to be reproduced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError
from medcli.zoo.weights import Card, write_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "medcli-vector"
SIDE = 32  # pixels, or the network's multiple where that is more
SIGMA = 25  # grey levels of 255
SEED = 20
MAX_BYTES = 10_000_000
REMEDY = "Install medcli again."


def make(network: nn.Module, card: Card) -> dict[str, Tensor]:
    """`noisy` and `restored`, both (1, C, H, W) float in and about [0, 1]: what the network answers in fp32 on the CPU.

    H and W are the smallest multiple of the network's that is at least 32.
    """
    import torch

    multiple = _multiple(network)
    noisy = image(card.channels, -(-SIDE // multiple) * multiple).half()
    return {"noisy": noisy, "restored": _answer(network, noisy.to(torch.float32))}


def image(channels: int, side: int) -> Tensor:
    """A slope, a bright disc, a dark bar and a corner of fine lines under Gaussian noise; (1, C, side, side)."""
    import torch

    steps = torch.arange(side) / side
    rows, columns = steps[:, None], steps[None, :]
    tilts = [(1 + c % 3, 3 - c % 3) for c in range(channels)]
    slope = torch.stack([0.25 + (rows * down + columns * right) / 8 for down, right in tilts])
    disc = ((rows - 0.35) ** 2 + (columns - 0.6) ** 2 < 0.05).float()
    bar = ((columns > 0.15) & (columns < 0.25)).float().expand(side, side)
    lines = ((rows > 0.7) & (columns > 0.6)).float() * (torch.arange(side) % 2)
    clean = slope + 0.25 * disc - 0.2 * bar + 0.15 * lines
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED)) * (SIGMA / 255)
    return (clean + noise).clamp(0, 1)[None]


def write(path: Path, network: nn.Module, card: Card) -> None:
    """Stores the network's vector, some 19 kB for three channels; the same weights give the same bytes."""
    write_tensors(path, make(network, card), {METADATA_KEY: card.id})


def check(path: Path, network: nn.Module) -> float:
    """The largest difference between the stored answer and the network's, in grey levels of 255.

    The network runs on the CPU in fp32, and stays there. Raises ModelError where the vector is missing or
    malformed, or does not fit the network.
    """
    noisy, expected = _read(path)
    _check_fit(path, noisy, expected, network)
    difference = (_answer(network, noisy) - expected).abs().max()
    return float(difference) * 255


def _answer(network: nn.Module, noisy: Tensor) -> Tensor:
    import torch

    with torch.inference_mode():
        restored: Tensor = network.cpu().float().eval()(noisy)
    return restored.clone()


def _multiple(network: Any) -> int:
    return int(network.multiple)


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """(noisy, restored) as fp32."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is no test vector: it is larger than {MAX_BYTES:,} bytes.", REMEDY)
        tensors = load(path.read_bytes())
        return tensors["noisy"].float(), tensors["restored"].float()
    except FileNotFoundError as error:
        raise ModelError(f"There is no test vector {path}.", REMEDY) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", REMEDY) from error
    except (SafetensorError, KeyError) as error:
        raise ModelError(f"The test vector {path} is corrupt: {error}.", REMEDY) from error


def _check_fit(path: Path, noisy: Tensor, expected: Tensor, network: nn.Module) -> None:
    shape, multiple = tuple(noisy.shape), _multiple(network)
    fits = len(shape) == 4 and shape[1] == network.channels and not (shape[2] % multiple or shape[3] % multiple)
    if not fits or noisy.shape != expected.shape or not noisy.numel():
        raise ModelError(f"The test vector {path} does not fit the network: {shape}.", REMEDY)
