import csv
import io
import json
import sqlite3
import sys

import pyarrow.parquet
import pytest

from multierase.errors import DatabaseError, MissingExtra, WriteError
from multierase.evaluation.report.files import write_report
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.store import Store

SETS = 4


@pytest.fixture
def copied(store, tmp_path):
    """Copies a store's database, with other settings."""

    def copy(name, **settings):
        path = tmp_path / name
        target = sqlite3.connect(path)
        with Store.reading(store.path) as reading:
            reading.database._connection.backup(target)
        for key, value in settings.items():
            values = [key, json.dumps(value)]
            target.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)
        target.commit()
        target.close()
        return path

    return copy


def test_the_files_and_what_they_are_made_from(store, tmp_path):
    written = write_report([store.path], tmp_path / "report")
    assert [path.name for path in written.files] == ["index.html", "table.csv", "table.tex"]
    (made,) = written.databases.values()
    assert made["sets"] == SETS
    assert made["judge"] == "<script>by hand</script>"


def test_a_report_leaves_its_databases_as_they_are(store, tmp_path):
    before = store.path.read_bytes(), store.path.stat().st_mtime_ns
    names = {path.name for path in tmp_path.iterdir()}
    write_report([store.path], tmp_path / "report")
    assert (store.path.read_bytes(), store.path.stat().st_mtime_ns) == before
    assert {path.name for path in tmp_path.iterdir()} == names | {"report"}

    with pytest.raises(FileNotFoundError, match="no database .*nothing.db"):
        write_report([tmp_path / "nothing.db"], tmp_path / "report")
    assert not (tmp_path / "nothing.db").exists()


def test_no_set_is_no_report(suite, tmp_path):
    with Store(tmp_path / "empty.db") as empty:
        empty.begin({}, suite, [])
    with pytest.raises(DatabaseError, match="holds no finished set: run `multierase sweep`"):
        write_report([tmp_path / "empty.db"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_several_databases_are_one_table(store, copied, tmp_path):
    methods = ("uce", "uce", "sld-max")
    paths = [copied(f"{i}.db", method=method) for i, method in enumerate(methods)]
    files = write_report(paths, tmp_path / "report", parquet=True).files

    labels = [f"uce ({paths[0]})", f"uce ({paths[1]})", "sld-max"]
    table = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert [row["method"] for row in table] == [label for label in labels for _ in range(SETS)]
    assert [row["counts_FEET_EXPOSED"] for row in table] == 3 * ["1", "2", "2", "3"]

    page = files[0].read_text()
    beside = page.split('id="methods"')[1].split("</table>")[0]
    assert beside.count("<td>24.750</td><td>24.750</td>") == 3
    assert beside.count("sld-max") == 3
    assert page.count('id="counts') == page.count('id="curves') == 3
    assert files[2].read_text().count(r"sld-max & ") == 3


def test_every_picture_is_a_row_of_parquet(store, copied, tmp_path):
    path = copied("sld.db", method="sld-max")
    files = write_report([path], tmp_path / "report", parquet=True).files
    rows = pyarrow.parquet.read_table(files[3]).to_pylist()
    assert files[3].name == "pictures.parquet"
    assert len(rows) == SETS * 3

    (one,) = (row for row in rows if (row["erased"], row["case_number"]) == (["Noto"], 0))
    assert (one["method"], one["prompt"], one["evaluation_seed"]) == (
        "sld-max",
        "a church by Noto",
        0,
    )
    assert (one["studio"], one["studio_seen"], one["subject_seen"]) == ("Noto", "Fluent", "church")
    scores = {row["case_number"]: row["clip_score_without_studio"] for row in rows}
    assert scores[1] is None
    assert scores[2] == 8.0
    assert (one["counts_FEET_EXPOSED"], one["counts_BELLY_EXPOSED"], one["clip_score"]) == (
        0,
        0,
        30,
    )
    assert one["distance"] == Rows(store).outcome(("Noto",)).pictures[0].distance > 0


@pytest.mark.parametrize("key", ["judge", "reference"])
def test_databases_that_cannot_be_compared(store, copied, tmp_path, key):
    other = copied("other.db", **{key: "another"})
    message = f"cannot stand in one table: they differ in {key} \\(.*other.db: 'another'\\)"
    with pytest.raises(DatabaseError, match=message):
        write_report([store.path, other], tmp_path / "report")


def test_databases_of_other_cases_cannot_be_compared(store, copied, tmp_path):
    other = copied("other.db")
    connection = sqlite3.connect(other)
    connection.execute("UPDATE cases SET evaluation_seed = 9")
    connection.commit()
    connection.close()
    with pytest.raises(DatabaseError, match="they differ in the suite's cases; make both"):
        write_report([store.path, other], tmp_path / "report")


def test_without_pyarrow_nothing_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match="pip install 'multierase\\[parquet\\]'"):
        write_report([store.path], tmp_path / "report", parquet=True)
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written(store, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(WriteError, match="cannot make the folder .*report"):
        write_report([store.path], tmp_path / "report")
