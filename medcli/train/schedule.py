"""Learning-rate schedules, by name: the share of the training that is over, 0 to 1 -> factor on the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medcli.methods.base import Schedule


def cosine(progress: float) -> float:
    """Half a cosine, from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def linear(progress: float) -> float:
    """From 1 down to 0."""
    return 1 - min(1.0, progress)


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: Mapping[str, Schedule] = {"cosine": cosine, "linear": linear, "constant": constant}
