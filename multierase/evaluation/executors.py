"""Where sets are judged: in this process, in processes beside it, or on a Ray cluster; the looks are the same."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch

import multierase
from multierase.evaluation.evaluator import Evaluator, Look, Subject
from multierase.evaluation.plans import Erased

OBJECT_STORE = 256 * 2**20  # bytes, of a Ray that is started here: looks are small
DEATHS = 3  # of workers at one set: then the set is what kills them


class Executor(Protocol):
    """Judges sets, each worker in one thread: sums of floating-point numbers depend on the number of threads."""

    def looks(self, subject: Subject, sets: Sequence[Erased]) -> Iterator[tuple[Erased, Look]]:
        """Of every set, as it is finished."""


def judged(executor: Executor, subject: Subject, sets: Sequence[Erased]) -> Iterator[tuple[Erased, Look]]:
    """Of every set; the base first, if it is one of them, for the others are set against it."""
    early, held = [], () in sets
    for erased, look in executor.looks(subject, sets) if sets else ():
        if erased and held:
            early.append((erased, look))
            continue
        yield erased, look
        if held:
            held = False
            yield from early


@dataclass
class BaseOnce:
    """Judges the base once for several subjects that differ in method alone: without anything erased they are one."""

    executor: Executor
    base: Look | None = None

    def looks(self, subject: Subject, sets: Sequence[Erased]) -> Iterator[tuple[Erased, Look]]:
        if () in sets and self.base is not None:
            yield (), self.base
            sets = [erased for erased in sets if erased]
        for erased, look in self.executor.looks(subject, sets) if sets else ():
            self.base = self.base if erased else look
            yield erased, look


@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine.

    Args:
        workers: one a core by default, and one where there is a GPU; one is this process itself.

    Raises:
        ValueError: for fewer than one.
    """

    workers: int | None = None

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"{self.workers} workers: give 1 or more")

    def looks(self, subject: Subject, sets: Sequence[Erased]) -> Iterator[tuple[Erased, Look]]:
        """Raises ``ChildProcessError`` where a worker is killed."""
        cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1
        workers = min(self.workers or cores, len(sets))
        if workers == 1:
            with _one_thread():
                evaluator = Evaluator(subject)
                for erased in sets:
                    yield erased, evaluator.look(erased)
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context, _start_process, (subject,)) as pool:
            running = {pool.submit(_look, erased): erased for erased in sets}
            try:
                for future in concurrent.futures.as_completed(running):
                    yield running[future], future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a worker process ended, perhaps for want of memory: what is done is kept, and the same command "
                    "goes on; fewer --workers need less"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


_EVALUATOR: Evaluator | None = None  # of a worker process


def _start_process(subject: Subject) -> None:
    global _EVALUATOR
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _EVALUATOR = Evaluator(subject)


