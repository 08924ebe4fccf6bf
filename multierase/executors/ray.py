"""Tasks done on a Ray cluster, whose workers and nodes may die at any time."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

import multierase
from multierase.errors import MissingExtra, UsageError
from multierase.executors.executor import Done, Make

OBJECT_STORE = 256 * 2**20  # bytes, of a Ray that is started here: what comes of a task is small
DEATHS = 3  # of workers at one task: then the task is what kills them


@dataclass(frozen=True)
class RayCluster:
    """Actors on a Ray cluster, each with one core and, if there are GPUs, a share of one.

    Every node has the same multierase and torch, and sees library, suite and base under the same
    paths. A task whose worker or node dies is given to another, and another worker is started as
    soon as there is room for it.

    Args:
        address: the cluster's; by default that in ``RAY_ADDRESS``, else one is started here.
        workers: as many as there is room for by default; the others start when there is room.
        gpus_per_worker: share of a GPU, or whole ones.
        patience: seconds without any worker after which to give up.

    Raises:
        UsageError: for fewer than one worker, or a share that cannot be.
        MissingExtra: if Ray is not installed.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.5
    patience: float = 300.0

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers: give 1 or more")

        share = self.gpus_per_worker
        if not math.isfinite(share) or share < 0 or (share > 1 and share != int(share)):
            raise UsageError(f"{share} GPUs per worker: give a share from 0 to 1, or whole ones")
        _ray()

    def works_here(self, count: int) -> bool:
        """Is this process itself the worker? Never: nodes are elsewhere."""
        return False

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        """Yield each task with what came of it.

        Raises:
            ConnectionError: without a cluster.
            TimeoutError: if no worker is left.
            ChildProcessError: for a task at which one worker after another dies.
            Exception: what a worker itself raises.
        """
        if not tasks:
            return

        with _connected(self.address) as ray:
            room, options = self._room(ray.cluster_resources())
            crew = _Crew(ray, ray.remote(_Actor).options(**options), make, tasks, self.patience)
            for _ in range(min(self.workers or room, len(tasks))):
                crew.start()

            yield from crew.done()

    def _room(self, has: dict[str, float]) -> tuple[int, dict]:
        """Return how many workers a cluster with these resources can hold, and what each takes."""
        gpus = self.gpus_per_worker if has.get("GPU") else 0
        cores = int(has.get("CPU", 0))
        room = min(cores, int(has["GPU"] / gpus)) if gpus else cores

        return max(room, 1), {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0}


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray will do anyway, and warns of until then.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("a Ray cluster needs Ray: pip install 'multierase[ray]'") from error

    return ray


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Connect to Ray for the length of the block, unless it was connected before."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return

    address = address or os.environ.get("RAY_ADDRESS", "local")
    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        _require_listening(address)
        options = local if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address!r}: `ray start --head` starts one and says where"
        ) from error

    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise ``OSError`` at once if nobody listens: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _versions() -> dict[str, str]:
    return {"multierase": multierase.__version__, "torch": torch.__version__.partition("+")[0]}


class _Actor:
    """A worker of a cluster.

    It loads nothing when it is made, so that an error of loading can be told from a node that died.
    """

    def start(self, make: Make, versions: dict[str, str]) -> None:
        if versions != _versions():
            raise ValueError(
                f"the driver has {versions}, a worker {_versions()}: results depend on them, so "
                "install the same everywhere"
            )
        torch.set_num_threads(1)
        self.work = make()

    def do(self, task: Any) -> Any:
        return self.work(task)


class _Crew:
    """The actors of one call, and the task that each is working on."""

    def __init__(self, ray: ModuleType, actor, make: Make, tasks: Sequence[Any], patience: float):
        self.ray, self.actor, self.make, self.patience = ray, actor, make, patience
        # By its place: a task itself may be anything.
        self.tasks = tasks
        self.waiting = collections.deque(range(len(tasks)))
        self.left = len(tasks)
        self.idle: list = []
        # By the result that is to come: the worker, and its task's place, None while it starts.
        self.running: dict = {}
        self.deaths: collections.Counter[int | None] = collections.Counter()

    def start(self) -> None:
        """Start one more worker."""
        worker = self.actor.remote()
        result = worker.start.remote(self.make, _versions())
        self.running[result] = worker, None

    def done(self) -> Done:
        """Yield each task as it is finished."""
        while self.left:
            while self.waiting and self.idle:
                worker, place = self.idle.pop(), self.waiting.popleft()
                self.running[worker.do.remote(self.tasks[place])] = worker, place

            for result in self._finished():
                yield from self._taken(result)

    def _taken(self, result) -> Done:
        """Yield a finished task; start another worker if this one died."""
        worker, place = self.running.pop(result)
        try:
            found = self.ray.get(result)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._lost(worker, place, error)
            return

        self.idle.append(worker)
        self.deaths[place] = 0
        if place is not None:
            self.left -= 1
            yield self.tasks[place], found

    def _finished(self) -> list:
        working = any(place is not None for _, place in self.running.values())
        patience = None if working else self.patience
        results, _ = self.ray.wait(list(self.running), timeout=patience)

        if not results:
            raise TimeoutError(
                f"no worker for {self.patience:g} s: {self.left} of {len(self.tasks)} are left; "
                f"the cluster has {self.ray.cluster_resources()}. All that is finished is kept, "
                "and the same command goes on when there is room"
            )

        return results

    def _lost(self, worker, place: int | None, error: Exception) -> None:
        """Start another worker for one that died, and give its task to whoever is free first."""
        self.ray.kill(worker)  # where it is the result alone that was lost
        self.deaths[place] += 1
        if self.deaths[place] >= DEATHS:
            when = "as they start" if place is None else f"at {self.tasks[place]}"
            raise ChildProcessError(
                f"{DEATHS} workers died {when}, the last with: {error}"
            ) from error

        if place is not None:
            self.waiting.appendleft(place)
        self.start()
