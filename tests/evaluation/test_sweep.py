import dataclasses
import multiprocessing
import os
import signal
import sqlite3
import time

import pytest
import torch

from multierase.errors import DatabaseError, UnknownConcept
from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.database import locked
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.statistics import Share
from multierase.evaluation.sweep import all_concepts, sweep
from multierase.executors.executor import one_thread
from multierase.executors.processes import Processes

NAMES = ("Firefox", "Noto", "Twemoji")
SUBJECTS = ["church", "cat", "cat"]
ALONE = Processes(1)


def test_rows_are_what_the_judge_saw_and_no_set_is_judged_twice(
    experiment, subsets, whole_sweep, tmp_path, monkeypatch
):
    with one_thread():
        seen = Evaluator(experiment).observe(("Noto",)).seen
    with sweep(experiment, subsets, whole_sweep, executor=ALONE) as store:
        assert store.done() == {(), *(erased for _, erased in subsets)}
        rows = Rows(store)
        stored = {n: one.seen for n, one in rows.outcome(("Noto",)).pictures.items()}
        row, others = rows.row(("Noto",)), rows.row(("Firefox", "Twemoji"))
    assert stored == {n: {kind: names[n] for kind, names in seen.items()} for n in range(3)}

    studios = seen["studio"]  # by hand, from the pictures
    kept = Share.of([studios[1] == "Twemoji", studios[2] == "Firefox"])
    subjects = Share.of([a == b for a, b in zip(seen["subject"], SUBJECTS, strict=True)])
    assert row["remaining"] == Share.of([studios[0] == "Noto"]).as_dict()
    assert row["kept"] == kept.as_dict()
    assert row["cross_domain"] == subjects.as_dict()
    published = (1 - row["remaining"]["value"], kept.value, subjects.value)
    assert (row["ua"], row["ira"], row["cra"]) == published
    assert row["frechet_distance"] > 0
    assert row["distance"] < others["distance"] + 1

    observed = []
    monkeypatch.setattr(Evaluator, "observe", lambda self, erased: observed.append(erased))
    sweep(experiment, subsets, whole_sweep, executor=ALONE).close()
    assert observed == []


def _sweep(experiment, stages, path, workers):
    sweep(experiment, stages, path, executor=Processes(workers)).close()


@pytest.mark.slow
def test_killed_three_times_the_rows_are_those_of_an_uninterrupted_sweep(
    experiment, subsets, whole_sweep, contents, tmp_path
):
    """And no worker is left by one that is killed."""
    path, context = tmp_path / "killed.db", multiprocessing.get_context("spawn")
    for kills, workers in enumerate((2, 1, 1)):
        process = context.Process(target=_sweep, args=(experiment, subsets, path, workers))
        process.start()
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline and count(path) < 2 * kills + 1:
            time.sleep(0.01)

        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            found = map(int, file.read().split())
            children = [pid for pid in found if b"spawn_main" in command(pid)]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while any(map(command, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(children) == (workers if workers > 1 else 0)
        assert not any(map(command, children))

    assert 0 < count(path) < 8
    threads = torch.get_num_threads()
    _sweep(experiment, subsets, path, 1)
    assert torch.get_num_threads() == threads
    assert contents(path) == contents(whole_sweep)
    assert not (tmp_path / "killed.db.lock").exists()


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def count(path):
    try:
        connection = sqlite3.connect(path)
        ((number,),) = connection.execute("SELECT count(*) FROM sets")
        connection.close()
    except sqlite3.Error:
        return 0
    return number


def test_two_sweeps_at_once_into_one_database(experiment, tmp_path):
    """The second is refused, and changes nothing."""
    with locked(tmp_path / "a.db"), pytest.raises(DatabaseError, match="another sweep is writing"):
        sweep(experiment, [], tmp_path / "a.db", executor=ALONE)
    assert list(tmp_path.iterdir()) == []
    sweep(experiment, [], tmp_path / "a.db", executor=ALONE).close()


def test_another_sweeps_database_is_refused(experiment, tmp_path):
    sweep(experiment, [], tmp_path / "a.db", executor=ALONE).close()
    other = dataclasses.replace(experiment, solve="sum")
    with pytest.raises(
        DatabaseError, match="other settings: solve \\(there: None, given: 'sum'\\)"
    ):
        sweep(other, [], tmp_path / "a.db", executor=ALONE)
    with pytest.raises(DatabaseError, match="measured_by.clip_score"):
        sweep(dataclasses.replace(experiment, clip=None), [], tmp_path / "a.db", executor=ALONE)


def test_nothing_is_written_before_all_is_known_to_be_right(experiment, tmp_path):
    with pytest.raises(UnknownConcept, match="Notto"):
        sweep(experiment, [("", ("Notto",))], tmp_path / "b.db")
    missing = dataclasses.replace(experiment, fid=str(tmp_path / "inception.pth"))
    with pytest.raises(FileNotFoundError, match="--fid takes torch-fidelity's Inception"):
        sweep(missing, [], tmp_path / "b.db")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_sweep_closes_its_database(experiment, subsets, tmp_path):
    class Failing:
        def works_here(self, count):
            return True

        def map(self, make, tasks):
            raise ConnectionError("no cluster")
            yield

    with pytest.raises(ConnectionError, match="no cluster"):
        sweep(experiment, subsets, tmp_path / "a.db", executor=Failing())
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_a_restored_concept_is_the_same_rows(experiment, tmp_path):
    events = ["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"]
    order = concept_sets("order", NAMES, events=events)
    with sweep(experiment, order, tmp_path / "a.db", executor=ALONE) as store:
        rows = Rows(store).rows()
        third = Rows(store).row(("Twemoji",), 2)
        assert store.stages()[-1] == (events[-1], ())

    assert [row["event"] for row in rows] == ["base", *events]
    assert rows[-1]["kept"] == rows[0]["kept"]
    assert repr(rows[3]) == repr({"event": events[2], **third})
    assert [row["restored"]["count"] for row in rows] == [0, 0, 0, 1, 2]


def test_all_concepts_of_a_library_or_of_a_suite(experiment):
    assert all_concepts(experiment, "subsets") == list(NAMES)
    bare = dataclasses.replace(experiment, library=None, method="uce")
    assert all_concepts(bare, "list") == ["Noto", "Twemoji", "Firefox", "church", "cat"]
    with pytest.raises(Exception, match="without a library, which --concepts"):
        all_concepts(bare, "pairs")
