"""Swin-Tx as it is here against the same network written naively, in one run: training and inference on this CPU.

Naively means: the image rolled for shifted windows, a mask of -100, attention as an explicit softmax whose weights
are all kept, and the MLP of the position bias run at each call. Both have the same weights and give the same answer.
Each figure is the least of several turns, in processor seconds: others who share the machine only add to it.

python docs/benchmarks/swin.py [--side 128] [--batch 10] [--repeats 5]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.archs.split import SplitUNet
from medcli.archs.swin import SwinTx, WindowAttention
from medcli.archs.unet import ResidualUNet
from medcli.engine.memory import keep_freed_memory

Work = Callable[[nn.Module, Tensor, torch.dtype], object]


class NaiveAttention(nn.Module):
    """The attention of `known`, with its weights, word by word as in the papers."""

    def __init__(self, known: WindowAttention) -> None:
        super().__init__()
        self.known = known

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> same shape."""
        batch, height, width, channels = tokens.shape
        side, shift = self.known.window, self.known.shift
        rolled = tokens.roll((-shift, -shift), (1, 2))
        grid = (batch, height // side, side, width // side, side, channels)
        windows = rolled.view(grid).transpose(2, 3).reshape(-1, side**2, channels)
        answer = self.attended(windows, self.mask(height, width).to(tokens.device) if shift else None)
        back = answer.view(batch, height // side, width // side, side, side, channels).transpose(2, 3)
        return back.reshape(tokens.shape).roll((shift, shift), (1, 2))

    def attended(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        known = self.known
        offset = torch.cat([known.query_bias, torch.zeros_like(known.query_bias), known.value_bias])
        split = F.linear(windows, known.qkv.weight, offset).unflatten(-1, (3, known.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scale = known.log_scale.clamp(max=torch.tensor(100.0).log().item()).exp()
        logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT * scale
        logits = logits + self.bias()
        if mask is not None:
            logits = (logits.view(-1, len(mask), *logits.shape[1:]) + mask[:, None]).view(logits.shape)
        answer: Tensor = known.project((logits.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2))
        return answer

    def bias(self) -> Tensor:
        position = self.known.position
        return (16 * torch.sigmoid(position.mlp(position.coordinates)))[position.pairs].permute(2, 0, 1)

    def mask(self, height: int, width: int) -> Tensor:
        """(windows, N, N): -100 between tokens that only the roll brought together."""
        side, shift = self.known.window, self.known.shift
        rows, columns = (
            (torch.arange(n) >= n - side).int() + (torch.arange(n) >= n - shift).int() for n in (height, width)
        )
        region = (3 * rows[:, None] + columns).view(height // side, side, width // side, side)
        region = region.transpose(1, 2).reshape(-1, side**2)
        return -100.0 * (region[:, :, None] != region[:, None]).float()


def naive(network: SwinTx) -> SwinTx:
    """A copy of the network with its attention written naively."""
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, WindowAttention):
                setattr(module, name, NaiveAttention(child))
    return twin


def forward(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        answer: Tensor = network(images)
    return answer


def train(network: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        restored = network(images)
    (restored.float() - 0.5).square().mean().backward()


def spent(work: Work, network: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    """Processor seconds."""
    start = time.process_time()
    work(network, images, dtype)
    return time.process_time() - start


def networks() -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {"unet": ResidualUNet(), "split": SplitUNet()}
    for patch in (1, 2):
        network = SwinTx(patch=patch)
        made |= {f"swin 64, [4, 4], patch {patch}": network, f"naively, patch {patch}": naive(network)}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images = torch.rand(options.batch, 3, options.side, options.side).to(memory_format=torch.channels_last)
    columns = [(work, dtype) for dtype in (torch.bfloat16, torch.float32) for work in (forward, train)]
    candidates, least = networks(), {}
    for turn in range(options.repeats + 1):  # in turns, so that other load on the machine meets all of them
        for title, network in candidates.items():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for column in columns:
                seconds = spent(column[0], network, images, column[1])
                least[title, column] = min(seconds, least.get((title, column), seconds)) if turn else float("inf")
    print(f"processor seconds for {options.batch} images of {options.side}x{options.side}, one thread\n")
    print("| network | parameters | bf16 forward | bf16 training step | fp32 forward | fp32 training step |")
    print("|---|---|---|---|---|---|")
    for title, network in candidates.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {title} | {count:,} | " + " | ".join(f"{least[title, column]:.3f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
