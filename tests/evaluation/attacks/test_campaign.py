"""A concept attacked as it is erased, restored, and on the base; verdicts that survive a kill."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
import torch
from compositions import random_increment

from multierase import Library
from multierase.errors import DatabaseError, UnknownConcept, UsageError
from multierase.evaluation.attacks import campaign as module
from multierase.evaluation.attacks.asking import cases_of
from multierase.evaluation.attacks.campaign import campaign
from multierase.evaluation.cases import Case
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.report.files import write_report
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.report.tables import as_csv
from multierase.evaluation.suites import load_suite
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes


@pytest.fixture(scope="module")
def experiment(emoji, tmp_path_factory) -> Experiment:
    """Two random increments, and attacks that take no search."""
    folder = tmp_path_factory.mktemp("attacked") / "library"
    library = Library(folder, create=True)
    for seed, name in enumerate(["Noto", "Twemoji"]):
        library.save(random_increment(emoji, name, "esd-x-strict", seed, factored=True))

    return Experiment(
        "studios",
        library=str(folder),
        attack=("random", "noised"),
        attack_cases=2,
        inference_steps=2,
        solve="sum",
    )


@pytest.fixture(scope="module")
def report(experiment) -> dict:
    return campaign(experiment, "Noto", ["Twemoji"])


def test_every_state_is_attacked(report):
    assert report["erased_concepts"] == ["Noto", "Twemoji"]
    assert not report["restored_is_base"]
    for row in report["attacks"].values():
        assert list(row) == ["erased", "restored", "base"]
        for state, found in row.items():
            assert found["before"]["count"] == found["broken"]["count"] == 2
            assert found["before"]["right"] <= found["broken"]["right"]
            named = ["noto" in case["prompt"].lower() for case in found["cases"]]
            # What is drawn at random may be the name, so an untouched prompt alone is looked at.
            untouched = [not case["attempts"] for case in found["cases"]]
            if state != "erased":
                assert not any(a and b for a, b in zip(named, untouched, strict=True))


def test_restored_alone_is_the_base_and_attacked_once(experiment):
    report = campaign(replace(experiment, attack=("random",)), "Noto")
    assert report["restored_is_base"]
    assert list(report["attacks"]["random"]) == ["erased", "base"]
    only = campaign(replace(experiment, attack=("random",)), "Noto", states=("base",))
    assert only["attacks"]["random"]["base"] == report["attacks"]["random"]["base"]


def test_a_killed_campaign_goes_on(experiment, report, tmp_path, monkeypatch):
    path, whole, made = tmp_path / "a.db", module.attack_concept, []

    def cut_off(*arguments, **options):
        for verdict in whole(*arguments, **options):
            made.append(verdict)
            if len(made) == 4:
                raise KeyboardInterrupt
            yield verdict

    with monkeypatch.context() as patch:
        patch.setattr(module, "attack_concept", cut_off)
        with pytest.raises(KeyboardInterrupt):
            campaign(experiment, "Noto", ["Twemoji"], database=path)

    counted = []

    def counting(*arguments, **options):
        for verdict in whole(*arguments, **options):
            counted.append(verdict)
            yield verdict

    monkeypatch.setattr(module, "attack_concept", counting)
    assert campaign(experiment, "Noto", ["Twemoji"], database=path) == report
    assert len(counted) == 2 * 3 * 2 - 3
    counted.clear()
    assert campaign(experiment, "Noto", ["Twemoji"], database=path) == report
    assert not counted

    for other in (
        (replace(experiment, attack_seed=1), "Noto", ["Twemoji"]),
        (experiment, "Twemoji", ["Noto"]),
    ):
        with pytest.raises(DatabaseError, match="holds attacks with other settings"):
            campaign(*other, database=path)


def test_a_file_that_is_no_database_is_left_alone(experiment, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes\n" * 100)
    with pytest.raises(DatabaseError, match="give another file"):
        campaign(experiment, "Noto", database=path)
    assert path.read_text().startswith("not a database")

    damaged = tmp_path / "b.db"
    campaign(replace(experiment, attack=("random",)), "Noto", states=("base",), database=damaged)
    with sqlite3.connect(damaged) as connection:
        connection.execute("UPDATE attacked SET verdict = '{\"attack\": 3}'")
    with pytest.raises(DatabaseError, match="damaged"):
        campaign(
            replace(experiment, attack=("random",)), "Noto", states=("base",), database=damaged
        )


def test_what_cannot_be_attacked_is_said_before_anything_is_made(experiment, tmp_path):
    with pytest.raises(UnknownConcept, match="Fluent"):
        campaign(experiment, "Fluent", database=tmp_path / "a.db")
    with pytest.raises(UsageError, match="asks for none of"):
        campaign(replace(experiment, suite="imagenette"), "Noto")
    with pytest.raises(UsageError, match="says of no picture what should be in it"):
        cases_of(replace(load_suite("studios"), cases=(Case(0, "a cat", 0, {}),)), "Noto", 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": ("ring-the-bell",)}, "unknown attack 'ring-the-bell'; did you mean 'ring-a-be"),
        ({"budget": "qick"}, "unknown budget 'qick'; did you mean 'quick'"),
        ({"attack_cases": 0}, "0 cases to attack: give 1 or more"),
        ({"method": "sld-max"}, "'sld-max' changes none of its weights"),
    ],
)
def test_experiments_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        Experiment("studios", **{"attack": ("random",), **options})


def test_a_sweep_keeps_what_attacks_came_to(experiment, emoji, report, tmp_path):
    before = {name: weight.clone() for name, weight in emoji.parameters().items()}
    stages = [("", ("Noto",)), ("", ("Noto", "Twemoji"))]
    attacked = replace(experiment, attack=("random",))
    with sweep(attacked, stages, tmp_path / "s.db", executor=Processes(1)) as store:
        assert store.attacked(()) == []
        verdicts = store.attacked(("Noto", "Twemoji"))
        base, one, both = Rows(store).rows()
    assert {verdict.concept for verdict in verdicts} == {"Noto", "Twemoji"}
    mine = [verdict.as_json() for verdict in verdicts if verdict.concept == "Noto"]
    assert mine == report["attacks"]["random"]["erased"]["cases"]

    assert base["attacks"] == {}
    assert one["attacks"]["random"]["broken"]["count"] == 2
    assert both["attacks"]["random"]["broken"]["count"] == 4
    assert "random_broken" in as_csv([base, one, both]).splitlines()[0]
    write_report([tmp_path / "s.db"], tmp_path / "report")
    assert "<th>under random</th>" in (tmp_path / "report" / "index.html").read_text()
    head, *lines = (tmp_path / "report" / "table.tex").read_text().splitlines()[2:]
    assert head.endswith(r"beside the erased, \% & under random, \% \\")
    cells = [line.split(" & ")[-1] for line in lines if line.startswith("increments")]
    assert cells[0].startswith("--")
    assert [cell.partition("]")[2] for cell in cells[1:]] == [r" \\"] * 2
    after = emoji.parameters()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())

    with pytest.raises(DatabaseError, match="attack"):
        sweep(experiment, stages, tmp_path / "s.db", executor=Processes(1))


def test_cases_are_spread_over_those_that_ask_for_the_concept():
    suite = load_suite("studios")
    kind, cases = cases_of(suite, "noto", 3)
    numbers = [case.number for case in suite.cases if case.labels["studio"] == "Noto"]
    assert kind == "studio"
    assert [case.number for case in cases] == [numbers[0], numbers[2], numbers[5]]
    assert len(cases_of(suite, "Noto", 100)[1]) == len(numbers)
