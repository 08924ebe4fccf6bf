import csv
import sqlite3

import pytest

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

CASES = """case_number,prompt,evaluation_seed,studio,subject
0,a church by Noto,0,Noto,church
1,a cat by Twemoji,1,Twemoji,cat
"""
TWO_METHODS = ("--erase", "Noto", "--method", "uce", "sld-max")
SINGLE = ("--sets", "list", "--listed", "Twemoji", "--workers", "1")


@pytest.fixture
def few(tmp_path):
    """Flags of a suite of two pictures in two steps."""
    (tmp_path / "few.csv").write_text(CASES)
    suite = tmp_path / "few.yaml"
    suite.write_text("prompts: few.csv\nlabels: [studio, subject]\njudge: emoji\n")
    return ("--suite", suite, "--inference-steps", "2")


def test_evaluate_judges_one_set(run, run_json, few, lib):
    flags = (*few, "--library", lib, "--erase", "Twemoji")
    report = run_json("evaluate", *flags)
    assert report["erased_concepts"] == ["Twemoji"]
    assert report["remaining"]["count"] == 1 == report["kept"]["count"]
    assert report["judge"].startswith("emoji judge, sha256")
    assert set(report["by_concept"]) == {"Noto", "Twemoji", "church", "cat"}
    assert report["base"]["erased_concepts"] == []

    code, out, _ = run("evaluate", *flags)
    assert code == 0
    assert "erased: Twemoji" in out
    assert "remaining (0 % best)" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_nothing_erased_is_the_base(run, run_json, few):
    report = run_json("evaluate", *few, "--method", "negative-prompt")
    assert report["erased_concepts"] == []
    code, out, _ = run("evaluate", *few, "--method", "negative-prompt")
    assert code == 0
    assert "erased: nothing" in out


def test_sweep_goes_through_sets_and_report_shows_them(run, run_json, said, few, lib, tmp_path):
    flags = (*few, "--library", lib)
    database = tmp_path / "sweep.db"
    one = run_json("evaluate", *flags, "--erase", "Twemoji")
    swept = run_json("sweep", *flags, "--database", database, "--workers", "1")
    sets = [row["erased_concepts"] for row in swept["rows"]]
    assert sets == [[], ["Noto"], ["Twemoji"], ["Noto", "Twemoji"]]
    for key in ("remaining", "kept", "distance"):
        assert swept["rows"][2][key] == one[key]

    code, out, err = run("sweep", *flags, "--database", database, "--workers", "1")
    assert code == 0
    assert "Noto + Twemoji" in " ".join(out.split())
    assert "4 sets" in " ".join(err.split())

    made = run_json("report", database, "--out", tmp_path / "report")
    table = (tmp_path / "report" / "table.csv").read_text().splitlines()
    names = {file.rsplit("/")[-1] for file in made["files"]}
    assert names == {"index.html", "table.csv", "table.tex"}
    assert made["databases"][str(database)]["sets"] == 4 == len(table) - 1
    code, _, err = run("report", database, "--out", tmp_path / "report")  # replaces its own
    assert code == 0
    assert "index.html" in err

    events = ("--sets", "order", "--events", "restore Noto")
    code, err = said("sweep", *flags, "--database", database, *events)
    assert code in (1, 2)
    assert "restore Noto" in err


def test_an_order_takes_its_events_one_after_another(run_json, few, lib, tmp_path):
    events = ("--events", "erase Noto", "erase Twemoji", "--events", "restore Noto")
    flags = (*few, "--library", lib, "--database", tmp_path / "x.db", "--sets", "order", *events)
    flags += ("--workers", "1")
    swept = run_json("sweep", *flags)
    assert [row["event"] for row in swept["rows"]] == [
        "base", "erase Noto", "erase Twemoji", "restore Noto",
    ]  # fmt: skip


