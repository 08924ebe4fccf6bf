"""The certificate: how far unseen sentences have lost their concept, and what else has moved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch
from compositions import assert_bits, random_increment, snapshot, twin_of
from trained import erasure_of, plan_of

from multierase import Composer, Concept, EraseSettings, Library, Workspace
from multierase.errors import ConceptRefused, ModelHeld, UnknownConcept, UsageError
from multierase.increments.provenance import in_words
from multierase.separation import forms
from multierase.training.certificate import (
    Answer,
    Exam,
    Question,
    as_json,
    certificate,
    certify,
    examined,
)
from multierase.training.defaults import NOTHING
from multierase.training.trajectories import EvaluationCounter
from multierase.training.trial import Trial

OWN = [
    Question("a church by Noto", "a church", "own"),
    Question("Noto cat", "cat", "own"),
    Question("a whale in the style of Noto", "a whale", "own"),
]
OTHERS = [
    Question("a cow by Twemoji", "a cow", "siblings"),
    Question("a church", "", "kept"),
    Question("a cat", "", "kept"),
    Question("a frog on a wet stone", "", "general"),
]
TWEMOJI = [
    Question("a church by Twemoji", "a church", "own"),
    Question("Twemoji cat", "cat", "own"),
    Question("a pig", "", "kept"),
]


@pytest.fixture(scope="module")
def points(emoji):
    return Trial(emoji, NOTHING, 0).points


@pytest.fixture
def exam(emoji, points):
    return Exam(emoji, points, [*OTHERS, *OWN], EvaluationCounter())


def saying(model, texts: list[str]):
    """A model that predicts as the base does for these texts, whatever it is asked."""

    def predict(x_t, t, conditioning):
        assert len(x_t) == len(conditioning) == len(texts)
        return model.predict(x_t, t, model.encode(texts))

    return predict


def mixed(model, share: float):
    """A model in which a share of what a sentence adds to its context is left; see ``contexts``."""
    contexts = [question.context or question.prompt for question in [*OWN, *OTHERS]]

    def predict(x_t, t, conditioning):
        context = model.predict(x_t, t, model.encode(contexts))
        return context + share * (model.predict(x_t, t, conditioning) - context)

    return predict


# What is asked.


@torch.no_grad()
def test_the_base_itself_has_lost_nothing(emoji, exam):
    answers = exam.answers(emoji.predict)
    own, others = answers[: len(OWN)], answers[len(OWN) :]
    assert [answer.prompt for answer in own] == [question.prompt for question in OWN]
    assert [answer.degree for answer in own] == pytest.approx([1.0] * len(OWN), abs=1e-6)
    assert [answer.moved for answer in answers] == [0.0] * len(answers)
    assert [(answer.prompt, answer.about) for answer in others] == [
        (question.prompt, question.about) for question in OTHERS
    ]
    assert all(math.isnan(answer.degree) for answer in others)  # they are to stay


@torch.no_grad()
def test_a_model_that_says_the_context_has_lost_everything(emoji, exam):
    texts = [question.context or question.prompt for question in [*OWN, *OTHERS]]
    answers = exam.answers(saying(emoji, texts))
    own = answers[: len(OWN)]
    assert [answer.degree for answer in own] == pytest.approx([0.0] * len(OWN), abs=1e-5)
    # Each has moved by its own effect, which is one in the root mean square.
    sizes = torch.tensor([answer.moved for answer in own])
    assert sizes.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert [a.moved > 0 for a in answers[len(OWN) :]] == [True, False, False, False]


@pytest.mark.parametrize("share", [0.5, 0.15, 0.05, -1.0, -3.0])
@torch.no_grad()
def test_the_degree_is_the_share_that_is_left(emoji, exam, share):
    answers = exam.answers(mixed(emoji, share))[: len(OWN)]
    assert [answer.degree for answer in answers] == pytest.approx([share] * len(OWN), abs=1e-4)
    sizes = torch.tensor([answer.moved for answer in answers])
    assert sizes.square().mean().sqrt().item() == pytest.approx(1 - share, rel=1e-4)
    assert certificate(answers)["gone"] == (share < 0.1)


@torch.no_grad()
def test_answers_agree_with_the_formula(emoji, points):
    """For some other model: each question at its own point, all own ones before the others."""
    other = twin_of(emoji)
    for parameter in other.parameters().values():
        parameter.mul_(1.02)
    exam = Exam(emoji, points, [*OTHERS, *OWN], EvaluationCounter())
    answers = exam.answers(other.predict)

    rows = []
    for place, question in enumerate([*OWN, *OTHERS]):
        at = points.x_t[place : place + 1], points.t[place : place + 1]
        before, after = (
            model.predict(*at, emoji.encode([question.prompt])) for model in (emoji, other)
        )
        context = emoji.predict(*at, emoji.encode([question.context]))
        rows.append([part.double().flatten() for part in (before, after, context)])
    size = sum((before - context).square().sum() for before, _, context in rows[:3]) / 3
    for answer, (before, after, context) in zip(answers, rows, strict=True):
        assert answer.moved == pytest.approx(((after - before).norm() / size.sqrt()).item(), 1e-3)
        if answer.about == "own":
            effect = before - context
            degree = (after - context) @ effect / (effect @ effect)
            assert answer.degree == pytest.approx(degree.item(), rel=1e-3)
    assert len({answer.moved for answer in answers}) == len(answers)


def test_more_questions_than_points_take_them_in_turn(emoji, points):
    few = points.take([3, 11])
    exam = Exam(emoji, few, [*OWN, *OTHERS], EvaluationCounter())
    assert exam.points.t.tolist() == [few.t[place % 2] for place in range(7)]
    assert torch.equal(exam.points.x_t[2], exam.points.x_t[0])


@torch.no_grad()
def test_the_base_is_asked_once_and_counted(emoji, exam):
    assert exam.evaluations.forward == 0  # not before it is needed
    exam.base()
    assert exam.evaluations.forward == 2 * len(OWN) + len(OTHERS)
    for _ in range(2):
        exam.answers(emoji.predict)
    assert exam.evaluations.forward == 2 * len(OWN) + len(OTHERS) + 2 * 7


def test_no_question_has_no_answer(emoji, points):
    exam = Exam(emoji, points, [], EvaluationCounter())
    assert exam.answers(emoji.predict) == []
    assert certificate([]) == {"sentences": 0}
    assert in_words(certificate([])) == "no sentence was tried"


# What is unseen.


@pytest.fixture
def short_dictionary(monkeypatch):
    """A form of the dictionary is one batch; other tests do not find it."""
    monkeypatch.setattr(forms, "MOST", forms.BATCH)
    monkeypatch.setattr(forms, "_filled_before", WeakKeyDictionary())


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["listed", "of the kind"])
@pytest.mark.usefixtures("short_dictionary")
def test_no_question_is_trained_with(emoji, known):
    """Neither one of the base's own list, nor one of the kind's forms."""
    settings = EraseSettings(kind="auto", known=known)
    plan = plan_of(emoji, "Noto", settings)
    told = dict(zip(plan.concept.prompts, plan.concept.contexts, strict=True))
    assert next(iter(told)) == "Noto"
    assert len(told) > 100
    assert not any("Noto" in context for context in told.values())

    own = {question.prompt for question in plan.asked if question.about == "own"}
    watched = {question.prompt for question in plan.watched}
    assert len(own) >= 6
    assert len(watched) >= 3
    assert not own & watched
    assert not (own | watched) & told.keys()
    listed = Concept("Noto").with_sentences(emoji.known_prompts if known else []).prompts
    assert set(listed) - told.keys() == set(listed) & (own | watched)
    assert bool(set(listed) & own) is known  # else it would be no test


@pytest.mark.slow
@pytest.mark.usefixtures("short_dictionary")
def test_what_the_user_trains_with_is_not_asked(emoji):
    settings = EraseSettings(kind="auto", known=False)
    asked = [q for q in plan_of(emoji, "Noto", settings).asked if q.about == "own"]
    given = Concept("Noto", tuple(question.prompt for question in asked[:3]))
    plan = plan_of(emoji, given, settings)
    assert plan.concept.prompts == given.prompts
    assert [q for q in plan.asked if q.about == "own"] == asked[3:]

    every = [question.prompt for question in (*asked, *plan.watched)]
    erasure = erasure_of(emoji, Concept("Noto", tuple(every)), settings)
    assert erasure.plan.watched == erasure.plan.asked == ()
    assert erasure.increment().provenance.certificate is None


@pytest.mark.slow
def test_a_name_of_ones_own_needs_prompts_of_ones_own(emoji):
    """The base need not know what the user calls it."""
    settings = EraseSettings(kind="auto", known=False)
    plan = plan_of(emoji, Concept("Van Gogh", ("a church by Noto",)), settings)
    assert (plan.tried, plan.asked, plan.watched, plan.dictionary) == (None, (), (), 0)
    with pytest.raises(ConceptRefused, match="does not draw 'Van Gogh'"):
        plan_of(emoji, "Van Gogh", settings)


# What is reported.

ANSWERS = [
    Answer("a", "own", -1.0, 1.5),
    Answer("b", "own", 0.5, 0.5),
    Answer("c", "own", 0.0, 1.0),
    Answer("d", "own", -0.5, 1.0),
    Answer("e", "siblings", math.nan, 0.2),
    Answer("f", "kept", math.nan, 0.1),
    Answer("g", "kept", math.nan, 0.3),
]


def test_a_certificate_names_the_worst():
    assert certificate(ANSWERS) == {
        "sentences": 4,
        "gone": 0.75,
        "degree": -0.25,
        "spread": pytest.approx(0.3125**0.5),
        "worst": 0.5,
        "worst_sentence": "b",
        "siblings": {"prompts": 1, "moved": 0.2, "worst": 0.2, "worst_prompt": "e"},
        "kept": {"prompts": 2, "moved": pytest.approx(0.2), "worst": 0.3, "worst_prompt": "g"},
    }


def test_a_certificate_in_words():
    words = "gone in 75% of 4 unseen sentences; siblings move by 20%; kept move by 20%"
    assert in_words(certificate(ANSWERS)) == words
    assert in_words(certificate(ANSWERS[:4])) == "gone in 75% of 4 unseen sentences"


def test_questions_are_json_and_back():
    stored = json.loads(json.dumps(as_json([*OWN, *OTHERS])))
    assert [Question(**question) for question in stored] == [*OWN, *OTHERS]


@pytest.mark.parametrize(
    "asked",
    [
        3,
        "abc",
        [3],
        [{"prompt": "a", "context": ""}],
        [{"prompt": "a", "context": "", "about": "own", "more": 1}],
        [{"prompt": 3, "context": "", "about": "own"}],
        [{"prompt": "a", "context": None, "about": "own"}],
        [{"prompt": "a", "context": "", "about": "whom"}],
        [{"prompt": "a", "context": "", "about": ["own"]}],
        [{"prompt": "a", "context": "", "about": "kept"}],
    ],
)
def test_damaged_questions_are_refused_by_name(emoji, asked):
    with pytest.raises(ValueError, match="the certificate of 'dali' is damaged: "):
        examined(emoji, {"dali": asked})


@torch.no_grad()
def test_a_composed_model_is_reported_by_concept_and_by_what_is_to_stay(emoji, points):
    more = Question("Noto in the rain", "", "general")  # names what is erased
    asked = {"Noto": as_json([*OWN, *OTHERS]), "Twemoji": as_json([*TWEMOJI, *OTHERS, more])}
    questions = examined(emoji, asked)
    assert torch.equal(questions.concepts["Noto"].points.x_t, points.x_t[:3])
    assert [each.prompt for each in questions.stay.questions] == [
        "a church",
        "a cat",
        "a frog on a wet stone",
        "a pig",
        "Noto in the rain",
    ]
    increment = random_increment(emoji, "Noto", "esd-x-strict", 0)
    composer = Composer(emoji, {"Noto": increment})
    with composer.erasing("Noto", strength=3.0):
        report = certify(emoji, questions, ["Noto"])
        answers, rest = questions.answers(emoji.predict)

    assert report["erased"] == ["Noto"]
    assert {name: found["erased"] for name, found in report["concepts"].items()} == {
        "Noto": True,
        "Twemoji": False,
    }
    for name, found in report["concepts"].items():
        alone = certificate(answers[name])
        moved = [answer.moved for answer in answers[name]]
        assert {**alone, "erased": name == "Noto", "moved": sum(moved) / len(moved)} == found
        assert found["moved"] > 0.01
    # Of all concepts together; the siblings of one may be erased.
    kept = [answer for answer in rest if answer.about == "kept"]
    units = [exam.unit**2 for exam in questions.concepts.values()]
    assert questions.stay.unit == pytest.approx((sum(units) / 2) ** 0.5)
    assert report["kept"]["prompts"] == 3
    assert report["kept"]["worst"] == max(answer.moved for answer in kept)
    assert report["general"]["worst_prompt"] == "a frog on a wet stone"
    assert "siblings" not in report


# A library's.


@pytest.fixture
def library(emoji, tmp_path):
    """Two concepts of random numbers with questions, and one without."""
    library = Library(tmp_path, create=True)
    asked = {"Noto": [*OWN, *OTHERS], "Twemoji": TWEMOJI, "Firefox": None}
    for seed, (name, questions) in enumerate(asked.items()):
        increment = random_increment(emoji, name, "esd-x-strict", seed)
        stated = None
        if questions:
            stated = {"sentences": 3, "gone": 1.0, "questions": as_json(questions)}
        made = replace(increment.provenance, certificate=stated)
        library.save(replace(increment, provenance=made))
    return library


@pytest.fixture
def workspace(emoji, library):
    workspace = Workspace(library, emoji, solve="sum")
    yield workspace
    workspace.restore_all()


def test_the_base_is_certified_to_have_lost_nothing(emoji, workspace):
    report = workspace.certify()
    assert report["erased"] == []
    assert sorted(report["concepts"]) == ["Noto", "Twemoji"]
    for found in report["concepts"].values():
        assert not found["erased"]
        assert found["gone"] == found["moved"] == found["spread"] == pytest.approx(0.0, abs=1e-6)
        assert found["worst"] == pytest.approx(1.0, abs=1e-6)
    assert report["kept"]["worst"] == report["general"]["worst"] == 0


def test_what_was_composed_before_is_composed_again(emoji, workspace):
    base, alone = snapshot(emoji), workspace.certify("Noto")
    assert_bits(emoji, base)

    workspace.set({"Twemoji": 0.5, "Firefox": 2.0})
    before = snapshot(emoji)
    assert workspace.certify("Noto") == alone  # what was erased before makes no difference
    assert workspace.erased == {"Firefox": 2.0, "Twemoji": 0.5}
    assert_bits(emoji, before)
    assert alone["concepts"]["Noto"]["moved"] > 0
    workspace.restore_all()
    assert_bits(emoji, base)


def test_it_is_the_set_that_is_certified(workspace):
    both = workspace.certify("Twemoji", "Noto")
    assert both["erased"] == ["Noto", "Twemoji"]
    assert all(found["erased"] for found in both["concepts"].values())
    assert (
        both["concepts"]["Noto"]["moved"] != workspace.certify("Noto")["concepts"]["Noto"]["moved"]
    )
    # One without questions can be erased all the same.
    firefox = workspace.certify("Firefox")
    assert firefox["erased"] == ["Firefox"]
    assert firefox["kept"]["moved"] > 0


def test_an_unknown_concept_is_told_before_anything_is_done(library, monkeypatch):
    monkeypatch.setattr("multierase.workspace.load_base", lambda *_, **__: pytest.fail("loads"))
    with pytest.raises(UnknownConcept, match="'Notto'; did you mean 'Noto'"):
        Workspace(library, "some/base").certify("Noto", "Notto")


def test_a_library_without_certificates(emoji, library, workspace):
    workspace.erase("Firefox")
    for name in ("Noto", "Twemoji"):
        library.remove(name)
    before = snapshot(emoji)
    with pytest.raises(UsageError, match="no increment of this library has a certificate"):
        workspace.certify("Firefox")
    assert_bits(emoji, before)


def test_a_damaged_certificate_leaves_what_was_composed(emoji, library, workspace):
    increment = library["Firefox"]
    damaged = {"sentences": 0, "questions": [{"prompt": 3}]}
    made = replace(increment.provenance, certificate=damaged)
    library.save(replace(increment, provenance=made), overwrite=True)
    workspace.erase("Noto", strength=0.5)
    before = snapshot(emoji)
    with pytest.raises(ValueError, match="the certificate of 'Firefox' is damaged"):
        workspace.certify("Twemoji")
    assert workspace.erased == {"Noto": 0.5}
    assert_bits(emoji, before)


def test_a_model_that_another_composer_has_changed_is_no_base(emoji, library, workspace):
    other = Workspace(library, emoji, solve="sum")
    other.erase("Noto")
    try:
        for concepts in ((), ("Twemoji",)):
            with pytest.raises(ModelHeld):
                workspace.certify(*concepts)
    finally:
        other.restore_all()
    assert workspace.certify()["concepts"]["Noto"]["moved"] == 0
