"""Blind pairs: what is drawn, what a participant can see, the file of answers, its summary."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import random_increment
from hypothesis import given
from hypothesis import strategies as st

from multierase import Concept, Library, Request, SamplingSettings, Workspace
from multierase.errors import UnknownConcept, UsageError, WriteError
from multierase.evaluation.pairs import answers as answering
from multierase.evaluation.pairs.answers import COLUMNS, Answer, Answers, read_answers
from multierase.evaluation.pairs.study import Question, Study, StudySettings
from multierase.evaluation.pairs.summary import summary
from multierase.generate import generate
from multierase.pictures import to_picture

QUICK = SamplingSettings(inference_steps=2)
SUBJECTS = ("a church", "a cat", "a key", "a rose", "a fire", "a bell", "a crown")
HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "'quoted'", 'a "b", c', "two\nlines\r", "\x1b[31mred")


def questions_about(name):
    own = [
        {"prompt": f"{subject} by {name}", "context": subject, "about": "own"}
        for subject in SUBJECTS
    ]

    return [*own, {"prompt": "a dog", "context": "", "about": "kept"}]


def saved(library, model, name, seed, **stated):
    """Save an increment of random numbers that is large enough to be seen."""
    made = random_increment(model, name, model.exact_scope, seed) * 8.0
    library.save(replace(made, provenance=replace(made.provenance, concept=name, **stated)))


@pytest.fixture(scope="module")
def workspace(emoji, tmp_path_factory):
    """Three studios with certificates, on the embedded base."""
    library = Library(tmp_path_factory.mktemp("pairs") / "lib", create=True)
    for seed, name in enumerate(("Firefox", "Noto", "Twemoji")):
        certificate = {"sentences": 0, "questions": questions_about(name)}
        saved(library, emoji, name, seed, certificate=certificate)

    return Workspace(library, emoji, solve="sum")


@pytest.fixture(scope="module")
def study(workspace):
    settings = StudySettings(["Noto", "Twemoji"], ["Noto"], questions=3, seed=1, sampling=QUICK)
    return Study.of(workspace, settings)


class NoServer:
    """Makes no pictures; the file of answers needs none."""


def study_of(names=("Noto",), each=2, id="a" * 16):
    questions = []
    for name in names:
        for condition in ("base", "erased", "another"):
            for turn in range(each):
                sixth = Request(f"{turn} by {name}", turn, {name: 1.0})
                place = f"q{len(questions) + 1:03d}"
                questions.append(Question(place, name, (Request(name),), sixth, condition))

    return Study(id, "emoji", questions, NoServer(), QUICK)


def by_condition(study):
    found = {}
    for question in study.questions():
        found.setdefault((question.concept, question.condition), []).append(question)

    return found


# What is drawn.


def test_each_source_is_asked_equally_often_with_the_same_sentences(study):
    found = by_condition(study)
    # Twemoji is not erased by the set: it is kept.
    assert {key: len(listed) for key, listed in found.items()} == {
        ("Noto", "base"): 3,
        ("Noto", "erased"): 3,
        ("Noto", "another"): 3,
        ("Twemoji", "base"): 3,
        ("Twemoji", "kept"): 3,
        ("Twemoji", "another"): 3,
    }

    prompts = {key: sorted(one.sixth.prompt for one in listed) for key, listed in found.items()}
    assert prompts["Noto", "base"] == prompts["Noto", "erased"]
    assert prompts["Twemoji", "base"] == prompts["Twemoji", "kept"]
    assert set(prompts["Noto", "base"]) <= {f"{subject} by Noto" for subject in SUBJECTS}
    # Another concept's sentence is about the same things.
    subjects = {prompt.removesuffix(" by Noto") for prompt in prompts["Noto", "base"]}
    assert {prompt.rpartition(" by ")[0] for prompt in prompts["Noto", "another"]} == subjects
    others = {prompt.rpartition(" by ")[2] for prompt in prompts["Noto", "another"]}
    assert others == {"Firefox", "Twemoji"}


def test_only_the_composed_set_is_erased_and_only_in_its_own_pictures(study):
    for question in study.questions():
        assert all(one.erased == {} for one in question.references)
        composed = question.condition in ("erased", "kept")
        assert question.sixth.erased == ({"Noto": 1.0} if composed else {})


def test_references_are_of_the_concept_and_never_the_sixths_picture_or_sentence(study):
    noise = []
    for question in study.questions():
        prompts = [one.prompt for one in question.references]
        assert len(set(prompts)) == 5
        assert all(prompt.endswith(f" by {question.concept}") for prompt in prompts)
        assert question.sixth.prompt not in prompts
        noise += [one.seed for one in (*question.references, question.sixth)]

    assert len(set(noise)) == len(noise) == 18 * 6


def test_one_seed_draws_one_study(workspace, study):
    def drawn(seed, **changed):
        return Study.of(
            workspace,
            replace(
                StudySettings(["Noto", "Twemoji"], ["Noto"], questions=3, sampling=QUICK),
                seed=seed,
                **changed,
            ),
        )

    again = drawn(1)
    assert (again.id, again.questions()) == (study.id, study.questions())
    assert again.questions("ada") == study.questions("ada")
    for other in (drawn(2), drawn(1, erased={"Noto": 0.5}), drawn(1, sampling=SamplingSettings())):
        assert other.id != study.id


# What a participant can see.


def test_neither_id_nor_text_tells_the_source(workspace, study):
    questions = study.questions()
    assert [one.id for one in questions] == [f"q{place:03d}" for place in range(1, 19)]
    for question in questions:
        assert str(question) == f"Question(id={question.id!r}, concept={question.concept!r})"

    # At each place, each source comes up by chance alone: 60 seeds, a third of them each.
    settings = StudySettings(["Noto"], questions=2)
    places = {}
    for seed in range(60):
        for question in Study.of(workspace, replace(settings, seed=seed)).questions():
            places.setdefault(question.id, Counter())[question.condition] += 1
    for counts in places.values():
        assert set(counts) == {"base", "erased", "another"}
        assert max(counts.values()) <= 36  # beyond 4 standard deviations


def test_each_participant_has_an_own_order(study):
    orders = {tuple(one.id for one in study.questions(name)) for name in ("", "ada", "bob")}
    assert len(orders) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_pictures_carry_nothing_but_pixels(study):
    shown = study.pictures(study.questions()[0])
    assert [picture.info for picture in (*shown.references, shown.sixth)] == [{}] * 6
    assert len({picture.size for picture in (*shown.references, shown.sixth)}) == 1


# The real run, on the embedded base.


def test_pictures_are_those_of_the_requests(workspace, study):
    model = workspace.model
    erased = next(one for one in study.questions() if one.condition == "erased")
    shown = study.pictures(erased)
    assert study.pictures(erased) is shown
    study.pictures(study.questions()[1])
    again = study.pictures(erased)
    assert again is not shown
    assert again.sixth.tobytes() == shown.sixth.tobytes()

    prompts, seeds = [erased.sixth.prompt] * 2, [erased.sixth.seed, erased.references[0].seed]
    prompts[1] = erased.references[0].prompt
    plain = generate(model, prompts, seeds, QUICK)
    with workspace.erasing("Noto"):
        composed = generate(model, prompts, seeds, QUICK)

    assert near(shown.sixth, to_picture(composed[0]))
    assert not near(shown.sixth, to_picture(plain[0]))
    assert near(shown.references[0], to_picture(plain[1]))
    assert workspace.erased == {}


def near(one, other):
    """Batches differ in the last bits, so a pixel by one step of a byte."""
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).max() <= 1


def test_a_whole_study(workspace, study, tmp_path):
    answers = Answers(tmp_path / "a.csv", study)
    for question in answers.remaining("ada")[:4]:
        shown = study.pictures(question)
        answers.add("ada", question, 1 + shown.sixth.getpixel((0, 0))[0] % 5)

    assert len(answers.remaining("ada")) == 14
    assert len(answers.remaining("bob")) == 18
    assert summary(tmp_path / "a.csv")["answers"] == 4


def test_a_base_that_draws_nothing_is_told(study, monkeypatch):
    for value in (math.nan, 0.5):
        blank = torch.full((6, 3, 8, 8), value)
        monkeypatch.setattr(study, "_last", None)
        monkeypatch.setattr(study._server, "generate", lambda *_, made=blank: made)
        with pytest.raises(ValueError, match="the base emoji draws nothing for"):
            study.pictures(study.questions()[0])

    # An erased model may draw nothing.
    one_blank = torch.rand(6, 3, 8, 8)
    one_blank[5] = 1.0
    monkeypatch.setattr(study._server, "generate", lambda *_: one_blank)
    assert study.pictures(study.questions()[0]).sixth.getcolors() == [(64, (255, 255, 255))]


# Sentences.


def test_sentences_come_from_the_certificate_the_prompts_or_the_name(emoji, tmp_path):
    library = Library(tmp_path / "lib", create=True)
    saved(library, emoji, "Noto", 0, prompts=("a church by Noto",), contexts=("a church",))
    workspace = Workspace(library, emoji, solve="sum")
    found = by_condition(Study.of(workspace, StudySettings(["Noto"], questions=1)))
    assert found["Noto", "base"][0].sixth.prompt == "a church by Noto"
    # Alone in its library: the sentence without the concept.
    assert found["Noto", "another"][0].sixth.prompt == "a church"
    # It has one sentence: other seeds are all that can differ.
    references = found["Noto", "base"][0].references
    assert {one.prompt for one in references} == {"a church by Noto"}

    own = Concept("Noto", prompts=("a key by Noto", "a cat by Noto"), contexts=("a key", "a cat"))
    found = by_condition(Study.of(workspace, StudySettings([own], questions=2)))
    assert {one.sixth.prompt for one in found["Noto", "erased"]} == set(own.prompts)

    # References are about other things; where there are none, they have other sentences.
    key, cat = ("a key by Noto", "Noto key"), ("a cat by Noto",)
    for prompts, contexts in (((*key, *cat), ("a key", "key", "cat")), (key, ("a key", "key"))):
        own = Concept("Noto", prompts, contexts)
        study = Study.of(workspace, StudySettings([own], questions=4))
        for question in study.questions():
            shown = {one.prompt for one in question.references}
            if question.condition != "another" and cat[0] in prompts:
                assert shown == (set(key) if question.sixth.prompt in cat else set(cat))
            elif question.condition != "another":
                assert shown == set(key) - {question.sixth.prompt}

    saved(library, emoji, "Bare", 1, prompts=(), contexts=())
    found = by_condition(Study.of(workspace, StudySettings(["Bare"], questions=1)))
    assert found["Bare", "base"][0].sixth.prompt == "Bare"
    assert found["Bare", "another"][0].sixth.prompt == "a church by Noto"


@pytest.mark.parametrize("questions", [["no dict"], [{"about": "own"}], 5])
def test_a_damaged_certificate_is_told(emoji, tmp_path, questions):
    library = Library(tmp_path / "lib", create=True)
    saved(library, emoji, "Noto", 0, certificate={"sentences": 0, "questions": questions})
    with pytest.raises(ValueError, match="the certificate of 'Noto' is damaged"):
        Study.of(Workspace(library, emoji, solve="sum"), StudySettings(["Noto"]))


# What is refused.


def test_all_problems_of_the_settings_are_told_at_once():
    told = "name at least one concept; the strength.*; questions is 0.*; references is 2.5.*; seed"
    with pytest.raises(ValueError, match=told):
        StudySettings([], {"Noto": math.inf}, questions=0, references=2.5, seed=-1)

    with pytest.raises(ValueError, match="strength of 'Noto' is inf"):
        StudySettings(["Noto"], {"Noto": math.inf})
    with pytest.raises(ValueError, match="nothing is erased"):
        StudySettings(["Noto"], {"Noto": 0})
    with pytest.raises(ValueError, match="concepts is 'Noto', give a list"):
        StudySettings("Noto")
    with pytest.raises(ValueError, match="given twice"):
        StudySettings(["Noto", "Noto"])
    with pytest.raises(ValueError, match="erased is 'Noto'"):
        StudySettings(["Noto"], "Noto")


def test_settings_are_values():
    strengths = {"Noto": 1.0}
    settings = StudySettings(["Noto"], strengths)
    strengths["Twemoji"] = 1.0
    assert settings == StudySettings([Concept("Noto")], ["Noto"])
    assert settings == StudySettings(["Noto"])  # by default what is asked about is erased
    assert hash(settings) == hash(StudySettings(["Noto"]))


def test_concepts_without_an_increment_are_told_with_the_nearest(workspace, emoji):
    with pytest.raises(UnknownConcept, match="'noto'; did you mean 'Noto'"):
        Study.of(workspace, StudySettings(["noto"]))
    with pytest.raises(UnknownConcept, match="'Fierfox'; did you mean 'Firefox'"):
        Study.of(workspace, StudySettings(["Noto"], ["Fierfox"]))
    with pytest.raises(UsageError, match="give a library"):
        Study.of(Workspace(None, emoji), StudySettings(["Noto"]))


def test_increments_of_another_base_are_refused_before_anything_is_asked(workspace, tiny):
    with pytest.raises(ValueError, match="Noto"):
        Study.of(Workspace(workspace.library, tiny), StudySettings(["Noto"]))


@pytest.mark.parametrize("rating", [0, 6, -1, 3.0, "3", True, None])
def test_a_rating_is_a_whole_number_from_1_to_5(tmp_path, rating):
    answers = Answers(tmp_path / "a.csv", study_of())
    with pytest.raises(ValueError, match="give a whole number from 1 to 5"):
        answers.add("ada", "q001", rating)
    assert read_answers(tmp_path / "a.csv") == []


def test_what_else_an_answer_cannot_be(tmp_path):
    answers = Answers(tmp_path / "a.csv", study_of())
    with pytest.raises(ValueError, match="no question 'q100' in this study"):
        answers.add("ada", "q100", 3)
    for name in ("", " \t ", "x" * 201):
        with pytest.raises(ValueError, match="participant's name"):
            answers.add(name, "q001", 3)
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="seconds"):
            answers.add("ada", "q001", 3, seconds)

    answers.add("ada", "q001", 3)
    with pytest.raises(ValueError, match="ada has answered q001 already, with 3"):
        answers.add(" ada ", "q001", 4)
    assert [one.rating for one in read_answers(tmp_path / "a.csv")] == [3]


# The file.


def test_an_answer_is_read_as_it_was_given(tmp_path):
    study, path = study_of(), tmp_path / "a.csv"
    given = Answers(path, study).add("ada", study.question("q003"), 2, 12.345)
    assert read_answers(path) == [given]
    assert given == Answer(
        study=study.id,
        participant="ada",
        question="q003",
        concept="Noto",
        condition="erased",
        prompt="0 by Noto",
        seed=0,
        erased='{"Noto": 1.0}',
        rating=2,
        seconds=12.35,
        time=given.time,
        version=given.version,
        base="emoji",
    )
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_who_comes_back_goes_on(tmp_path):
    study, path = study_of(), tmp_path / "a.csv"
    answers = Answers(path, study)
    order = [one.id for one in answers.remaining("ada")]
    for id in order[:2]:
        answers.add("ada", id, 5)

    again = Answers(path, study_of())  # another day, the same study
    assert [one.id for one in again.remaining("ada")] == order[2:]
    assert len(again.remaining("bob")) == len(order)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_harmless_and_still_the_same_name(tmp_path, name):
    path, study = tmp_path / "a.csv", study_of()
    study.base = name
    Answers(path, study).add(name, "q001", 3)
    assert len(path.read_text().splitlines()) == 2
    with path.open(newline="", encoding="utf-8") as file:
        row = list(csv.reader(file))[1]
    assert not any(cell.startswith(tuple("=+-@")) for cell in row)
    assert all(cell.isprintable() for cell in row)

    assert "q001" not in {one.id for one in Answers(path, study).remaining(name)}
    assert summary(path)["participants"] == 1


@given(st.text())
def test_every_cell_is_one_line_and_read_back(text):
    line = answering._line([answering._one_line(text), "end"])
    (row,) = csv.reader(line.splitlines())
    assert [answering._unmarked(cell) for cell in row] == [answering._one_line(text), "end"]
    assert not row[0].startswith(tuple("=+-@\t\r"))


def test_two_participants_at_once(tmp_path):
    """Also by two ``Answers`` of one file; and of one who clicks twice one answer is taken."""
    study, path = study_of(each=8), tmp_path / "a.csv"
    refused = []

    def answer(name):
        answers = Answers(path, study)
        for question in answers.remaining(name):
            try:
                answers.add(name, question, 3)
            except ValueError:
                refused.append(question.id)

    threads = [threading.Thread(target=answer, args=[name]) for name in ("ada", "ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = Counter((one.participant, one.question) for one in read_answers(path))
    assert set(rows.values()) == {1}
    assert Counter(name for name, _ in rows) == {"ada": 24, "bob": 24}
    assert len(path.read_bytes().splitlines()) == 49


def test_files_that_are_no_answers_of_this_study_are_refused_and_left(tmp_path):
    path = tmp_path / "a.csv"
    Answers(path, study_of()).add("ada", "q001", 3)
    sound = path.read_text()
    wrong = {
        "answers to another study": sound.replace("a" * 16, "b" * 16),
        "columns are": sound.replace("rating", "stars"),
        r"columns are \[\]": "",
        "row 2 is no answer: 12 cells": sound.replace(",emoji", ""),
        "row 2 is no answer: rating is 7": sound.replace(",3,0.0,", ",7,0.0,"),
        "row 2 is no answer: invalid literal": sound.replace(",3,0.0,", ",x,0.0,"),
        "row 2 is no answer: condition": sound.replace(",base,", ",bose,"),
        "cannot be read": '"open',
    }
    for told, text in wrong.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=told):
            Answers(path, study_of())
        assert path.read_text() == text

    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        Answers(path, study_of())
    with pytest.raises(UsageError, match="is no file"):
        Answers(tmp_path, study_of())
    with pytest.raises(WriteError):
        Answers(tmp_path / "nowhere" / "a.csv", study_of())
    with pytest.raises(FileNotFoundError):
        read_answers(tmp_path / "none.csv")


def test_a_file_that_a_spreadsheet_saved_is_gone_on_with(tmp_path):
    """With a byte order mark, Windows's ends of lines, and the last one open."""
    path = tmp_path / "a.csv"
    Answers(path, study_of()).add("ada", "q001", 3)
    text = path.read_text().replace("\n", "\r\n").removesuffix("\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())

    Answers(path, study_of()).add("ada", "q002", 4)
    assert [one.rating for one in read_answers(path)] == [3, 4]


def test_a_full_disk_takes_back_what_was_written_of_a_row(tmp_path, monkeypatch):
    answers, path = Answers(tmp_path / "a.csv", study_of()), tmp_path / "a.csv"
    answers.add("ada", "q001", 3)
    before, write = path.read_bytes(), answering.os.write
    monkeypatch.setattr(answering.os, "write", lambda file, data: write(file, data[:9]))
    with pytest.raises(WriteError, match="the disk is full; nothing was changed"):
        answers.add("ada", "q002", 3)
    assert path.read_bytes() == before


# The summary.


def answered(path, people, study, rate):
    answers = Answers(path, study)
    for name in people:
        for question in study.questions():
            answers.add(name, question, rate(name, question))

    return path


def by_chance(seed=0):
    """Rates by condition, person and chance."""
    chance, level = np.random.default_rng(seed), {"base": 4, "erased": 2, "another": 1}

    def rate(name, question):
        mean = level[question.condition] + (name == "ada")
        return int(np.clip(mean + chance.integers(-1, 2), 1, 5))

    return rate


def test_means_shares_and_counts_against_numpy(tmp_path):
    study = study_of(["Noto", "Twemoji"], each=3)
    path = answered(tmp_path / "a.csv", ["ada", "bob"], study, by_chance())
    found = summary(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def ratings(**wanted):
        chosen = [row for row in rows if all(row[key] == wanted[key] for key in wanted)]
        return np.array([int(row["rating"]) for row in chosen])

    assert (found["answers"], found["participants"], found["study"]) == (36, 2, study.id)
    for condition in ("base", "erased", "another"):
        given, told = ratings(condition=condition), found["conditions"][condition]
        assert (told["n"], told["participants"], told["questions"]) == (12, 2, 6)
        assert told["mean"] == pytest.approx(given.mean())
        assert told["agreeing"]["value"] == pytest.approx((given >= 4).mean())
        own = ratings(condition=condition, concept="Twemoji").mean()
        told = found["concepts"]["Twemoji"]["conditions"][condition]
        assert told["mean"] == pytest.approx(own)

    difference = ratings(condition="erased").mean() - ratings(condition="base").mean()
    assert found["differences"]["erased - base"]["mean"] == pytest.approx(difference)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_intervals_against_a_plain_bootstrap(tmp_path):
    """People and pictures drawn one by one with other random numbers; ends agree to a tenth."""
    study = study_of(each=5)
    path = answered(tmp_path / "a.csv", ["ada", "bob", "eve"], study, by_chance())
    table = {}
    for one in read_answers(path):
        table.setdefault(one.condition, {})[one.participant, one.question] = one.rating

    chance, people = np.random.default_rng(7), ["ada", "bob", "eve"]
    means = {"base": [], "erased": []}
    for _ in range(3000):
        drawn = chance.choice(people, 3)
        for condition, listed in means.items():
            own = sorted({question for _, question in table[condition]})
            asked = chance.choice(own, len(own))
            listed.append(np.mean([table[condition][p, q] for p in drawn for q in asked]))

    found = summary(path, resamples=6000)
    erased, base = np.array(means["erased"]), np.array(means["base"])
    pairs = [
        (found["conditions"]["erased"], erased),
        (found["differences"]["erased - base"], erased - base),
    ]
    for told, drawn in pairs:
        expected = np.percentile(drawn, [2.5, 97.5])
        assert [told["low"], told["high"]] == pytest.approx(expected, abs=0.1)
        assert told["low"] < told["mean"] < told["high"]


def test_a_person_who_rates_all_higher_does_not_blur_the_difference(tmp_path):
    rate = {"base": 4, "erased": 2, "another": 1}
    study = study_of(each=3)
    path = answered(
        tmp_path / "a.csv",
        ["ada", "bob"],
        study,
        lambda name, one: rate[one.condition] + (name == "ada"),
    )
    found = summary(path)
    assert found["differences"]["erased - base"] == {"mean": -2.0, "low": -2.0, "high": -2.0}
    base = found["conditions"]["base"]
    assert (base["low"], base["mean"], base["high"]) == (4.0, 4.5, 5.0)


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    path = answered(tmp_path / "a.csv", ["ada", "bob"], study_of(each=3), by_chance())
    first, (head, *rows) = summary(path), path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]))
    assert summary(path) == first
    assert summary(path, seed=1) != first


