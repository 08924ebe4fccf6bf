"""What can happen to a database: other programs, full disks, kills, hostile hands."""

import json
import os
import sqlite3
import stat
import subprocess
import sys

import numpy as np
import pytest

from multierase.errors import DatabaseError
from multierase.evaluation.cases import Case
from multierase.evaluation.database import locked
from multierase.evaluation.observations import Observations
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.store import SCHEMA_VERSION, Store
from multierase.evaluation.suites import Suite
from multierase.sampling import SamplingSettings

SUITE = Suite(
    "two",
    (Case(4, "a cat", 1, {"subject": "cat"}), Case(2, "a dog", 0, {"subject": "dog"})),
    {"name": "emoji"},
    SamplingSettings(),
)
CATS = [("", ("cat",))]


def seen(*subjects):
    features = np.random.default_rng(len(subjects[0])).normal(size=(2, 3)).astype(np.float32)

    return Observations({"subject": list(subjects)}, features, {4: b"picture"})


def rows_of(opened, path):
    """Read all that a report reads."""
    with opened(path) as store:
        return store.settings(), Rows(store).rows(), list(store.thumbnails())


@pytest.fixture
def path(tmp_path):
    with Store(tmp_path / "a.db") as store:
        store.begin({"judge": "by hand", "sampling": {"inference_steps": 3}}, SUITE, CATS)
        store.add(SUITE, (), seen("cat", "dog"))
        store.add(SUITE, ("cat",), seen("bus", "dog"))
    return tmp_path / "a.db"


def test_what_is_stored_is_what_was_observed(path):
    with Store(path) as store:
        assert store.done() == {(), ("cat",)}
        assert store.stages() == CATS
        assert [case.number for case in store.cases()] == [2, 4]  # by their numbers
        pictures = store.outcome(("cat",)).pictures
        assert {n: one.seen["subject"] for n, one in pictures.items()} == {2: "dog", 4: "bus"}
        np.testing.assert_array_equal(store.features(), seen("cat", "dog").features[[1, 0]])
        assert list(store.thumbnails()) == [((), 4, b"picture"), (("cat",), 4, b"picture")]


def test_a_set_is_there_whole_or_not_at_all(path):
    with Store(path) as store:
        with store.database.transaction() as connection:  # one picture of it is in the way
            row = (json.dumps(["dog"]), 4, "{}", 0, "{}", "{}")
            connection.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", row)
        with pytest.raises(DatabaseError, match="UNIQUE constraint failed"):
            store.add(SUITE, ("dog",), seen("cat", "bus"))
        assert store.done() == {(), ("cat",)}
        assert store.rows("SELECT count(*) FROM pictures") == [(5,)]


def test_another_sweep_is_refused_and_only_what_differs_is_said(path):
    sampling = {"inference_steps": 4}
    with Store(path) as store:
        with pytest.raises(DatabaseError) as caught:
            store.begin({"judge": "by hand", "sampling": sampling}, SUITE, CATS)
        assert "sampling.inference_steps (there: 3, given: 4); give those" in str(caught.value)
        assert "by hand" not in str(caught.value)

        other = Suite("other", SUITE.cases[:1], SUITE.judge, SUITE.sampling)
        same = {"judge": "by hand", "sampling": {"inference_steps": 3}}
        with pytest.raises(DatabaseError, match="another suite than 'other' is now"):
            store.begin(same, other, CATS)


@pytest.mark.parametrize("write", ["text", "pickle", "cut"])
def test_a_file_that_is_no_database(path, tmp_path, write):
    other = tmp_path / "other.db"
    data = {
        "text": b"not a database, but a text of some length " * 20,
        "pickle": b"\x80\x05]\x94." * 300,
        "cut": path.read_bytes()[:5000],
    }[write]
    other.write_bytes(data)

    for opened in (Store, Store.reading):
        with pytest.raises(DatabaseError, match=r"other.db .*(give another file|damaged)"):
            rows_of(opened, other)
    assert other.read_bytes() == data


def test_another_programs_database_and_one_of_another_version(path, tmp_path):
    theirs = sqlite3.connect(tmp_path / "theirs.db")
    theirs.execute("CREATE TABLE bookmarks (url TEXT)")
    theirs.close()
    own = sqlite3.connect(path)
    own.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    own.close()

    for name, version in (("theirs.db", 0), ("a.db", SCHEMA_VERSION + 1)):
        for opened in (Store, Store.reading):
            message = f"no sweep's database of this version .* is {version}, .*make the sweep again"
            with pytest.raises(DatabaseError, match=message):
                opened(tmp_path / name)
    left = sqlite3.connect(tmp_path / "theirs.db")
    assert left.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    left.close()


