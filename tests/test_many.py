"""Many erasures at once give the files of as many runs, whoever makes them and whatever stops."""

from __future__ import annotations

import dataclasses
import hashlib
import os

import pytest

from multierase import Concept, EraseSettings, Library, TaggedPrompt, Workspace
from multierase.errors import AlreadyThere, UsageError
from multierase.executors.executor import Here, one_thread
from multierase.executors.processes import Processes
from multierase.many import Site, Task, erase_many
from multierase.methods import Refusal

pytestmark = pytest.mark.slow  # trains increments, in other processes

NAMES = ("Noto", "Twemoji", "Firefox")
# The base's own kind: siblings are sought among the names.
SETTINGS = EraseSettings(steps=2, batch_size=2, trajectories=1, sampler_steps=2, known=False)


def tasks(*names):
    return [Task(Concept(name), SETTINGS) for name in names]


def site(folder):
    return Site(str(folder), loading={"device": "cpu"})


def numbers(folder):
    """The digests of all numbers that are stored, by file."""
    found = {}
    for name, increment in Library(folder).items():
        digest = hashlib.sha256()
        for parameter in sorted(increment.deltas):
            digest.update(increment.dense(parameter).numpy().tobytes())
        found[name] = digest.hexdigest(), increment.provenance.settings

    return found


@pytest.fixture(scope="module")
def alone(emoji, tmp_path_factory):
    """Each of a run of its own, which knows the names of the others."""
    folder = tmp_path_factory.mktemp("alone") / "lib"
    with one_thread():
        for name in NAMES:
            Workspace(folder, emoji, create=True).train(name, settings=SETTINGS, beside=NAMES)

    return numbers(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_file_is_as_its_own_run_gives_it(alone, tmp_path, workers):
    found = dict(erase_many(tasks(*NAMES), site(tmp_path / "lib"), Processes(workers)))
    assert found == {name: tmp_path / "lib" / f"{name.lower()}.safetensors" for name in NAMES}
    assert numbers(tmp_path / "lib") == alone


def test_it_goes_on_where_it_stopped(alone, tmp_path):
    folder = tmp_path / "lib"
    running = erase_many(tasks(*NAMES), site(folder), Processes(1))
    name, path = next(running)
    running.close()
    assert (name, sorted(Library(folder))) == ("Noto", ["Noto"])
    before = path.stat().st_mtime_ns

    with pytest.raises(AlreadyThere, match="Noto"):
        list(erase_many(tasks(*NAMES), site(folder), Processes(1)))
    found = [name for name, _ in erase_many(tasks(*NAMES), site(folder), Processes(2), resume=True)]
    assert (found[0], sorted(found)) == ("Noto", sorted(NAMES))
    assert path.stat().st_mtime_ns == before
    assert numbers(folder) == alone


def test_a_workers_paths_are_whole(emoji, tmp_path, monkeypatch):
    """A worker of a cluster has another working directory."""
    monkeypatch.chdir(tmp_path)
    made = []

    class Elsewhere(Here):
        def works_here(self, count):
            return False

        def map(self, make, tasks):
            monkeypatch.chdir("/")
            work = make()
            for task in tasks:
                made.append(task.concept.name)
                yield task, work(task)

    ((name, path),) = erase_many(tasks("Noto"), site("lib"), Elsewhere(None))
    assert (name, made) == ("Noto", ["Noto"])
    assert os.path.samefile(path, tmp_path / "lib" / "noto.safetensors")


def test_what_is_refused_stops_no_other(tmp_path):
    settings = dataclasses.replace(SETTINGS, kind="none")
    wanted = [Task(Concept(name), settings) for name in ("Noto", "Firefox")]
    own = dataclasses.replace(site(tmp_path / "lib"), keep=(TaggedPrompt("Noto"),))
    found = dict(erase_many(wanted, own, Processes(1)))
    assert isinstance(found["Noto"], Refusal)
    assert "nothing is left to erase it by" in found["Noto"].reason
    assert list(Library(own.library)) == ["Firefox"]


def test_what_cannot_be_is_said_before_anything_is_trained(tmp_path):
    nobody = Here(lambda task: pytest.fail("trains"))
    with pytest.raises(UsageError, match="given twice"):
        list(erase_many(tasks("Noto", "Noto"), site(tmp_path / "lib"), nobody))
    unknown = dataclasses.replace(site(tmp_path / "lib"), method="edsd")
    with pytest.raises(UsageError, match="unknown method 'edsd'"):
        list(erase_many(tasks("Noto"), unknown, nobody))
