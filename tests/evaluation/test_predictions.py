"""Sweeps by prediction: the certificate's numbers for every set, in the same rows and report."""

from __future__ import annotations

import dataclasses
import os

import pytest

from multierase import Composer, EraseSettings, Library, Workspace
from multierase.errors import DatabaseError, UsageError
from multierase.evaluation import predictions
from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.predictions import SEEN, Predictor, questions_of, sweep_by_predictions
from multierase.evaluation.report.files import write_report
from multierase.evaluation.report.rows import Rows, as_json, predicted
from multierase.executors.executor import one_thread
from multierase.executors.processes import Processes
from multierase.training.certificate import examined

pytestmark = pytest.mark.slow  # trains increments

NAMES = ("Noto", "Twemoji")
ALONE = Processes(1)


@pytest.fixture(scope="module")
def library(emoji, tmp_path_factory):
    """Two increments with certificates."""
    folder = tmp_path_factory.mktemp("predicted") / "lib"
    settings = EraseSettings(steps=8, batch_size=8, trajectories=2, sampler_steps=6)
    Workspace(folder, emoji, create=True).train(*NAMES, settings=settings)

    return Library(folder)


@pytest.fixture(scope="module")
def experiment(library):
    return Experiment("studios", library=str(library.folder), device="cpu")


@pytest.fixture(scope="module")
def stages():
    return concept_sets("subsets", NAMES)


@pytest.fixture(scope="module")
def swept(experiment, stages, tmp_path_factory):
    path = tmp_path_factory.mktemp("swept") / "p.db"
    sweep_by_predictions(experiment, stages, path, executor=ALONE, sentences=None).close()

    return path


def rows_at(experiment, stages, path, sentences=None):
    with sweep_by_predictions(
        experiment, stages, path, sentences=sentences, executor=ALONE
    ) as store:
        return as_json(Rows(store).rows())


def test_a_row_is_the_certificate_of_its_set(emoji, library, experiment, stages, swept):
    rows = {tuple(row["erased_concepts"]): row for row in rows_at(experiment, stages, swept)}
    assert set(rows) == {(), ("Noto",), ("Twemoji",), NAMES}
    base = rows[()]
    assert (base["kept"]["value"], base["measures"]["degree"]) == (1.0, 1.0)
    assert base["measures"]["moved"] == 0

    workspace = Workspace(library, emoji)
    with one_thread():
        said = workspace.certify("Noto")["concepts"]
        asked = examined(emoji, library.questions())
        with workspace.erasing("Noto"):
            answers, stay = asked.answers(emoji.predict)
    row = rows["Noto",]
    noto, twemoji = (answers[name] for name in NAMES)
    assert row["measures"]["degree_erased"] == pytest.approx(said["Noto"]["degree"], abs=1e-3)
    left = sum(answer.degree > SEEN for answer in noto)
    assert (row["remaining"]["right"], row["remaining"]["count"]) == (left, len(noto))
    seen = sum(answer.degree > SEEN for answer in twemoji)
    assert (row["kept"]["right"], row["kept"]["count"]) == (seen, len(twemoji))
    assert row["measures"]["degree_erased"] < 0.5 < row["measures"]["degree"]

    # What is to stay moves too, but for the prompts that name what is erased.
    stays = [a.moved for a in stay if "noto" not in a.prompt.lower()]
    moved = [answer.moved for answer in twemoji] + stays
    assert row["measures"]["moved"] == pytest.approx(sum(moved) / len(moved), abs=1e-3)


def test_the_rows_are_the_same_whoever_makes_them(experiment, stages, swept, tmp_path):
    expected = rows_at(experiment, stages, swept)
    folder = os.path.dirname(experiment.library)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        here = dataclasses.replace(experiment, library="lib")
        with sweep_by_predictions(
            here, stages, tmp_path / "two.db", sentences=None, executor=Processes(2)
        ) as store:
            assert as_json(Rows(store).rows()) == expected


