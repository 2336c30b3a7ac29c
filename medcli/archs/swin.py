"""Swin-Tx: windows of Swin v2 attention between convolutions, in two halves with a latent between them.

Chen et al., Multi-view Self-supervised Disentanglement for General Image Denoising (ICCV 2023), section 4.1; attention
of Liu et al., Swin Transformer V2 (CVPR 2022), section 3; stages of Liang et al., SwinIR (2021), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
Latent = tuple[Tensor, ...]


def cosine_attention(qkv: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """softmax(scale cos(q, k) + bias) v within windows (Swin V2, equation 2), by PyTorch's fused kernel.

    qkv: (G, N, 3, heads, d), queries, keys and values of G windows. scale: (heads, 1, 1). bias: (heads, N, N).
    Gives (G, N, heads * d).
    """
    query, key, value = qkv.transpose(1, 3).unbind(2)
    query = query * (scale.to(query.dtype) / _length(query))
    bias = bias[None].to(query.dtype)  # the CPU's fused kernel takes no mask of three dimensions
    answer = F.scaled_dot_product_attention(query, key / _length(key), value, bias, scale=1.0)
    return answer.transpose(1, 2).flatten(2)


class LearningAttention(torch.autograd.Function):
    """`cosine_attention` for training on the CPU.

    There PyTorch's fused kernel gives no gradient to a bias, and leaves the work to a form that keeps every weight of
    attention. Here the kernel goes forward all the same; backward, the weights come back for a few windows at a time,
    which the cache holds.
    """

    WINDOWS = 16

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        answer = cosine_attention(qkv, scale, bias.detach())
        ctx.save_for_backward(qkv, scale, bias, answer)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv, scale, bias, answer = ctx.saved_tensors
        slopes = torch.empty_like(qkv), torch.zeros_like(scale), torch.zeros_like(bias)
        heads = (*qkv.shape[:2], *qkv.shape[3:])
        for start in range(0, len(qkv), LearningAttention.WINDOWS):
            some = slice(start, start + LearningAttention.WINDOWS)
            q, k, v = qkv[some].float().transpose(1, 3).unbind(2)
            a, g = (tensor.reshape(heads)[some].float().transpose(1, 2) for tensor in (answer, gradient))
            q_length, k_length = _length(q), _length(k)
            q, k = q / q_length, k / k_length
            weights = torch.softmax(scale * q @ k.mT + bias, -1)
            logits = (g @ v.mT).sub_((g * a).sum(-1, keepdim=True)).mul_(weights)
            turned = logits @ k
            slopes[1].add_((q * turned).sum((0, 2, 3)).view_as(scale))
            slopes[2].add_(logits.sum(0))
            parts = (
                _across(scale * turned, q) / q_length,
                _across(scale * (logits.mT @ q), k) / k_length,
                weights.mT @ g,
            )
            slopes[0][some] = torch.stack(parts, 1).permute(0, 3, 1, 2, 4)
        return slopes


def _across(vectors: Tensor, directions: Tensor) -> Tensor:
    """What of (..., d) vectors is at right angles to the directions, which have length 1."""
    return vectors - directions * (directions * vectors).sum(-1, keepdim=True)


class PositionBias(nn.Module):
    """Continuous position bias (Swin V2, equations 3 and 4): an MLP from the offset of two tokens to a logit per head.

    It depends on no image: without gradients it is computed once and kept until a weight changes.
    """

    coordinates: Tensor
    pairs: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        steps = torch.arange(1 - window, window) / (window - 1) * 8
        steps = steps.sign() * torch.log2(1 + steps.abs()) / math.log2(8)
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offsets = places[:, None] - places + window - 1
        self.register_buffer("coordinates", torch.cartesian_prod(steps, steps), persistent=False)
        self.register_buffer("pairs", offsets[..., 0] * (2 * window - 1) + offsets[..., 1], persistent=False)
        self._kept: tuple[object, Tensor] | None = None

    def forward(self) -> Tensor:
        """(heads, N, N) float32 for the N tokens of a window; the largest of a head is 0."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._computed()
        state = tuple((weight.data_ptr(), weight.device, weight._version) for weight in self.parameters())
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = state, self._computed()
        return self._kept[1]

    def _computed(self) -> Tensor:
        device = self.coordinates.device.type
        # no half precision here; on the meta device, where networks are measured, there is none to switch off
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            table = 16 * torch.sigmoid(self.mlp(self.coordinates))
        # softmax does not see what all its logits share, and half precision is finest about 0
        table = table - table.detach().amax(0)
        return table[self.pairs].permute(2, 0, 1).contiguous()


