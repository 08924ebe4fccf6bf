"""Tasks done by this process, or by worker processes beside it."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from multierase.errors import UsageError
from multierase.executors.executor import Done, Make, Work, one_thread


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
        """Is this process itself the worker for ``count`` tasks?"""
        return self._count(count) == 1

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        """Yield each task with what came of it.

        Raises:
            ChildProcessError: if a worker is killed.
            Exception: what a worker itself raises.
        """
        if not tasks:
            return
        if self.works_here(len(tasks)):
            with one_thread():
                work = make()
                for task in tasks:
                    yield task, work(task)
            return

        # A forked process could not use a GPU, and would inherit locks of libraries' threads.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            self._count(len(tasks)), context, _start, (make,)
        ) as pool:
            yield from _gathered(pool, tasks)

    def _count(self, tasks: int) -> int:
        cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1

        return max(min(self.workers or cores, tasks), 1)


def _gathered(pool: concurrent.futures.Executor, tasks: Sequence[Any]) -> Done:
    running = {pool.submit(_do, task): task for task in tasks}
    try:
        for future in concurrent.futures.as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process ended, perhaps for want of memory: all that is finished is kept, and "
            "the same command goes on; fewer --workers need less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_WORK: Work | None = None  # a worker process's own


def _start(make: Make) -> None:
    global _WORK
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _WORK = make()


def _end_with_parent() -> None:
    # A parent that is killed cannot end its workers, and they would wait for work for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _do(task: Any) -> Any:
    return _WORK(task)
