"""Sets observed on a Ray cluster, whose workers and nodes may die at any time."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

import multierase
from multierase.errors import MissingExtra, UsageError
from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.executors.executor import Observed
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.observations import Observations
from multierase.evaluation.suites import Suite, shipped_suites

OBJECT_STORE = 256 * 2**20  # bytes, of a Ray that is started here: observations are small
DEATHS = 3  # of workers at one set: then the set is what kills them
PATHS = ("library", "base_config", "peer", "prompts", "fid", "reference")


@dataclass(frozen=True)
class RayCluster:
    """Actors on a Ray cluster, each with one core and, if there are GPUs, a share of one.

    Every node has the same multierase and torch, and sees library, suite and base under the same
    paths. A set whose worker or node dies is given to another, and another worker is started as
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

    def observe(
        self, experiment: Experiment, sets: Sequence[Erased], instruments: Instruments
    ) -> Observed:
        """Yield each set with its observations.

        Raises:
            ConnectionError: without a cluster.
            TimeoutError: if no worker is left.
            ChildProcessError: for a set at which one worker after another dies.
            Exception: what a worker itself raises.
        """
        if not sets:
            return
        whole = with_whole_paths(experiment, instruments.suite)

        with _connected(self.address) as ray:
            room, options = self._room(ray.cluster_resources())
            actor = ray.remote(_Actor).options(**options)
            crew = _Crew(ray, actor, whole, sets, self.patience)
            for _ in range(min(self.workers or room, len(sets))):
                crew.start()

            yield from crew.observations()

    def _room(self, has: dict[str, float]) -> tuple[int, dict]:
        """Return how many workers a cluster with these resources can hold, and what each takes."""
        gpus = self.gpus_per_worker if has.get("GPU") else 0
        cores = int(has.get("CPU", 0))
        room = min(cores, int(has["GPU"] / gpus)) if gpus else cores

        return max(room, 1), {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0}


def with_whole_paths(experiment: Experiment, suite: Suite) -> Experiment:
    """Return the experiment for a worker with another working directory: with whole paths.

    Names of what is shipped, and hub ids, stay. What the suite names beside its YAML is in it too.
    """
    names = {name: _whole(getattr(experiment, name)) for name in PATHS}
    names["clip"] = _whole(suite.clip)
    if experiment.base != "emoji":
        names["base"] = _whole(experiment.base)
    if experiment.suite not in shipped_suites():
        names["suite"] = _whole(experiment.suite)

    judge = {}
    for option, value in suite.judge.items():
        judge[option] = value if option == "name" else _whole(value)

    return replace(experiment, judge=judge, **names)


def _whole(name: str | float | None) -> str | float | None:
    """Return the whole path of what is there under this name; else the name."""
    path = os.path.expanduser(name) if isinstance(name, str) else ""

    return str(Path(path).resolve()) if os.path.exists(path) else name


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

    def start(self, experiment: Experiment, versions: dict[str, str]) -> None:
        if versions != _versions():
            raise ValueError(
                f"the driver has {versions}, a worker {_versions()}: rows depend on them, so "
                "install the same everywhere"
            )
        torch.set_num_threads(1)
        self.evaluator = Evaluator(experiment)

    def observe(self, erased: Erased) -> Observations:
        return self.evaluator.observe(erased)


class _Crew:
    """The actors of one sweep, and the set that each is working on."""

    def __init__(
        self,
        ray: ModuleType,
        actor,
        experiment: Experiment,
        sets: Sequence[Erased],
        patience: float,
    ):
        self.ray, self.actor, self.experiment, self.patience = ray, actor, experiment, patience
        self.waiting = collections.deque(sets)
        self.left = self.total = len(sets)
        self.idle: list = []
        # By the result that is to come: the worker, and its set, which is None while it starts.
        self.running: dict = {}
        self.deaths: collections.Counter[Erased | None] = collections.Counter()

    def start(self) -> None:
        """Start one more worker."""
        worker = self.actor.remote()
        result = worker.start.remote(self.experiment, _versions())
        self.running[result] = worker, None

    def observations(self) -> Observed:
        """Yield each set as it is finished."""
        while self.left:
            while self.waiting and self.idle:
                worker, erased = self.idle.pop(), self.waiting.popleft()
                self.running[worker.observe.remote(erased)] = worker, erased

            for result in self._finished():
                yield from self._taken(result)

    def _taken(self, result) -> Observed:
        """Yield a finished set; start another worker if this one died."""
        worker, erased = self.running.pop(result)
        try:
            observations = self.ray.get(result)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._lost(worker, erased, error)
            return

        self.idle.append(worker)
        self.deaths[erased] = 0
        if erased is not None:
            self.left -= 1
            yield erased, observations

    def _finished(self) -> list:
        working = any(erased is not None for _, erased in self.running.values())
        patience = None if working else self.patience
        results, _ = self.ray.wait(list(self.running), timeout=patience)

        if not results:
            raise TimeoutError(
                f"no worker for {self.patience:g} s: {self.left} of {self.total} sets are left; "
                f"the cluster has {self.ray.cluster_resources()}. All finished sets are kept, and "
                "the same command goes on when there is room"
            )

        return results

    def _lost(self, worker, erased: Erased | None, error: Exception) -> None:
        """Start another worker for one that died, and give its set to whoever is free first."""
        self.ray.kill(worker)  # where it is the result alone that was lost
        self.deaths[erased] += 1
        if self.deaths[erased] >= DEATHS:
            when = "as they start" if erased is None else f"at the set {list(erased)}"
            raise ChildProcessError(
                f"{DEATHS} workers died {when}, the last with: {error}"
            ) from error

        if erased is not None:
            self.waiting.appendleft(erased)
        self.start()