class WindowAttention(nn.Module):
    """Attention within windows, by the cosine of queries and keys times a learned scale per head."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.position = PositionBias(window, heads)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> same shape; H and W multiples of the window.

        Departs: the original rolls the image and masks what the roll brought together with -100. Here the shifted
        windows are cut at the border, which is the same attention without a copy, a mask, or a trace of what is masked.
        """
        bias = self.position()
        if not self.shift:
            return self._within(tokens, bias)
        rows = [torch.cat([self._within(part, bias) for part in self._cut(row, 2)], 2) for row in self._cut(tokens, 1)]
        return torch.cat(rows, 1)

    def _cut(self, tokens: Tensor, side: int) -> list[Tensor]:
        """The border before the first whole window, the whole windows, the border after them."""
        before, after = self.shift, self.window - self.shift
        sizes = [before, tokens.shape[side] - self.window, after]
        return [part for part in torch.split(tokens, sizes, side) if part.shape[side]]

    def _within(self, tokens: Tensor, bias: Tensor) -> Tensor:
        batch, height, width, channels = tokens.shape
        rows, columns = min(self.window, height), min(self.window, width)
        grid = (batch, height // rows, rows, width // columns, columns, channels)
        windows = tokens.reshape(grid).transpose(2, 3).reshape(-1, rows * columns, channels)
        square = (self.heads, *2 * (self.window, self.window))
        part = bias.view(square)[:, :rows, :columns, :rows, :columns].reshape(self.heads, *2 * (rows * columns,))
        answer: Tensor = self.project(self._attended(windows, part))
        whole = answer.view(batch, height // rows, width // columns, rows, columns, channels).transpose(2, 3)
        return whole.reshape(batch, height, width, channels)

    def _attended(self, windows: Tensor, bias: Tensor) -> Tensor:
        offset = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = F.linear(windows, self.qkv.weight, offset).view(*windows.shape[:2], 3, self.heads, -1)
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        if qkv.device.type == "cpu" and bias.requires_grad:
            answer: Tensor = LearningAttention.apply(qkv, scale, bias)  # type: ignore[no-untyped-call]
            return answer
        return cosine_attention(qkv, scale, bias)


class Layer(nn.Module):
    """Attention, then a feed-forward half, each normalised at its end (Swin V2, figure 1)."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.attention = WindowAttention(width, heads, window, shift)
        self.attention_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.feed_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention_norm(self.attention(tokens))
        fed: Tensor = tokens + self.feed_norm(self.feed(tokens))
        return fed


class Stage(nn.Module):
    """Layers, every second one with shifted windows, and a convolution: (B, H, W, C) -> same shape."""

    def __init__(self, width: int, depth: int, heads: int, window: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(width, heads, window, i % 2 * (window // 2)) for i in range(depth)))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.layers(tokens)
        out: Tensor = tokens + seen + _last(self.conv(_first(seen)))
        return out


class Encoder(nn.Module):
    """Image (B, channels, H, W) -> latent (B, width, H / patch, W / patch), and for noise the stem's features too."""

    mean: Tensor

    def __init__(self, channels: int, stage: Stage, patch: int, noise: bool) -> None:
        super().__init__()
        width = stage.conv.out_channels
        self.noise = noise
        self.stem = nn.Conv2d(channels, width, patch + 2, stride=patch, padding=1)
        self.norm = nn.LayerNorm(width)
        self.stage = stage
        self.register_buffer("mean", _mean(channels), persistent=False)

    def forward(self, noisy: Tensor) -> Latent:
        stem = self.stem(noisy - self.mean)
        tokens = self.norm(_last(stem))
        latent = _first(self.stage(tokens) + tokens)
        return (latent, stem) if self.noise else (latent,)


class Decoder(nn.Module):
    """Latent -> image, or noise about zero."""

    mean: Tensor

    def __init__(self, channels: int, stage: Stage, patch: int, noise: bool) -> None:
        super().__init__()
        width = stage.conv.out_channels
        self.noise, self.patch = noise, patch
        self.stage = stage
        self.norm = nn.LayerNorm(width)
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width // patch**2, channels, 3, padding=1)
        self.register_buffer("mean", _mean(channels), persistent=False)

    def forward(self, latent: Latent) -> Tensor:
        tokens = _last(latent[0])
        features = self.after(_first(self.norm(self.stage(tokens) + tokens)))
        if self.noise:
            features = features + latent[1]
        image: Tensor = self.last(F.pixel_shuffle(features, self.patch))
        return image if self.noise else image + self.mean


class SwinTx(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape; H and W must be multiples of `multiple`.

    width: channels of a token. depths: layers before the latent, and after it. heads: of attention. window: side of a
    window in tokens. patch: side in pixels of a token; 2 costs a quarter of 1. noise: answer with noise about zero, of
    the same shape, instead of an image. Width 180 and depths (6, 6) are the published size: 4,061,019 parameters.

    All that the decoder sees comes through the latent. There is one at the tokens' own resolution.
    Departs: no stochastic depth. Its draws would not follow the keys of a batch, and noise is never twice the same.
    Departs: the last convolution starts at zero, so that a fresh network answers the mean colour, or no noise.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        depths: Sequence[int] = (4, 4),
        heads: int = 4,
        window: int = 8,
        patch: int = 1,
        noise: bool = False,
    ) -> None:
        super().__init__()
        _check(width, depths, heads, window, patch)
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "depths": list(depths),
            "heads": heads,
            "window": window,
            "patch": patch,
            "noise": noise,
        }
        self.channels = channels
        self.multiple = window * patch
        self.latent_widths = (width,)
        before, after = (Stage(width, depth, heads, window) for depth in depths)
        self.encoder = Encoder(channels, before, patch, noise)
        self.decoder = Decoder(channels, after, patch, noise)
        self.apply(_initialise)
        nn.init.zeros_(self.decoder.last.weight)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output."""
        window, patch = self.config["window"], self.config["patch"]
        reach = 2  # stem, and the convolution after the stages
        for depth in self.config["depths"]:
            reach += window - 1 + (depth - 1) * (window - window // 2) + 1
        return int(patch * reach + patch + 1)

    def encode(self, noisy: Tensor) -> Latent:
        """(B, C, H, W) float in [0, 1] -> the latent: (B, width, H / patch, W / patch), alone in a tuple."""
        latent: Latent = self.encoder(noisy)
        return latent

    def decode(self, latent: Latent) -> Tensor:
        """The latent -> (B, C, H, W), about [0, 1]."""
        image: Tensor = self.decoder(latent)
        return image

    def make_noise_network(self) -> SwinTx:
        """A fresh network of this size that answers with noise; its latent holds the stem's features beside."""
        return SwinTx(**{**self.config, "noise": True})

    def forward(self, noisy: Tensor) -> Tensor:
        return self.decode(self.encode(noisy))


def _first(tokens: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return tokens.permute(0, 3, 1, 2)


def _last(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return features.permute(0, 2, 3, 1)


def _length(vectors: Tensor) -> Tensor:
    """(..., d) -> (..., 1): never 0, also in fp16."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return length + 1e-6


def _mean(channels: int) -> Tensor:
    """(1, channels, 1, 1): the mean colour, or its own mean for any but three channels."""
    colour = torch.tensor(RGB_MEAN)
    return (colour if channels == 3 else colour.mean().expand(channels)).view(1, -1, 1, 1).clone()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(width: int, depths: Sequence[int], heads: int, window: int, patch: int) -> None:
    if len(depths) != 2 or min(depths) < 1:
        raise ValueError(f"depths must be two numbers of 1 or more, before the latent and after it, not {list(depths)}")
    if width % heads or width % patch**2:
        raise ValueError(f"width {width} must be a multiple of {heads} heads and of the {patch**2} pixels of a token")
    if window < 2:
        raise ValueError(f"window must be at least 2, not {window}")
