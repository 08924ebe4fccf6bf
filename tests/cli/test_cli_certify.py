"""``certify``: what erasing a set does, as JSON and as a table; what ``erase`` refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compositions import random_increment

from multierase.increments.library import Library
from multierase.training.certificate import Question, as_json

ASKED = {
    "Fluent High Contrast": [
        Question("a church in the style of Fluent High Contrast", "a church", "own"),
        Question("Fluent High Contrast cat", "cat", "own"),
        Question("a cow by Twemoji", "a cow", "siblings"),
        Question("a pig", "", "kept"),
        Question("a frog on a wet stone", "", "general"),
    ],
    "Noto": [
        Question("a whale by Noto", "a whale", "own"),
        Question("a church", "", "kept"),
        Question("a stork on a chimney", "", "general"),
    ],
    "Firefox": None,
}
SUM = ("--solve", "sum")


@pytest.fixture(scope="session")
def asked_library(emoji, tmp_path_factory):
    """Random increments, two of them with questions. Read only."""
    library = Library(tmp_path_factory.mktemp("asked"), create=True)
    for seed, (name, questions) in enumerate(ASKED.items()):
        increment = random_increment(emoji, name, "esd-x-strict", seed) * 3.0
        stated = None
        if questions:
            stated = {"sentences": 2, "gone": 0.5, "questions": as_json(questions)}
        increment = increment.named(name)
        made = replace(increment.provenance, certificate=stated)
        library.save(replace(increment, provenance=made))
    return library.folder


def test_certify_reports_each_concept_and_what_is_to_stay(run_json, asked_library):
    report = run_json("certify", "--library", asked_library, "--erase", "Noto", *SUM)
    assert report["library"] == str(asked_library)
    assert report["erased"] == ["Noto"]
    assert list(report["concepts"]) == ["Fluent High Contrast", "Noto"]
    noto, other = report["concepts"]["Noto"], report["concepts"]["Fluent High Contrast"]
    assert (noto["erased"], other["erased"]) == (True, False)
    assert (noto["sentences"], other["sentences"]) == (1, 2)
    assert noto["worst_sentence"] == "a whale by Noto"
    assert noto["gone"] == (noto["degree"] <= 0)
    assert noto["moved"] > 0
    assert report["kept"]["prompts"] == report["general"]["prompts"] == 2
    assert report["general"]["worst_prompt"] in ("a frog on a wet stone", "a stork on a chimney")
    assert "questions" not in noto


def test_without_a_concept_the_base_itself_is_certified(run_json, asked_library):
    report = run_json("certify", "--library", asked_library, *SUM)
    assert report["erased"] == []
    for found in report["concepts"].values():
        assert found["degree"] == pytest.approx(1.0, abs=1e-6)
        assert (found["erased"], found["gone"], found["moved"]) == (False, 0.0, 0.0)


def test_the_table_has_80_columns_and_says_what_is_left_out(run, run_json, asked_library):
    flags = ("--library", asked_library, "--erase", "Fluent High Contrast", "Firefox", *SUM)
    code, out, err = run("certify", *flags)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    rows = {line[:20].strip(): line[20:].split() for line in out.splitlines()}
    report = run_json("certify", *flags)
    erased, other = report["concepts"]["Fluent High Contrast"], report["concepts"]["Noto"]
    assert rows["Fluent High Contrast"][:2] == ["yes", f"{erased['gone']:.1%}"]
    assert rows["Fluent High Contrast"][2:4] == [
        f"{erased[key]:.3g}" for key in ("degree", "worst")
    ]
    assert rows["Noto"][:2] == ["no", "-"]  # it is not to be gone
    assert rows["Noto"][4] == f"{other['moved']:.1%}"
    assert "--json has worst sentence too" in out

    err = " ".join(err.split())
    for side in ("kept", "general"):
        found = report[side]
        assert f"{side} prompts move by {found['moved']:.1%} of what a concept adds" in err
        assert f"at most {found['worst']:.1%} ({found['worst_prompt']!r})" in err


def test_the_files_stay_as_they_are(run, asked_library):
    before = {path.name: path.read_bytes() for path in asked_library.iterdir()}
    assert run("certify", "--library", asked_library, "--erase", "Noto", *SUM)[0] == 0
    assert {path.name: path.read_bytes() for path in asked_library.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--erase", "Notto"], 1, "'Notto'; did you mean 'Noto'"),
        (["--erase", "Noto=0.5"], 2, "give names without a strength"),
        (["--erase", "Noto", "--solve", "joined"], 2, "did you mean 'joint'"),
        (["--erase", "Noto", "--base", "./missing"], 1, "no base at './missing'"),
        (["--erase", "Noto", "--keep-file", "no.txt"], 1, "no prompts at no.txt"),
    ],
)
def test_bad_input_is_a_clear_error(said, asked_library, arguments, code, message):
    got, err = said("certify", "--library", asked_library, *arguments)
    assert got == code
    assert message in err


def test_a_library_that_cannot_be_certified(said, asked_library, tmp_path):
    code, err = said("certify", "--library", tmp_path / "missing")
    assert code == 1
    assert "no library folder" in err

    Library(tmp_path).save(Library(asked_library)["Firefox"])
    code, err = said("certify", "--library", tmp_path, "--erase", "Firefox", *SUM)
    assert code == 2
    assert "no increment of this library has a certificate" in err


def test_ls_and_show_say_what_the_certificate_says(run, run_json, asked_library):
    rows = run_json("ls", "--library", asked_library)["increments"]
    assert {row["concept"]: row["gone"] for row in rows} == {
        "Firefox": None,
        "Fluent High Contrast": 0.5,
        "Noto": 0.5,
    }
    assert "gone in 50% of 2 unseen sentences" in run("show", "Noto", "--library", asked_library)[1]
    assert "unseen" not in run("show", "Firefox", "--library", asked_library)[1]
    shown = run_json("show", "Noto", "--library", asked_library)
    assert shown["certificate"]["questions"] == as_json(ASKED["Noto"])


# What a base does not draw.


def test_a_name_that_the_base_does_not_draw_is_refused_and_nothing_is_written(said, tmp_path):
    code, err = said("erase", "Van Gogh", "--library", tmp_path / "lib")
    assert code == 1
    assert "refused 'Van Gogh'" in err
    assert "there is nothing to erase; check the spelling and --kind" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_an_erasure_is_certified_from_beginning_to_end(run, run_json, tmp_path):
    """Sentences of the base's own kind are tried, trained with, held back, and asked again."""
    lib = tmp_path / "lib"
    report = run_json("erase", "Noto", "Van Gogh", "--library", lib)
    (row,) = report["increments"]
    assert [refusal["concept"] for refusal in report["refused"]] == ["Van Gogh"]
    stated = row["certificate"]
    assert stated["degree"] < 0.3
    assert stated["general"]["moved"] < 0.3
    assert "questions" not in stated

    made = Library(lib).header("Noto").provenance
    assert made.settings["kind"] == "studio"
    questions = made.certificate["questions"]
    asked = {question["prompt"] for question in questions if question["about"] == "own"}
    assert len(asked) == stated["sentences"] >= 6
    assert stated["worst_sentence"] in asked
    assert not asked & set(made.prompts)  # unseen
    assert made.separation.kept_in_mean["dictionary"] > 1000

    found = run_json("certify", "--library", lib, "--erase", "Noto")["concepts"]["Noto"]
    assert found["sentences"] == stated["sentences"]
    assert found["degree"] == pytest.approx(stated["degree"], abs=0.3)
    code, out, _ = run("certify", "--library", lib, "--erase", "Noto")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
