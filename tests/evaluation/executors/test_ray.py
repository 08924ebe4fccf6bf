import dataclasses
import os
import sys

import pytest
import ray
from ray.cluster_utils import Cluster
from test_sweep import NAMES, contents

from multierase.evaluation.executors import Processes, RayCluster, _Crew, judged
from multierase.evaluation.plans import plan
from multierase.evaluation.sweep import sweep

pytestmark = pytest.mark.filterwarnings(  # Ray leaves its own processes and pipes to the garbage collector
    "ignore:subprocess \\d+ is still running:ResourceWarning",
)
STORE = 80 * 2**20  # bytes, the least that Ray takes
MOMENTS = plan("subsets", NAMES)


@pytest.fixture(scope="module")
def cluster():
    """A head without a core to work on, and two nodes of one core each; and the first of them."""
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    first, _ = (cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2))
    yield cluster, first
    cluster.shutdown()


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


def test_what_a_worker_raises_is_what_the_driver_raises(subject, cluster, tmp_path):
    missing = dataclasses.replace(subject, base=str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="no base at"):
        sweep(missing, MOMENTS, tmp_path / "a.db", executor=RayCluster(cluster[0].address, workers=1))


def test_a_node_that_is_killed_costs_no_set(subject, whole, cluster, crew, tmp_path, monkeypatch):
    cluster, node = cluster
    folder = os.path.dirname(subject.library)
    monkeypatch.chdir(folder)  # the workers stand elsewhere
    here = dataclasses.replace(subject, library="lib", suite="small.yaml", clip=os.path.relpath(subject.clip, folder))
    killing = Watched(
        RayCluster(cluster.address, patience=60),
        lambda number: cluster.remove_node(node, allow_graceful=False) if number == 1 else None,
    )
    sweep(here, MOMENTS, tmp_path / "ray.db", executor=killing).close()
    # One set was lost; so may be a worker that was to start on the node before it was known to be dead.
    assert crew[0] is not None and not any(crew[1:])
    found, expected = contents(tmp_path / "ray.db"), contents(whole)
    del found["settings"], expected["settings"]  # they name the CLIP by the path that was given
    assert found == expected
    assert not ray.is_initialized()


def test_without_a_worker_it_says_what_is_left_and_the_same_call_goes_on(subject, whole, cluster, crew, tmp_path):
    cluster, _ = cluster

    def kill(number):
        for node in list(cluster.worker_nodes) if number == 2 else ():
            cluster.remove_node(node, allow_graceful=False)

    path = tmp_path / "ray.db"
    with pytest.raises(TimeoutError, match="no worker for 3 s: [2-5] of 8 sets are left; .*the same command goes on"):
        sweep(subject, MOMENTS, path, executor=Watched(RayCluster(cluster.address, patience=3), kill))
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    sweep(subject, MOMENTS, path, executor=RayCluster(cluster.address)).close()
    assert contents(path) == contents(whole)


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
