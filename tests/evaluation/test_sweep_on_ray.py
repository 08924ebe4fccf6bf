import dataclasses
import os
import sys
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from multierase import Concept, EraseSettings, Library
from multierase.errors import MissingExtra, UsageError
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.suites import load_suite, suite_of
from multierase.evaluation.sweep import sweep, with_whole_paths
from multierase.executors.ray import RayCluster, _Crew
from multierase.many import Site, Task, erase_many

# Ray leaves its own processes and pipes to the garbage collector.
IGNORED = "ignore:subprocess \\d+ is still running:ResourceWarning"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(IGNORED)]
STORE = 80 * 2**20  # bytes, the least that Ray takes


@pytest.fixture(scope="module")
def cluster():
    """A head without a core to work on, and two nodes of one core each; and the first of them."""
    soon = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    head = {
        "num_cpus": 0,
        "object_store_memory": STORE,
        "include_dashboard": False,
        "_system_config": soon,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    first, _ = (cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2))
    yield cluster, first
    cluster.shutdown()


def lose(cluster, node):
    """Kill a node, and wait until the cluster says so: its worker outlives it by a moment."""
    alive = len(cluster.worker_nodes) + 1
    cluster.remove_node(node, allow_graceful=False)
    for _ in range(600):
        if sum(found["Alive"] for found in ray.nodes()) < alive:
            return
        time.sleep(0.1)
    raise TimeoutError("a killed node is still said to be alive")


class Watched:
    """An executor, and what is done as observations come in."""

    def __init__(self, executor, after):
        self.executor, self.after = executor, after

    def works_here(self, count):
        return self.executor.works_here(count)

    def map(self, make, tasks):
        for number, found in enumerate(self.executor.map(make, tasks)):
            yield found
            self.after(number)


@pytest.fixture
def losses(monkeypatch):
    """The places of sets whose workers were lost. All have started before the first has work."""
    finished, lost, found = _Crew._finished, _Crew._lost, []

    def started(self):
        if not self.deaths:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=60)
        return finished(self)

    def noted(self, worker, place, error):
        found.append(place)
        lost(self, worker, place, error)

    monkeypatch.setattr(_Crew, "_finished", started)
    monkeypatch.setattr(_Crew, "_lost", noted)
    return found


def test_what_a_worker_raises_is_what_the_driver_raises(experiment, subsets, cluster, tmp_path):
    missing = dataclasses.replace(experiment, base=str(tmp_path / "missing"))
    executor = RayCluster(cluster[0].address, workers=1)
    with pytest.raises(FileNotFoundError, match="no base at"):
        sweep(missing, subsets, tmp_path / "a.db", executor=executor)


def test_a_node_that_is_killed_costs_no_set(
    experiment, subsets, whole_sweep, contents, cluster, losses, tmp_path, monkeypatch
):
    cluster, node = cluster
    folder = os.path.dirname(experiment.library)
    monkeypatch.chdir(folder)  # the workers have another working directory
    clip = os.path.relpath(experiment.clip, folder)
    here = dataclasses.replace(experiment, library="lib", suite="small.yaml", clip=clip)

    def kill(number):
        if number == 1:
            lose(cluster, node)

    executor = Watched(RayCluster(cluster.address, patience=60), kill)
    sweep(here, subsets, tmp_path / "ray.db", executor=executor).close()
    # One set was lost; so may be a worker that was to start on the node before its death was known.
    assert losses[0] is not None
    assert not any(losses[1:])

    found, expected = contents(tmp_path / "ray.db"), contents(whole_sweep)
    del found["settings"], expected["settings"]  # they name the CLIP by the path that was given
    assert found == expected
    assert not ray.is_initialized()