def _end_with_parent() -> None:
    """A sweep that is killed cannot end its workers, and they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _look(erased: Erased) -> Look:
    return _EVALUATOR.look(erased)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class RayCluster:
    """Actors on a Ray cluster, each with one core and, where the cluster has GPUs, a share of one.

    Every node has the same multierase and torch, and sees library, suite and base under the same paths. A set whose
    worker or node dies is given to another, and another worker is started as soon as there is room for it.

    Args:
        address: of the cluster; by default that in ``RAY_ADDRESS``, else one is started on this machine.
        workers: as many as there is room for by default; those for which there is none yet start when there is.
        gpus_per_worker: share of a GPU, or whole ones.
        patience: seconds without any worker after which to give up.

    Raises:
        ValueError: for fewer than one worker, a share that cannot be, or where Ray is not installed.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.5
    patience: float = 300.0

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"{self.workers} workers: give 1 or more")
        share = self.gpus_per_worker
        if not math.isfinite(share) or share < 0 or (share > 1 and share != int(share)):
            raise ValueError(f"{share} GPUs per worker: give a share from 0 to 1, or whole ones")
        _ray()

    def looks(self, subject: Subject, sets: Sequence[Erased]) -> Iterator[tuple[Erased, Look]]:
        """Raises ``ConnectionError`` without a cluster, ``TimeoutError`` where no worker is left, ``ChildProcessError``
        for a set at which one worker after another dies, and what a worker itself raises."""
        with _connected(self.address) as ray:
            room, options = self._room(ray.cluster_resources())
            crew = _Crew(ray, ray.remote(_Actor).options(**options), subject.absolute(), sets, self.patience)
            for _ in range(min(self.workers or room, len(sets))):
                crew.start()
            yield from crew.looks()

    def _room(self, has: dict[str, float]) -> tuple[int, dict]:
        """How many workers a cluster that ``has`` these resources can hold, and what each takes."""
        gpus = self.gpus_per_worker if has.get("GPU") else 0
        cores = int(has.get("CPU", 0))
        room = min(cores, int(has["GPU"] / gpus)) if gpus else cores
        return max(room, 1), {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0}


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, and warns of until then
    try:
        import ray
    except ImportError as error:
        raise ValueError("a Ray cluster needs Ray: pip install 'multierase[ray]'") from error
    return ray


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected for the length of the block, unless it was before."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS", "local")
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address == "local" else {}
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster at {address!r}: `ray start --head` starts one and says where") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _versions() -> dict[str, str]:
    return {"multierase": multierase.__version__, "torch": torch.__version__.partition("+")[0]}


class _Actor:
    """One worker of a cluster. Nothing is loaded as it is made, so that what fails is told from a node that dies."""

    def start(self, subject: Subject, versions: dict[str, str]) -> None:
        if versions != _versions():
            raise ValueError(f"the driver has {versions}, a worker {_versions()}: rows depend on them, so install one")
        torch.set_num_threads(1)
        self.evaluator = Evaluator(subject)

    def look(self, erased: Erased) -> Look:
        return self.evaluator.look(erased)


class _Crew:
    """The actors of one sweep, and what each is at."""

    def __init__(self, ray: ModuleType, actor, subject: Subject, sets: Sequence[Erased], patience: float):
        self.ray, self.actor, self.subject, self.patience = ray, actor, subject, patience
        self.waiting, self.left, self.total = collections.deque(sets), len(sets), len(sets)
        self.idle: list = []
        self.running: dict = {}  # by the result that is to come the worker, and its set; None while it starts
        self.deaths: collections.Counter[Erased | None] = collections.Counter()

    def start(self) -> None:
        worker = self.actor.remote()
        self.running[worker.start.remote(self.subject, _versions())] = worker, None

    def looks(self) -> Iterator[tuple[Erased, Look]]:
        while self.left:
            while self.waiting and self.idle:
                worker, erased = self.idle.pop(), self.waiting.popleft()
                self.running[worker.look.remote(erased)] = worker, erased
            for result in self._finished():
                worker, erased = self.running.pop(result)
                try:
                    look = self.ray.get(result)
                except self.ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except self.ray.exceptions.RayError as error:
                    self._lost(worker, erased, error)
                    continue
                self.idle.append(worker)
                self.deaths[erased] = 0
                if erased is not None:
                    self.left -= 1
                    yield erased, look

    def _finished(self) -> list:
        working = any(erased is not None for _, erased in self.running.values())
        results, _ = self.ray.wait(list(self.running), timeout=None if working else self.patience)
        if not results:
            raise TimeoutError(
                f"no worker for {self.patience:g} s: {self.left} of {self.total} sets are left; the cluster has "
                f"{self.ray.cluster_resources()}. What is done is kept, and the same command goes on when it has room"
            )
        return results

    def _lost(self, worker, erased: Erased | None, error: Exception) -> None:
        """Another worker for one that died, and its set to whoever is free first."""
        self.ray.kill(worker)  # where it is the result alone that was lost
        self.deaths[erased] += 1
        if self.deaths[erased] >= DEATHS:
            what = "as they start" if erased is None else f"at the set {list(erased)}"
            raise ChildProcessError(f"{DEATHS} workers died {what}, the last with: {error}") from error
        if erased is not None:
            self.waiting.appendleft(erased)
        self.start()
