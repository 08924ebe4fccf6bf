import dataclasses
import multiprocessing
import os
import signal
import sys
import time

import pytest
import ray
from ray.cluster_utils import Cluster
from test_sweep import NAMES, _count, contents

from multierase.evaluation.executors import Processes, RayCluster, _Crew, judged
from multierase.evaluation.plans import plan
from multierase.evaluation.sweep import sweep

pytestmark = pytest.mark.filterwarnings(  # Ray leaves its own processes and pipes to the garbage collector
    "ignore:subprocess \\d+ is still running:ResourceWarning",
)
STORE = 80 * 2**20  # bytes, the least that Ray takes
MOMENTS = plan("subsets", NAMES)


@pytest.fixture(scope="module")
def whole(subject, tmp_path_factory):
    """The rows of one worker."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    sweep(subject, MOMENTS, path, executor=Processes(1)).close()
    return contents(path)


@pytest.fixture(scope="module")
def head():
    """A cluster without a core to work on."""
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(head):
    """With two nodes of one core each."""
    nodes = [head.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    yield head, nodes
    for node in list(head.worker_nodes):
        head.remove_node(node)


class Watched:
    """An executor, and what is done as looks come in."""

    def __init__(self, executor, after):
        self.executor, self.after = executor, after

    def looks(self, subject, sets):
        for number, found in enumerate(self.executor.looks(subject, sets)):
            yield found
            self.after(number)


@pytest.fixture
def crew(monkeypatch):
    """Of a cluster's workers, all have started before the first has work; and which of their sets were lost."""
    finished, lost, losses = _Crew._finished, _Crew._lost, []

    def started(self):
        if not self.deaths:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=60)
        return finished(self)

    monkeypatch.setattr(_Crew, "_finished", started)
    monkeypatch.setattr(_Crew, "_lost", lambda self, *found: (losses.append(found[1]), lost(self, *found)))
    return losses


def test_a_node_that_is_killed_costs_no_set(subject, whole, cluster, crew, tmp_path, monkeypatch):
    cluster, (node, _) = cluster
    monkeypatch.chdir(os.path.dirname(subject.library))  # the workers stand elsewhere
    here = dataclasses.replace(subject, library="lib", suite="small.yaml")
    killing = Watched(
        RayCluster(cluster.address, patience=60),
        lambda number: cluster.remove_node(node, allow_graceful=False) if number == 1 else None,
    )
    sweep(here, MOMENTS, tmp_path / "ray.db", executor=killing).close()
    assert len(crew) == 1 and crew[0] is not None
    assert contents(tmp_path / "ray.db") == whole
    assert not ray.is_initialized()


def test_without_a_worker_it_says_what_is_left_and_the_same_call_goes_on(subject, whole, cluster, crew, tmp_path):
    cluster, nodes = cluster

    def kill(number):
        for node in nodes if number == 2 else ():
            cluster.remove_node(node, allow_graceful=False)

    path = tmp_path / "ray.db"
    with pytest.raises(TimeoutError, match="no worker for 3 s: [2-5] of 8 sets are left; .*the same command goes on"):
        sweep(subject, MOMENTS, path, executor=Watched(RayCluster(cluster.address, patience=3), kill))
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    sweep(subject, MOMENTS, path, executor=RayCluster(cluster.address)).close()
    assert contents(path) == whole


def test_what_a_worker_raises_is_what_the_driver_raises(subject, cluster, tmp_path):
    missing = dataclasses.replace(subject, base=str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="no base at"):
        sweep(missing, MOMENTS, tmp_path / "a.db", executor=RayCluster(cluster[0].address, workers=1))


def test_executors_that_cannot_be(monkeypatch):
    for kind in (Processes, RayCluster):
        with pytest.raises(ValueError, match="0 workers: give 1 or more"):
            kind(workers=0)
    for share in (-0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="GPUs per worker: give a share from 0 to 1, or whole ones"):
            RayCluster(gpus_per_worker=share)
    with pytest.raises(ConnectionError, match="no Ray cluster at '127.0.0.1:1': `ray start --head`"):
        next(RayCluster("127.0.0.1:1").looks(None, [()]))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'multierase\[ray\]'"):
        RayCluster()


@pytest.mark.parametrize("has, room", [({"CPU": 8}, 8), ({"CPU": 8, "GPU": 2}, 4), ({"CPU": 2, "GPU": 2}, 2), ({}, 1)])
def test_as_many_workers_as_there_is_room_for(has, room):
    assert RayCluster()._room(has)[0] == room


def test_the_base_comes_first():
    class Late:
        def looks(self, subject, sets):
            yield from ((erased, None) for erased in reversed(sets))

    sets = [(), ("Noto",), ("Firefox",)]
    assert [erased for erased, _ in judged(Late(), None, sets)] == [(), ("Firefox",), ("Noto",)]
    assert [erased for erased, _ in judged(Late(), None, sets[1:])] == [("Firefox",), ("Noto",)]
    assert list(judged(Late(), None, [])) == []


def _sweep(subject, path):
    sweep(subject, MOMENTS, path, executor=Processes(2))


def test_a_sweep_that_is_killed_leaves_no_worker(subject, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_sweep, args=(subject, tmp_path / "a.db"))
    process.start()
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 90
    while not _count(tmp_path / "a.db") and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(children) as file:
        workers = [pid for pid in map(int, file.read().split()) if b"spawn_main" in _command(pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while any(map(_command, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(map(_command, workers))


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