def test_methods_in_one_table(run, run_json, few, lib, tmp_path):
    erase = ("--library", lib, "--erase", "Twemoji")
    methods = ("--method", "increments", "uce")
    both = run_json("evaluate", *few, *erase, *methods)["methods"]
    assert set(both) == {"increments", "uce"}
    code, out, _ = run("evaluate", *few, *erase, *methods)
    assert code == 0
    assert all(word in out for word in ("base", "increments", "uce"))
    alone = run_json("evaluate", *few, *erase)
    del alone["base"]
    assert both["increments"] == alone

    run_json("export", *erase, "--solve", "sum", "--out", tmp_path / "peer")
    flags = (*few, "--erase", "Twemoji", "--peer", tmp_path / "peer")
    peer = run_json("evaluate", *flags)
    summed = run_json("evaluate", *few, *erase, "--solve", "sum")
    assert peer["method"] == "peer peer"
    assert peer["distance"] == pytest.approx(summed["distance"], abs=1e-4)


def test_databases_of_several_methods_are_one_table(run_json, said, few, lib, tmp_path):
    for name, own in {"ours": ("--library", lib), "uce": ("--method", "uce")}.items():
        flags = ("--database", tmp_path / f"{name}.db")
        swept = run_json("sweep", *few, *own, *SINGLE, *flags)
        assert swept["method"] == {"ours": "increments"}.get(name, name)
    databases = (tmp_path / "ours.db", tmp_path / "uce.db")
    run_json("report", *databases, "--out", tmp_path / "report", "--parquet")
    lines = (tmp_path / "report" / "table.csv").read_text().splitlines()
    found = [(row["method"], row["erased_concepts"]) for row in csv.DictReader(lines)]
    assert found == [
        ("increments", ""), ("increments", "Twemoji"), ("uce", ""), ("uce", "Twemoji"),
    ]  # fmt: skip

    other = (*few[:3], "3", "--method", "uce", *SINGLE, "--database", tmp_path / "other.db")
    run_json("sweep", *other)
    code, err = said("report", databases[0], tmp_path / "other.db", "--out", tmp_path / "r")
    assert code == 1
    assert "sampling" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "FEW", "--erase", "Twemoji"], "library"),
        (["evaluate", "FEW", "--erase", "Twemoji", "--method", "uec"], "did you mean 'uce'"),
        (["evaluate", "FEW", "LIB", "--erase", "Twemojy"], "did you mean 'Twemoji'"),
        (
            [
                "evaluate",
                "FEW",
                "LIB",
                "--erase",
                "Noto",
                "--method",
                "uce",
                "sld-max",
                "--database",
                "x.db",
            ],
            "one method",
        ),
        (["evaluate", "FEW", "LIB", "--erase", "Noto", "--peer", "no"], "no"),
        (["evaluate", "--suite", "studoos", "LIB"], "studios"),
        (["evaluate", "--base", "type", "--erase", "Notto", "--method", "uce"], "'typefaces' asks"),
        (["sweep", "FEW", "--method", "uce", "--database", "x.db"], "--concepts"),
        (["sweep", "FEW", "LIB", "--address", "a:1", "--database", "x.db"], "ray"),
        (["sweep", "FEW", "LIB", "--sets", "some", "--database", "x.db"], "--sets 'some'"),
        (["sweep", "FEW", "LIB", "--database", "no/x.db"], "x.db"),
        (["report", "no.db", "--out", "r"], "no.db"),
        (["report", "--out", "r"], "name at least one database"),
    ],
)
def test_bad_input_is_a_clear_error_and_leaves_nothing(
    said, few, lib, tmp_path, monkeypatch, arguments, message
):
    there = set(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    words = []
    for word in arguments:
        words += {"FEW": few, "LIB": ("--library", lib)}.get(word, (word,))
    code, err = said(*words)
    assert code in (1, 2)
    assert message in err
    assert set(tmp_path.rglob("*")) == there


def test_a_database_of_something_else_is_told(said, few, lib, tmp_path):
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE unrelated (x)")
    connection.commit()
    connection.close()
    before = other.read_bytes()
    for verb in (
        ["sweep", *few, "--library", lib, "--database", other],
        ["report", other, "--out", tmp_path / "r"],
    ):
        code, err = said(*verb)
        assert code == 1
        assert "other.db" in err
    assert other.read_bytes() == before
