"""An executor decides where tasks are done; what comes of them is the same everywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

Work = Callable[[Any], Any]
"""Does a task, and returns what came of it."""
Make = Callable[[], Work]
"""Loads all that the tasks need, once for each worker; fit to be pickled for other processes."""
Done = Iterator[tuple[Any, Any]]
"""Tasks with what came of them, as they are finished."""


class Executor(Protocol):
    """Does tasks, each worker in one thread: sums of numbers depend on how many there are."""

    def works_here(self, count: int) -> bool:
        """Is this process itself the worker for ``count`` tasks?"""

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        """Yield each task with what came of it, as it is finished."""


class Here:
    """A worker of this process that has loaded all that it needs."""

    def __init__(self, work: Work):
        self.work = work

    def works_here(self, count: int) -> bool:
        return True

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        for task in tasks:
            yield task, self.work(task)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Work in one thread for a ``with`` block: sums of floating-point numbers depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