def test_it_goes_on_where_it_stopped(experiment, stages, swept, tmp_path, monkeypatch):
    path = tmp_path / "p.db"
    sweep_by_predictions(experiment, stages[:1], path, sentences=None, executor=ALONE).close()
    seen = []
    observe = Predictor.observe
    monkeypatch.setattr(
        Predictor,
        "observe",
        lambda self, concepts: seen.append(concepts) or observe(self, concepts),
    )
    assert rows_at(experiment, stages, path) == rows_at(experiment, stages, swept)
    assert seen == [erased for _, erased in stages[1:]]
    with pytest.raises(DatabaseError, match="other"):
        rows_at(dataclasses.replace(experiment, solve="sum"), stages, path)


def test_fewer_sentences(experiment, stages, tmp_path):
    few = rows_at(experiment, stages, tmp_path / "few.db", sentences=3)
    assert {row["remaining"]["count"] for row in few} == {0, 3, 6}
    with pytest.raises(UsageError, match="0 sentences about each concept: give 1 or more"):
        questions_of(experiment, 0)


def test_of_much_that_is_to_stay_a_part_is_asked(experiment, monkeypatch):
    def staying():
        asked = questions_of(experiment).values()
        return {each["prompt"] for own in asked for each in own if each["about"] != "own"}

    every = staying()
    monkeypatch.setattr(predictions, "STAYING", len(every) - 1)
    fewer = staying()
    assert fewer < every
    assert len(fewer) == len(every) - 1 > 1
    assert staying() == fewer


def test_a_solve_with_kept_tokens_is_the_composers_own(emoji, library):
    """But for last bits."""
    workspace = Workspace(library, emoji)
    keep = workspace.keep_list.for_many_sets()
    assert all(dictionary.keeps for dictionary in keep.dictionaries)
    assert keep == keep.for_many_sets()
    with one_thread():
        with workspace.erasing(*NAMES):
            expected = {name: own.clone() for name, own in emoji.parameters().items()}
        many = Composer(emoji, library, keep=keep)
        for _ in range(2):  # the second time with what is kept
            many.set(dict.fromkeys(NAMES, 1.0))
            for name, own in emoji.parameters().items():
                assert (own - expected[name]).abs().max() < 1e-5 * expected[name].abs().max()
            many.restore_all()
    assert any(dictionary._tokens for dictionary in keep.dictionaries)


def test_too_many_tokens_are_not_kept(emoji, library, monkeypatch):
    monkeypatch.setattr("multierase.separation.dictionary.MOST_KEPT", 1000)
    keep = Workspace(library, emoji).keep_list.for_many_sets()
    many = Composer(emoji, library, keep=keep)
    with many.erasing("Noto"):
        pass
    assert not any(dictionary._tokens for dictionary in keep.dictionaries)


def test_the_report_says_that_they_are_predictions(swept, tmp_path):
    page = write_report([swept], tmp_path / "report").files[0].read_text("utf-8")
    assert "<b>Predictions</b>: no picture was made" in page
    assert "share of unseen sentences" in page
    assert "share of pictures" not in page
    assert predicted({"judge": "certificate: no picture"})
    assert not predicted({"judge": "emoji"})


def test_what_cannot_be_predicted(experiment, emoji, tmp_path):
    for wrong in (
        dataclasses.replace(experiment, method="uce", library=None),
        dataclasses.replace(experiment, library=None),
    ):
        with pytest.raises(UsageError, match="the certificates' of a library: give --library"):
            questions_of(wrong)
    attacked = dataclasses.replace(experiment, attack=("random",))
    with pytest.raises(UsageError, match="attacks are judged by pictures"):
        questions_of(attacked)

    damaged = {"Noto": [{"prompt": 3}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Library, "questions", lambda self: damaged)
        with pytest.raises(ValueError, match="the certificate of 'Noto' is damaged"):
            questions_of(experiment)

    bare = EraseSettings(kind="none", steps=1, batch_size=1, sampler_steps=2, stop_at=None)
    Workspace(tmp_path / "bare", emoji, create=True).train("Noto", settings=bare)
    without = dataclasses.replace(experiment, library=str(tmp_path / "bare"))
    with pytest.raises(UsageError, match="has a certificate, so nothing says which sentences"):
        sweep_by_predictions(without, [], tmp_path / "p.db")
    assert not (tmp_path / "p.db").exists()
