import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import sqlite3
import time

import pytest
import torch
from conftest import CASES

from multierase.evaluation import sweep as sweep_module
from multierase.evaluation.evaluator import Evaluator, Look
from multierase.evaluation.executors import Processes
from multierase.evaluation.metrics import Share
from multierase.evaluation.plans import plan
from multierase.evaluation.report import Results
from multierase.evaluation.suites import load_suite


def contents(path):
    """All that is in a database, but the file's own bytes."""
    connection = sqlite3.connect(path)
    tables = ("settings", "cases", "moments", "sets", "pictures", "thumbnails")
    found = {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}
    connection.close()
    return found


def sweep(*arguments, workers=1):
    return sweep_module.sweep(*arguments, executor=Processes(workers))


NAMES = ("Firefox", "Noto", "Twemoji")


def test_plans():
    subsets = [off for _, off in plan("subsets", NAMES)]
    assert len(set(subsets)) == len(subsets) == 7 and subsets[0] == ("Firefox",)
    assert [off for _, off in plan("pairs", NAMES)] == list(itertools.combinations(NAMES, 2))
    assert [off for _, off in plan("leave-one-out", NAMES)] == list(itertools.combinations(NAMES, 2))
    assert [off for _, off in plan("single", NAMES)] == [(name,) for name in NAMES]
    assert [off for _, off in plan("list", NAMES, listed=[["Twemoji", "Noto"], ["Noto", "Twemoji"]])] == [
        ("Noto", "Twemoji")
    ]
    random = plan("random", NAMES, count=7, seed=3)
    assert sorted(random) == sorted(plan("subsets", NAMES)) and random != plan("random", NAMES, count=7, seed=4)
    assert len(plan("random", [f"c{i:02d}" for i in range(40)], count=5)) == 5  # of 2^40
    order = plan("order", NAMES, events=["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"])
    assert [off for _, off in order] == [("Noto",), ("Noto", "Twemoji"), ("Twemoji",), ()]


@pytest.mark.parametrize(
    "sets, options, message",
    [
        ("subset", {}, "sets 'subset'; did you mean 'subsets'"),
        ("random", {"count": 8}, "8 random sets: 3 concepts have 7"),
        ("list", {"listed": [["Notto"]]}, "no increment for 'Notto'; did you mean 'Noto'"),
        ("order", {"events": ["restore Noto"]}, "'restore CONCEPT' of one that is off; off now: \\[\\]"),
        ("order", {"events": ["erase Noto", "erase Noto"]}, "off now: \\['Noto'\\]"),
        ("order", {"events": []}, "an order needs events"),
    ],
)
def test_plans_that_cannot_be(sets, options, message):
    with pytest.raises(ValueError, match=message):
        plan(sets, NAMES, **options)


def test_rows_are_what_the_judge_saw_and_no_set_is_judged_twice(subject, tmp_path, monkeypatch):
    moments = plan("subsets", NAMES)
    database = sweep(subject, moments, tmp_path / "a.db")
    assert database.done() == {(), *(off for _, off in moments)}
    results, evaluator = Results(database), Evaluator(subject)
    seen = evaluator.look(("Noto",)).seen
    assert {n: picture.seen for n, picture in results.seen(("Noto",)).items()} == {
        n: {kind: names[n] for kind, names in seen.items()} for n in range(3)
    }
    row = results.row(("Noto",))  # by hand, from the pictures
    assert row["erased"] == Share.of([seen["studio"][0] == "Noto"]).as_dict()
    assert row["kept"] == Share.of([seen["studio"][1] == "Twemoji", seen["studio"][2] == "Firefox"]).as_dict()
    assert row["cross_domain"] == Share.of([s == c[2] for s, c in zip(seen["subject"], CASES, strict=True)]).as_dict()
    assert (row["ua"], row["ira"], row["cra"]) == (
        1 - row["erased"]["value"], row["kept"]["value"], row["cross_domain"]["value"]
    )  # fmt: skip
    assert row["frechet_distance"] > 0 and row["distance"] < results.row(("Firefox", "Twemoji"))["distance"] + 1
    looked = []
    monkeypatch.setattr(Evaluator, "look", lambda self, erased: looked.append(erased))
    sweep(subject, moments, tmp_path / "a.db").close()
    assert looked == []


def _sweep(subject, path, workers):
    sweep(subject, plan("subsets", NAMES), path, workers=workers).close()


def test_killed_three_times_the_rows_are_those_of_an_uninterrupted_sweep(subject, whole, tmp_path):
    """And no worker is left by one that is killed."""
    path, context = tmp_path / "killed.db", multiprocessing.get_context("spawn")
    for kills, workers in enumerate((2, 1, 1)):
        process = context.Process(target=_sweep, args=(subject, path, workers))
        process.start()
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline and _count(path) < 2 * kills + 1:
            time.sleep(0.01)
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            children = [pid for pid in map(int, file.read().split()) if b"spawn_main" in _command(pid)]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while any(map(_command, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(children) == (workers if workers > 1 else 0) and not any(map(_command, children))
    assert 0 < _count(path) < 8
    threads = torch.get_num_threads()
    _sweep(subject, path, 1)
    assert torch.get_num_threads() == threads
    assert contents(path) == contents(whole)


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _count(path):
    try:
        connection = sqlite3.connect(path)
        (count,) = connection.execute("SELECT count(*) FROM sets").fetchone()
        connection.close()
    except sqlite3.Error:
        return 0
    return count


def test_a_set_is_there_whole_or_not_at_all(subject, tmp_path):
    database = sweep(subject, [], tmp_path / "a.db")
    with database.transaction() as connection:  # one picture of it is in the way
        connection.execute("INSERT INTO pictures VALUES (?, 2, '{}', 0, '{}', '{}')", (json.dumps(["Noto"]),))
    with pytest.raises(sqlite3.IntegrityError):
        database.add(load_suite(subject.suite), ("Noto",), Look({"studio": ["Noto"] * 3}, database.features(), {}))
    assert database.done() == {()} and database.rows("SELECT count(*) FROM pictures") == [(4,)]


def test_another_sweeps_database_is_refused(subject, tmp_path):
    sweep(subject, [], tmp_path / "a.db").close()
    with pytest.raises(ValueError, match="other settings .*'solve'.*give those, or another file"):
        sweep(dataclasses.replace(subject, solve="sum"), [], tmp_path / "a.db")
    (tmp_path / "text.db").write_text("not a database, but a text of some length " * 20)
    with pytest.raises(ValueError, match="cannot be a sweep's database"):
        sweep(subject, [], tmp_path / "text.db")
    with pytest.raises(ValueError, match="cannot be a sweep's database"):
        sweep(subject, [], tmp_path / "no" / "folder.db")
    with pytest.raises(KeyError, match="Notto"):
        sweep(subject, [("", ("Notto",))], tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()


def test_a_restored_concept_is_the_same_rows(subject, tmp_path):
    events = ["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"]
    database = sweep(subject, plan("order", NAMES, events=events), tmp_path / "a.db")
    rows = Results(database).rows()
    assert [row["event"] for row in rows] == ["base", *events]
    assert rows[-1]["kept"] == rows[0]["kept"] and rows[3] == {
        **Results(database).row(("Twemoji",), 2),
        "event": events[2],
    }
    assert [row["restored"]["count"] for row in rows] == [0, 0, 0, 1, 2]
    assert json.loads(database.rows("SELECT erased FROM moments WHERE position = 3")[0][0]) == []
