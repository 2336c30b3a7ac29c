"""Which executor a run gets, by the options that all commands share."""

from __future__ import annotations

from dataclasses import dataclass

from medcli import cpu
from medcli.batch.executors.dispatch import GPU_HANDS, Executor
from medcli.batch.executors.processes import Processes
from medcli.errors import MedcliError


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """Who does the work. device: of the workers; several, separated by commas, are used in turn.

    workers: their number, None for one on each of several devices. cluster: of Ray, "auto" or the address of its head.
    threads: that compute in each worker on a CPU, None for equal shares of the cores; in a cluster for one.
    """

    device: str = "auto"
    workers: int | None = None
    cluster: str | None = None
    threads: int | None = None

    @property
    def alone(self) -> bool:
        """Whether this process does the work itself."""
        return self.workers is None and self.cluster is None and "," not in self.device

    def executor(self, hands: int = 1) -> Executor | None:
        """None where this process is to do the work itself.

        hands: tasks that a worker has at once on a CPU. Raises MedcliError where there is no cluster or no Ray.
        """
        if self.alone:
            return None
        if self.cluster is not None:
            return self._of_cluster(self.cluster, hands)
        devices = self.device.split(",")
        count = self.workers or len(devices)
        shares = self.threads or max(1, cpu.usable_cores() // count)
        return Processes(count, devices, shares, GPU_HANDS if self.device.startswith("cuda") else hands)

    def _of_cluster(self, address: str, hands: int) -> Executor:
        try:
            from medcli.batch.executors.ray import connect
        except ModuleNotFoundError as error:
            raise MedcliError("--cluster needs Ray, which is not installed.", "pip install 'medcli[ray]'") from error
        return connect(address, self.device, self.workers, self.threads, hands)
