"""Images grouped by the model that suits them: `--model auto`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from medcli.batch.denoise.plan import Job
from medcli.batch.inspect.report import inspected
from medcli.errors import MedcliError
from medcli.images.values import RangeChoice
from medcli.zoo.choice import DEFAULT


class Group(NamedTuple):
    """strength: 0 where there is no noise to speak of, else 1."""

    model: str
    strength: float


def grouped(jobs: Sequence[Job], choice: RangeChoice, say: Callable[[str], None]) -> dict[Group, list[Job]]:
    """The jobs by what was chosen for their images; say: called with a line for each image.

    One that cannot be read is for the default model, which will say so.
    """
    groups: dict[Group, list[Job]] = {}
    for job in jobs:
        group = Group(DEFAULT, 1.0)
        try:
            if job.error is None:
                chosen = inspected(job.source, choice).choice
                group = Group(chosen.model, chosen.strength)
                action = f"-m {chosen.model}" if chosen.strength else "kept as it is"
                say(f"{job.source}: {action}: {chosen.why}")
        except MedcliError:
            pass
        groups.setdefault(group, []).append(job)
    return groups