def test_without_a_worker_it_says_what_is_left_and_the_same_call_goes_on(
    experiment, subsets, whole_sweep, contents, cluster, losses, tmp_path
):
    cluster, _ = cluster

    def kill(number):
        for node in list(cluster.worker_nodes) if number == 2 else ():
            lose(cluster, node)

    path, executor = tmp_path / "ray.db", Watched(RayCluster(cluster.address, patience=3), kill)
    message = "no worker for 3 s: [2-5] of 8 are left; .*the same command goes on"
    with pytest.raises(TimeoutError, match=message):
        sweep(experiment, subsets, path, executor=executor)

    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    sweep(experiment, subsets, path, executor=RayCluster(cluster.address)).close()
    assert contents(path) == contents(whole_sweep)


def test_concepts_are_erased_on_a_cluster(cluster, tmp_path, monkeypatch):
    """In the library that the driver names, from another working directory."""
    monkeypatch.chdir(tmp_path)
    settings = EraseSettings(kind="none", known=False, steps=1, batch_size=1, sampler_steps=2)
    tasks = [Task(Concept(name), settings) for name in ("Noto", "Firefox")]
    site = Site("lib", loading={"device": "cpu"})
    found = dict(erase_many(tasks, site, RayCluster(cluster[0].address)))
    assert {name: path.name for name, path in found.items()} == {
        "Noto": "noto.safetensors",
        "Firefox": "firefox.safetensors",
    }
    assert list(Library(tmp_path / "lib")) == ["Firefox", "Noto"]


def test_clusters_that_cannot_be(monkeypatch):
    for share in (-0.5, 1.5, float("nan")):
        with pytest.raises(UsageError, match="GPUs per worker: give a share from 0 to 1, or whole"):
            RayCluster(gpus_per_worker=share)

    with pytest.raises(ConnectionError, match="no Ray cluster at '127.0.0.1:1': `ray start --he"):
        next(RayCluster("127.0.0.1:1").map(list, [()]))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'multierase\[ray\]'"):
        RayCluster()


@pytest.mark.parametrize(
    ("has", "room"),
    [({"CPU": 8}, 8), ({"CPU": 8, "GPU": 2}, 4), ({"CPU": 2, "GPU": 2}, 2), ({}, 1)],
)
def test_as_many_workers_as_there_is_room_for(has, room):
    assert RayCluster()._room(has)[0] == room


def test_whole_paths_for_a_worker_with_another_working_directory(
    clip_folder, tmp_path, monkeypatch
):
    """Also those that the suite itself names; hub ids and names stay."""
    monkeypatch.chdir(tmp_path)
    clip = os.path.relpath(clip_folder)
    for name in ("lib", "clip"):  # no judge's name is a folder
        (tmp_path / name).mkdir()
    (tmp_path / "few.csv").write_text("prompt,evaluation_seed,studio\na cat by Noto,0,Noto\n")
    (tmp_path / "clip.yaml").write_text(
        f"prompts: few.csv\nlabels: [studio]\nclip: {clip}\n"
        f"judge: {{name: clip, model: {clip}, studio: 'by {{label}}'}}\n"
    )
    experiment = Experiment(
        library="lib",
        suite="clip.yaml",
        prompts="few.csv",
        reference="lib",
        fid="few.csv",
        base="nota/tiny-sd",
    )
    assert with_whole_paths(experiment, suite_of(experiment)) == dataclasses.replace(
        experiment,
        library=str(tmp_path / "lib"),
        suite=str(tmp_path / "clip.yaml"),
        prompts=str(tmp_path / "few.csv"),
        reference=str(tmp_path / "lib"),
        fid=str(tmp_path / "few.csv"),
        clip=str(clip_folder),
        judge={"name": "clip", "model": str(clip_folder), "studio": "by {label}"},
    )

    judge = {"name": "clip", "model": "openai/clip"}
    other = Experiment(library="lib", suite="studios", judge=judge)
    whole = with_whole_paths(other, load_suite("studios", judge=judge))
    assert (whole.suite, whole.base, whole.clip) == ("studios", "emoji", None)
    assert whole.judge == judge