def test_one_participant_and_one_answer(tmp_path):
    study, path = study_of(each=3), tmp_path / "a.csv"
    answers = Answers(path, study)
    assert summary(path)["words"] == "nobody has answered yet"
    answers.add("ada", "q001", 4)
    alone = summary(path)["conditions"]["base"]
    assert (alone["n"], alone["mean"], alone["low"], alone["high"]) == (1, 4.0, None, None)

    answers.add("ada", "q002", 2)
    told = summary(path)["conditions"]["base"]
    assert (told["low"], told["mean"], told["high"]) == (2.0, 3.0, 4.0)


def test_kept_concepts_are_compared_with_their_own_base(workspace, study, tmp_path):
    rate = {"Noto": {"base": 5, "erased": 1, "another": 1}, "Twemoji": {"base": 3, "kept": 3}}
    rate["Twemoji"]["another"] = 2
    path = answered(
        tmp_path / "a.csv", ["ada"], study, lambda _, one: rate[one.concept][one.condition]
    )
    found = summary(path)
    means = {name: told["mean"] for name, told in found["differences"].items()}
    assert means == {"erased - base": -4.0, "kept - base": 0.0, "another - base": -2.5}
    assert found["words"] == (
        "rated from 1 to 5, 5 is surely the same: the base's pictures of a concept 4.0 (4.0 to "
        "4.0), the erased model's 1.0 (1.0 to 1.0; best is as low as the base's other pictures), "
        "its pictures of concepts that are not erased 3.0 (3.0 to 3.0; best is the base's), the "
        "base's other pictures 1.5 (1.5 to 1.5)"
    )


def test_two_studies_are_not_summarised_as_one(tmp_path):
    one = answered(tmp_path / "a.csv", ["ada"], study_of(), by_chance())
    two = answered(tmp_path / "b.csv", ["ada"], study_of(id="b" * 16), by_chance())
    one.write_text(one.read_text() + "".join(two.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UsageError, match="answers to 2 studies"):
        summary(one)
