"""An executor decides where sets are observed; the observations are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.observations import Observations

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
