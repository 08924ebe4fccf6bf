"""Executors decide where sets are observed; the observations are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from multierase.errors import UsageError, suggest
from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.observations import Observations

KINDS = ("processes", "ray")

Observed = Iterator[tuple[Erased, Observations]]


class Executor(Protocol):
    """Observes sets, each worker in one thread: sums of numbers depend on how many there are."""

    def works_here(self, count: int) -> bool:
        """Is this process itself the worker for ``count`` sets?"""

    def observe(
        self, experiment: Experiment, sets: Sequence[Erased], instruments: Instruments
    ) -> Observed:
        """Yield each set with its observations, as it is finished.

        Args:
            instruments: the experiment's, for a worker in this process; others load their own.
        """


class Here:
    """An evaluator of this process, with all that it has loaded."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator

    def works_here(self, count: int) -> bool:
        return True

    def observe(
        self, experiment: Experiment, sets: Sequence[Erased], instruments: Instruments
    ) -> Observed:
        for erased in sets:
            yield erased, self.evaluator.observe(erased)


def base_first(observed: Observed, sets: Sequence[Erased]) -> Observed:
    """Yield the base first if it is one of the sets: the others are compared with it."""
    early, waiting = [], () in sets
    for erased, observations in observed:
        if erased and waiting:
            early.append((erased, observations))
            continue

        yield erased, observations
        if waiting:
            waiting = False
            yield from early


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
    from multierase.evaluation.executors.processes import Processes
    from multierase.evaluation.executors.ray import RayCluster

    if kind not in KINDS:
        raise UsageError(f"executor {kind!r}{suggest(kind, KINDS)}; give one of {sorted(KINDS)}")
    if kind == "ray":
        return RayCluster(address, workers, gpus_per_worker)
    if address is not None:
        raise UsageError("--address is a Ray cluster's: give --executor ray too")

    return Processes(workers)