def test_a_locked_database_is_said(path, monkeypatch):
    monkeypatch.setattr("multierase.evaluation.database.WAIT", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseError, match="database is locked.*wait until it has finished"):
        Store(path)
    other.execute("ROLLBACK")
    other.close()


def test_a_full_disk_is_said_and_nothing_is_lost(path):
    """SQLite rolls back by itself, and a second rollback must not hide why."""
    with Store(path) as store:
        ((pages,),) = store.rows("PRAGMA page_count")
        store.rows(f"PRAGMA max_page_count = {pages}")
        small = {4: b"p" * 100_000}
        huge = Observations({"subject": ["cat", "bus"]}, seen("a", "b").features, small)
        with pytest.raises(DatabaseError, match="disk is full.*make room, and the same command"):
            store.add(SUITE, ("dog",), huge)
        assert store.done() == {(), ("cat",)}

        store.rows(f"PRAGMA max_page_count = {pages + 1000}")
        store.add(SUITE, ("dog",), huge)
        assert store.done() == {(), ("cat",), ("dog",)}


def test_a_folder_that_is_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(DatabaseError, match="unable to open.*give a file in a folder that exists"):
        Store(tmp_path / "no" / "folder.db")
    target = tmp_path / "no" / "folder.db"
    with pytest.raises(DatabaseError, match="cannot be made"), locked(target):
        pass
    with pytest.raises(FileNotFoundError, match="no database .*`multierase sweep` makes one"):
        Store.reading(tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_reading_changes_nothing(path):
    """Neither a byte nor a time of the file, nor a name in its folder."""

    def state():
        return [(p.name, p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir()]

    before = state()
    path.chmod(stat.S_IRUSR)
    with Store.reading(path) as store:
        assert len(Rows(store).rows()) == 2
        with pytest.raises(DatabaseError, match="readonly|read-only"):
            store.add(SUITE, ("dog",), seen("cat", "bus"))
    assert state() == before


def test_a_read_only_folder_can_be_read_and_is_refused_to_a_sweep(path):
    path.chmod(0o444)
    path.parent.chmod(0o555)
    if os.access(path.parent, os.W_OK):
        pytest.skip("root may write into every folder")
    try:
        with Store.reading(path) as store:
            assert len(Rows(store).rows()) == 2
        message = "make the file and its folder writable"
        with Store(path) as store, pytest.raises(DatabaseError, match=message):
            store.begin({"judge": "by hand", "sampling": {"inference_steps": 3}}, SUITE, CATS)
        with pytest.raises(DatabaseError, match="cannot be made"), locked(path):
            pass
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE cases SET labels = '[]'",
        "UPDATE cases SET labels = x'ff00'",
        "UPDATE pictures SET seen = '{'",
        "UPDATE pictures SET counts = '3'",
        "UPDATE sets SET erased = 'null' WHERE erased = '[]'",
        "UPDATE sets SET frechet_distance = 'x'",
        f"UPDATE stages SET erased = '{'[' * 50_000}'",
        "UPDATE settings SET value = 'x'",
        "DROP TABLE stages",
        "DROP TABLE pictures",
        "ALTER TABLE sets RENAME COLUMN erased TO e",
        "DELETE FROM pictures WHERE case_number = 2",
    ],
)
def test_hostile_contents_are_one_error(path, damage):
    hostile = sqlite3.connect(path)
    hostile.execute(damage)
    hostile.commit()
    hostile.close()

    with pytest.raises(DatabaseError, match=r"a.db "):
        rows_of(Store.reading, path)


def test_one_sweep_at_a_time(tmp_path):
    target = tmp_path / "a.db"
    with locked(target):
        message = "another sweep is writing into .*a.db: wait until it has finished"
        with pytest.raises(DatabaseError, match=message), locked(target):
            pass
    with locked(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_sweep_locks_nobody_out(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from multierase.evaluation.database import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.db")])
    assert (tmp_path / "a.db.lock").exists()
    with locked(tmp_path / "a.db"):
        pass


def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "a.db.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(DatabaseError, match="cannot be made"), locked(tmp_path / "a.db"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
