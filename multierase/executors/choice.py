"""The executor that a command line asks for."""

from __future__ import annotations

from multierase.errors import UsageError, suggest
from multierase.executors.executor import Executor
from multierase.executors.processes import Processes
from multierase.executors.ray import RayCluster

KINDS = ("processes", "ray")


def executor_of(
    kind: str = "processes",
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.5,
) -> Executor:
    """Return the executor that a command line asks for.

    Raises:
        UsageError: for an unknown kind, or options that do not belong to it.
        MissingExtra: if Ray is asked for and not installed.
    """

    if kind not in KINDS:
        raise UsageError(f"executor {kind!r}{suggest(kind, KINDS)}; give one of {sorted(KINDS)}")
    if kind == "ray":
        return RayCluster(address, workers, gpus_per_worker)
    if address is not None:
        raise UsageError("--address is a Ray cluster's: give --executor ray too")

    return Processes(workers)
