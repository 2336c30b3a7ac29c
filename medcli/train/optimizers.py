"""The optimizer of each update of a method: what the update says, else what the recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import nn
from torch.optim import Optimizer

from medcli.errors import RecipeError
from medcli.methods.base import Method, Update
from medcli.registry import OPTIMIZERS, resolve
from medcli.train.recipe import Recipe
from medcli.train.schedule import SCHEDULES


class UpdateOptimizer:
    """An update with the parameters that it moves, their optimizer and the norm at which gradients are clipped.

    Parameters with `requires_grad` False are frozen: they are not among them. Raises RecipeError for an optimizer that
    does not exist or does not take what it is given.
    """

    def __init__(self, update: Update, networks: Mapping[str, nn.Module], recipe: Recipe) -> None:
        self.update, self.recipe = update, recipe
        every = [parameter for name in update.moves for parameter in networks[name].parameters()]
        self.parameters = [parameter for parameter in dict.fromkeys(every) if parameter.requires_grad]
        known = {parameter for network in networks.values() for parameter in network.parameters()}
        self._others = [p for p in known.difference(self.parameters) if p.requires_grad]
        self.clip = recipe.clip if update.clip is None else update.clip
        self.optimizer = self._built()

    def learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up, then the schedule. step: of the training, from 0. progress: share that is over, 0 to 1."""
        update, recipe = self.update, self.recipe
        peak = recipe.learning_rate * update.rate if update.learning_rate is None else update.learning_rate
        warmup = recipe.warmup if update.warmup is None else update.warmup
        schedule = update.schedule or SCHEDULES[recipe.schedule]
        return peak * min(1.0, (step + 1) / max(1, warmup)) * schedule(progress)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While entered, gradients reach these parameters and no others of the method."""
        try:
            for parameter in self._others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in self._others:
                parameter.requires_grad_(True)

    def _built(self) -> Optimizer:
        update, recipe = self.update, self.recipe
        name = update.optimizer or recipe.optimizer
        build = resolve(OPTIMIZERS, name, kind="optimizer", error=RecipeError)
        values: dict[str, Any] = {"weight_decay": update.weight_decay}
        if update.weight_decay is None and recipe.weight_decay:
            values["weight_decay"] = recipe.weight_decay
        values["betas"] = update.betas or (name == recipe.optimizer and tuple(recipe.betas)) or None
        given = {key: value for key, value in values.items() if value is not None}
        if odd := given.keys() - signature(build).parameters.keys():
            raise RecipeError(f"The optimizer '{name}' takes no {min(odd)}.", "Leave it out, or choose adam or adamw.")
        optimizer: Optimizer = build(self.parameters, lr=self.learning_rate(0, 0.0), **given)
        return optimizer


def optimizers_of(method: Method, recipe: Recipe) -> dict[str, UpdateOptimizer]:
    """Those of a method's updates, by their titles. Raises ValueError for two updates of one title."""
    found = {update.title: UpdateOptimizer(update, method.networks, recipe) for update in method.updates}
    if len(found) < len(method.updates):
        raise ValueError(f"updates that move the same networks need names: {[each.title for each in method.updates]}")
    return found
