"""What the page shows of increments: their files' own words, the composer's numbers, sweeps."""

from __future__ import annotations

import dataclasses
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compositions import increments_of, random_increment

from multierase import Library, Request, SamplingSettings, Workspace
from multierase.app import look, looking
from multierase.app.looking import STRENGTHS, before_and_after, heat_map, page_of
from multierase.app.session import Session
from multierase.app.sweeping import (
    Wanted,
    databases,
    few_of,
    report_of,
    small_sweep,
    suites_for,
)
from multierase.errors import Cancelled, UnknownConcept, UsageError
from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import load_instruments
from multierase.evaluation.report.rows import Rows, as_json
from multierase.evaluation.store import Store
from multierase.evaluation.suites import load_suite, suite_of
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes
from multierase.pictures import matrix_picture, to_picture
from multierase.separation.crosstalk import RELATIVE

HTML = "<script>alert(1)</script>"
QUICK = SamplingSettings(inference_steps=2)
SWEPT = ("Noto", "Twemoji")
WANTED = Wanted(SWEPT, "studios", of_each=1)


class Tags(HTMLParser):
    """The tags of a text, with their attributes, and what is written between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def session_of(model, folder: Path, *increments) -> Session:
    library = Library(folder, create=True)
    for increment in increments:
        library.save(increment)

    return Session(Workspace(library, model))


@pytest.fixture
def session(tiny, tmp_path):
    """A page over four concepts of random numbers; one of them does not read the text alone."""
    return session_of(tiny, tmp_path / "library", *increments_of(tiny).values())


def said(increment, **provenance):
    return dataclasses.replace(
        increment, provenance=dataclasses.replace(increment.provenance, **provenance)
    )


# The heat map.


def test_a_heat_map_shows_the_composers_numbers(session):
    found, table = heat_map(session), session.workspace.composer.crosstalk()
    by_hand = {}
    for name, row in table.items():
        by_hand[name] = {other: effect / row[name] for other, effect in row.items()}
    assert found.table == by_hand
    assert "nudity" not in found.table  # self-attention reads no text
    assert found.picture.tobytes() == matrix_picture(by_hand, RELATIVE).tobytes()

    shares = {}
    for name, row in by_hand.items():
        shares |= {(name, other): share for other, share in row.items() if other != name}
    (erased, moved), share = max(shares.items(), key=lambda item: item[1])
    assert f"The largest: erasing {erased} moves {moved} by {share:.2f}" in found.words


def test_a_large_heat_map_shows_the_concepts_with_the_most(session, monkeypatch):
    whole = heat_map(session).table
    shares = [
        (share, erased, moved)
        for erased, row in whole.items()
        for moved, share in row.items()
        if moved != erased and moved in whole
    ]
    _, erased, moved = max(shares)
    monkeypatch.setattr(looking, "MOST_ROWS", 2)
    found = heat_map(session)
    assert set(found.table) == {erased, moved}
    assert found.table[erased] == {name: whole[erased][name] for name in sorted(found.table)}
    assert "Shown are the 2 of 3 concepts" in found.words


@pytest.mark.parametrize("names", [(), ("nudity",)], ids=["empty", "no reader"])
def test_nothing_to_compare_is_said(tiny, tmp_path, names):
    increments = increments_of(tiny)
    session = session_of(tiny, tmp_path / "library", *(increments[name] for name in names))
    with pytest.raises(UsageError, match="no increment of this library"):
        heat_map(session)


# An increment's page.


def test_a_page_says_what_the_file_says(tiny, noto, tmp_path):
    session = session_of(tiny, tmp_path / "library", noto)
    made, found = noto.provenance, page_of(session, "Noto")
    facts, size = dict(found.facts), session.workspace.library.path("Noto").stat().st_size
    assert facts["method"].startswith("esd: ")
    assert facts["scope"] == made.scope
    assert facts["kind"] == "none"
    assert facts["seed"] == str(made.seed)
    assert facts["steps"] == "3 of at most 3; the steps were used up"
    assert facts["degree"].startswith(f"{made.stop.degree:.2f} ")
    assert facts["evaluations"].startswith(f"{made.cost.evaluations:,} ")
    assert facts["seconds"] == f"{made.cost.seconds:g}"
    assert facts["file"].startswith(f"noto.safetensors, {size / 1e3:,.0f} kB")
    assert facts["base"] == "tiny"
    assert facts["version"] == made.version

    settings = dict(found.settings)
    assert {name: settings[name] for name in ("batch_size", "learning_rate", "sampler_steps")} == {
        "batch_size": "2",
        "learning_rate": "0.1",
        "sampler_steps": "4",
    }
    assert "momentum" not in settings  # the default
    assert "kind" not in settings  # among the facts
    assert found.sentences == made.prompts
    assert found.prompt == made.prompts[0]  # no sentence was held back
    assert found.certificate == ("There is none: no sentence about it was held back.",)
    assert found.history == ("as it was made",)


def test_a_certificate_in_words(tiny, noto, tmp_path):
    certificate = {
        "sentences": 4,
        "gone": 0.75,
        "worst": 0.3,
        "worst_sentence": "a cat by Noto",
        "siblings": {"moved": 0.05, "worst": 0.07, "worst_prompt": "a cat by Firefox"},
        "questions": [
            {"about": "kept", "prompt": "a church", "context": ""},
            {"about": "own", "prompt": "a cat by Noto", "context": "a cat"},
        ],
    }
    prompts = tuple(f"sentence {i}" for i in range(25))
    increment = said(noto, certificate=certificate, prompts=prompts, contexts=("",) * 25)
    found = page_of(session_of(tiny, tmp_path / "library", increment), "Noto")
    whole, worst, siblings = found.certificate
    assert whole == "gone in 75% of 4 unseen sentences; siblings move by 5%."
    assert "“a cat by Noto”, has 30%" in worst
    assert "“a cat by Firefox” moves most: by 7%" in siblings
    assert found.prompt == "a cat by Noto"
    assert (found.sentences, found.count) == (prompts[:20], 25)
    assert "the first 20 of 25" in Tags(look._page(found)).text


@pytest.mark.parametrize(
    "wrong",
    [
        {"worst": "x", "worst_sentence": []},
        {"worst": 1.0, "worst_sentence": {"a": 1}, "questions": "x"},
        {"questions": [None, {"about": "own"}]},
        {"siblings": {"moved": 0.0, "worst": [1], "worst_prompt": 3}},
    ],
)
def test_a_strange_certificate_is_no_error(tiny, noto, tmp_path, wrong):
    increment = said(noto, certificate={"sentences": 1, "gone": 1.0, **wrong})
    found = page_of(session_of(tiny, tmp_path / "library", increment), "Noto")
    assert found.certificate[0].startswith("gone in 100% of 1 unseen sentences")
    assert "Noto" in look._page(found)


def test_whatever_a_file_says_is_text(tiny, noto, tmp_path):
    certificate = {"sentences": 1, "gone": 1.0, "worst": 0.0, "worst_sentence": HTML}
    hostile = dataclasses.replace(
        said(
            noto,
            prompts=(HTML,),
            contexts=("",),
            certificate=certificate,
            settings={HTML: HTML, "kind": HTML},
            scope=HTML,
            version=HTML,
        ),
        history=({"step": HTML},),
    )
    page = look._page(page_of(session_of(tiny, tmp_path / "library", hostile), "Noto"))
    tags = Tags(page)
    allowed = {"h3", "div", "ul", "li", "table", "tr", "th", "td", "details", "summary"}
    assert {tag for tag, _ in tags.tags} == allowed
    assert tags.text.count(HTML) == 8
    attributes = {name for _, attributes in tags.tags for name in attributes}
    assert attributes == {"class", "style", "role", "aria-live"}


@pytest.mark.parametrize("name", ["../dali", "/etc/passwd", "", HTML])
def test_only_what_is_in_the_library_is_looked_at(session, name):
    with pytest.raises(UnknownConcept):
        page_of(session, name)
    with pytest.raises(UnknownConcept):
        before_and_after(session, name, "a church")


# Before and after.


def test_the_base_at_strength_0_and_the_servers_pictures_at_others(session):
    found = before_and_after(session, "dali", "a church", 3, QUICK)
    pictures = [picture.tobytes() for picture, _ in found]
    assert [caption for _, caption in found] == [
        "the base",
        "strength 0.5",
        "strength 1",
        "strength 1.5",
    ]

    base = session.server.generate([Request("a church", 3)] * len(STRENGTHS), QUICK)
    assert pictures[0] == to_picture(base[0]).tobytes()
    for strength, picture in zip(STRENGTHS, pictures, strict=True):
        erased = [Request("a church", 3, {"dali": strength})] * len(STRENGTHS)
        assert picture == to_picture(session.server.generate(erased, QUICK)[0]).tobytes()
    assert len(set(pictures)) == len(STRENGTHS)


def test_pictures_need_a_prompt(session):
    with pytest.raises(UsageError, match="give a prompt"):
        before_and_after(session, "dali", "  ")


# Suites and databases.


def test_a_base_has_the_suites_that_can_judge_it(tiny, tmp_path):
    session = session_of(tiny, tmp_path / "library")
    found = suites_for(session)
    assert "studios" not in found  # judged by the embedded base's own judge
    assert "openai/clip-vit-large-patch14" in found["artists"]
    assert "imagenet" in found["imagenette"]
    assert "i2p" not in found  # its prompts cannot be shipped


def test_a_few_cases_are_as_many_of_each_class():
    suite = few_of(load_suite("studios"), 3)
    classes = [case.labels["studio"] for case in suite.cases]
    assert sorted(set(classes)) == sorted(load_suite("studios").classes()["studio"])
    assert {classes.count(name) for name in classes} == {3}
    assert [case for case in load_suite("studios").cases if case in suite.cases] == [*suite.cases]
    assert suite.name == "studios, 3 of each"


def test_only_the_librarys_own_databases_are_opened(session, tmp_path):
    library, outside = session.workspace.library.folder, tmp_path / "outside.db"
    for path in (outside, library / "a.db", library / "sweeps" / "b.db", library / "deep" / "c.db"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not a database")
    (library / "link.db").symlink_to(outside)
    (library / "sweeps" / "link.db").symlink_to(outside)
    (library / "folder.db").mkdir()
    assert list(databases(session)) == ["a.db", "sweeps/b.db"]

    wrong = ["../outside.db", str(outside), "link.db", "deep/c.db", "sweeps/../a.db", "", None]
    for name in wrong:
        with pytest.raises(UsageError, match="no database"):
            report_of(session, name)

    shutil.rmtree(library / "sweeps")
    (library / "sweeps").symlink_to(tmp_path)
    assert list(databases(session)) == ["a.db"]


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (Wanted(("dali",), "../artists"), UsageError, "no suite"),
        (Wanted(("dali",), "/etc/passwd"), UsageError, "no suite"),
        (Wanted(("dali",), "studios"), UsageError, "no suite"),
        (Wanted((), "artists"), UsageError, "0 concepts"),
        (Wanted(("dali",) * 5, "artists"), UsageError, "5 concepts"),
        (Wanted(("dali", "dali"), "artists"), UsageError, "given twice"),
        (Wanted(("../dali",), "artists"), UnknownConcept, "not in library"),
        (Wanted(("dali",), "artists", 0), UsageError, "0 pictures"),
        (Wanted(("dali",), "artists", 9), UsageError, "9 pictures"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_and_leaves_no_file(session, wanted, error, words):
    with pytest.raises(error, match=words):
        small_sweep(session, wanted)
    assert not (session.workspace.library.folder / "sweeps").exists()


def test_a_report_is_a_page_of_its_own_that_runs_nothing():
    page = f'<!doctype html><title>"quotes" & {HTML}</title>'
    ((tag, attributes),) = Tags(look._framed(page)).tags
    assert tag == "iframe"
    assert attributes["sandbox"] == ""
    assert attributes["srcdoc"] == page


@pytest.fixture(scope="module")
def swept(emoji, tmp_path_factory):
    """A page over two random increments of the embedded base, and their small sweep."""
    increments = [
        random_increment(emoji, name, "esd-x-strict", seed, factored=True)
        for seed, name in enumerate(SWEPT)
    ]
    session = session_of(emoji, tmp_path_factory.mktemp("swept") / "library", *increments)
    told: list[tuple[int, int]] = []

    def tell(*numbers: int) -> bool:
        told.append(numbers)
        return True

    return session, small_sweep(session, WANTED, tell), told


def rows_of(path: Path) -> list[dict]:
    with Store.reading(path) as store:
        return as_json(Rows(store).rows())


@pytest.mark.slow
def test_a_sweeps_rows_are_those_of_the_command(swept, tmp_path):
    session, name, told = swept
    experiment = Experiment("studios", library=str(session.workspace.library.folder), device="cpu")
    instruments = load_instruments(experiment, few_of(suite_of(experiment), 1))
    stages = concept_sets("subsets", SWEPT)
    path = tmp_path / "direct.db"
    sweep(experiment, stages, path, executor=Processes(1), instruments=instruments).close()

    rows = rows_of(databases(session)[name])
    assert rows == rows_of(path)
    assert [row["erased_concepts"] for row in rows] == [[], ["Noto"], ["Twemoji"], [*SWEPT]]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert session.compose({}).is_base is True


@pytest.mark.slow
def test_the_same_sweep_again_draws_nothing(swept, monkeypatch):
    session, name, _ = swept
    monkeypatch.setattr(Evaluator, "observe", None)
    assert small_sweep(session, WANTED) == name
    assert small_sweep(session, dataclasses.replace(WANTED, concepts=SWEPT[::-1])) == name


@pytest.mark.slow
def test_its_report_is_opened_in_place(swept):
    session, name, _ = swept
    before = databases(session)[name].read_bytes()
    page = report_of(session, name)
    assert page.startswith("<!doctype html>")
    assert "Noto + Twemoji" in page
    assert "<script" not in page
    assert databases(session)[name].read_bytes() == before
    assert sorted(path.name for path in databases(session)[name].parent.iterdir()) == [
        databases(session)[name].name
    ]


@pytest.mark.slow
def test_an_ended_sweep_goes_on_and_another_library_is_another_sweep(swept, emoji, monkeypatch):
    session, *_ = swept
    wanted = dataclasses.replace(WANTED, concepts=SWEPT[:1], of_each=2)
    with pytest.raises(Cancelled, match="after 1 of 2 sets"):
        small_sweep(session, wanted, lambda done, sets: False)

    seen = []
    observe = Evaluator.observe
    monkeypatch.setattr(
        Evaluator, "observe", lambda self, erased: seen.append(erased) or observe(self, erased)
    )
    ended = small_sweep(session, wanted)
    assert seen == [("Noto",)]  # the base was kept
    rows = rows_of(databases(session)[ended])
    assert [row["erased_concepts"] for row in rows] == [[], ["Noto"]]

    with session.alone() as workspace:
        workspace.library.save(random_increment(emoji, "Firefox", "esd-x-strict", 5))
    assert small_sweep(session, wanted) != ended
    workspace.library.remove("Firefox")
