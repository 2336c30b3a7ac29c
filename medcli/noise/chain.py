"""Several noises in order, with clips where they are listed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medcli.noise.base import Noise
from medcli.noise.storage import Clip, Round


@dataclass(frozen=True)
class Chain(Noise):
    """The first noise is applied to the clean image, each further one to the result."""

    noises: tuple[Noise, ...]

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """(C, H, W) float in [0, 1] -> same shape; intermediate values may be outside [0, 1]."""
        noisy = clean
        for noise in self.noises:
            noisy = noise(noisy, generator)
        return noisy if self.noises else clean.clone()

    def sample_parameters(self, generator: Generator) -> Noise:
        return Chain(tuple(noise.sample_parameters(generator) for noise in self.noises))

    def __str__(self) -> str:
        return "+".join(str(noise) for noise in self.noises)


def chained(*noises: Noise) -> Noise:
    """The noises in this order; nested chains are flattened, and a single noise is returned as it is."""
    steps = tuple(step for noise in noises for step in (noise.noises if isinstance(noise, Chain) else (noise,)))
    return steps[0] if len(steps) == 1 else Chain(steps)


def clipped(noise: Noise) -> Noise:
    """`noise` with a clip to [0, 1] after every component, as in the evaluation of MeD; a pool is one component."""
    components = noise.noises if isinstance(noise, Chain) else (noise,)
    steps = [(step,) if isinstance(step, Round) else (step, Clip()) for step in components if step != Clip()]
    return chained(*(part for step in steps for part in step))
