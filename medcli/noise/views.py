"""Several noisy views of one image, for methods that learn without clean ones."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medcli.noise.base import Noise


def views(noise: Noise, clean: Tensor, generator: Generator, count: int = 2) -> Tensor:
    """(C, H, W) float in [0, 1] -> (count, C, H, W): independent samples of noise of the same kind and level.

    Source: Lehtinen et al., Noise2Noise (ICML 2018). For views that differ in kind or level, call the noise itself
    once per view.
    """
    sampled = noise.sample_parameters(generator)
    return torch.stack([sampled(clean, generator) for _ in range(count)])
