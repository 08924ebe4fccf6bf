"""Sets observed by this process, or by worker processes beside it."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from multierase.errors import UsageError
from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.evaluator import Evaluator, one_thread
from multierase.evaluation.executors.executor import Observed
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.observations import Observations


@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine.

    Args:
        workers: one per core by default, and one where there is a GPU; a single one is this
            process itself.

    Raises:
        UsageError: for fewer than one.
    """

    workers: int | None = None

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers: give 1 or more")

    def works_here(self, count: int) -> bool:
        """Is this process itself the worker for ``count`` sets?"""
        return self._count(count) == 1

    def observe(
        self, experiment: Experiment, sets: Sequence[Erased], instruments: Instruments
    ) -> Observed:
        """Yield each set with its observations.

        Raises:
            ChildProcessError: if a worker is killed.
        """
        if not sets:
            return
        if self.works_here(len(sets)):
            with one_thread():
                evaluator = Evaluator(experiment, instruments=instruments)
                for erased in sets:
                    yield erased, evaluator.observe(erased)
            return

        # A forked process could not use a GPU, and would inherit locks of libraries' threads.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            self._count(len(sets)), context, _start, (experiment,)
        ) as pool:
            yield from _gathered(pool, sets)

    def _count(self, sets: int) -> int:
        cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1

        return max(min(self.workers or cores, sets), 1)


def _gathered(pool: concurrent.futures.Executor, sets: Sequence[Erased]) -> Observed:
    running = {pool.submit(_observe, erased): erased for erased in sets}
    try:
        for future in concurrent.futures.as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process ended, perhaps for want of memory: all finished sets are kept, and "
            "the same command goes on; fewer --workers need less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_EVALUATOR: Evaluator | None = None  # a worker process's own


def _start(experiment: Experiment) -> None:
    global _EVALUATOR
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _EVALUATOR = Evaluator(experiment)


def _end_with_parent() -> None:
    # A sweep that is killed cannot end its workers, and they would wait for work for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _observe(erased: Erased) -> Observations:
    return _EVALUATOR.observe(erased)
