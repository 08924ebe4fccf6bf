"""What an increment says of itself: typed, complete, and nothing that format 1 only claimed."""

from __future__ import annotations

import pytest

from multierase.increments.provenance import Cost, Provenance, Separation, Stop

WHOLE = Provenance(
    concept="Van Gogh",
    prompts=("Van Gogh", "a cat by Van Gogh"),
    contexts=("", "a cat"),
    anchor="a painting",
    erase_from="a painter",
    method="esd",
    scope="esd-x",
    settings={"steps": 3, "keep": ["a pig"], "seed": None},
    seed=7,
    version="0.2.0",
    cost=Cost(664, 2.5, 743),
    stop=Stop("erased", 44, -0.01, (1.0, 0.5)),
    separation=Separation(("",), {"prompts": 9, "sha256": "ab"}, {"tokens": {"rank": 7.0}}),
    certificate={
        "sentences": 12,
        "gone": 0.75,
        "degree": -0.1,
        "siblings": {"moved": 0.1},
        "by": "nobody",
    },
)


def test_there_and_back_again():
    assert Provenance.from_dict(WHOLE.as_dict()) == WHOLE
    assert Provenance.from_dict(Provenance("x").as_dict()) == Provenance("x")


OF_WRONG_TYPE = {
    "concept": [None, 1, "", " a", "a/b", "\x1b", "x" * 201],
    "prompts": [None, "a", [1], {"a": 1}, [None]],
    "contexts": [None, "a", [["a"]]],
    "anchor": [None, 1],
    "erase_from": [1, []],
    "method": [None, 1],
    "scope": [None, 1],
    "settings": [None, [], "a"],
    "seed": [1.5, "1", True],
    "version": [None, 2],
    "cost": [1, {}, {"evaluations": 1.5, "seconds": 1, "peak_memory_mib": 1}],
    "stop": [
        "erased",
        {"reason": "x", "steps": 1, "degree": "1", "degrees": []},
        {"reason": "x", "steps": 1, "degree": 1, "degrees": [None]},
        {"reason": "x", "steps": 1, "degree": 1, "degrees": [True]},
        {"reason": "x", "steps": 1, "degree": 1, "degrees": [], "more": 1},
    ],
    "separation": [
        [],
        {"kept_exactly": [1], "kept_in_mean": None, "directions": {}},
        {"kept_exactly": [], "kept_in_mean": 1, "directions": {}},
        {"kept_exactly": [], "kept_in_mean": None, "directions": {"tokens": 1}},
        {"kept_exactly": [], "kept_in_mean": None, "directions": {"tokens": {"rank": "1"}}},
    ],
    "certificate": [
        1,
        [],
        {},
        {"sentences": "12"},
        {"sentences": 12},
        {"sentences": 12, "gone": None, "degree": 0.0},
        {"sentences": 12, "gone": float("nan")},
        {"sentences": 0, "kept": 0.5},
        {"sentences": 0, "general": {"worst": 1.0}},
    ],
}
CASES = [(key, wrong) for key, values in OF_WRONG_TYPE.items() for wrong in values]


@pytest.mark.parametrize(("key", "wrong"), CASES)
def test_a_value_of_another_type_is_refused(key, wrong):
    with pytest.raises(ValueError, match=r"expected|name|entry"):
        Provenance.from_dict({**WHOLE.as_dict(), key: wrong})


@pytest.mark.parametrize("key", sorted(WHOLE.as_dict().keys() - {"certificate"}))
def test_a_missing_entry_is_named(key):
    entries = WHOLE.as_dict()
    del entries[key]
    with pytest.raises(ValueError, match=f"provenance has no entry '{key}'"):
        Provenance.from_dict(entries)


def test_an_unknown_entry_is_refused_and_not_dropped():
    with pytest.raises(ValueError, match="provenance has an unknown entry 'more'"):
        Provenance.from_dict({**WHOLE.as_dict(), "more": 1})


@pytest.mark.parametrize("wrong", [None, [], "x", 1])
def test_what_is_no_object_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a dict"):
        Provenance.from_dict(wrong)
    with pytest.raises(ValueError, match="expected a dict"):
        Provenance.from_format_1(wrong)


TRAINED = {
    "concept": "Noto",
    "prompts": ["Noto"],
    "scope": "esd-x-strict",
    "settings": {"objective": "esd"},
    "seed": 0,
    "version": "0.1.0",
    "stop_reason": "steps",
    "erasure_degree": 0.5,
    "erasure_degrees": [1.0, 0.5],
    "steps": 2,
    "unet_evaluations": 100,
    "seconds": 1.5,
    "peak_memory_mib": 700,
    "decoupled_from": {"exactly": ["", "a pig"], "known": {"prompts": 3, "sha256": "ab"}},
    "rank": 7,
    "residual": 0.8,
}


def test_format_1_is_mapped():
    made = Provenance.from_format_1(TRAINED)
    assert made == Provenance(
        concept="Noto",
        prompts=("Noto",),
        method="esd",
        scope="esd-x-strict",
        settings={"objective": "esd"},
        seed=0,
        version="0.1.0",
        cost=Cost(100, 1.5, 700),
        stop=Stop("steps", 2, 0.5, (1.0, 0.5)),
        separation=Separation(
            ("", "a pig"),
            {"prompts": 3, "sha256": "ab"},
            {"tokens": {"rank": 7.0, "residual": 0.8}},
        ),
    )


@pytest.mark.parametrize(
    ("objective", "method"), [("esd", "esd"), ("correlation", "sepme"), ("x", "unknown")]
)
def test_the_objective_of_format_1_is_the_method(objective, method):
    made = Provenance.from_format_1({**TRAINED, "settings": {"objective": objective}})
    assert made.method == method


@pytest.mark.parametrize("scope", ["esd-x", "esd-u", "full", "selfattn"])
def test_format_1_claims_exact_keeping_where_there_is_none_and_is_not_believed(scope):
    assert Provenance.from_format_1({**TRAINED, "scope": scope}).separation == Separation()
    assert Provenance.from_format_1({**TRAINED, "rank": None}).separation == Separation()


def test_the_first_files_of_format_1_list_the_prompts_alone():
    made = Provenance.from_format_1({**TRAINED, "decoupled_from": ["", "a pig"]})
    assert made.separation.kept_exactly == ("", "a pig")
    assert made.separation.kept_in_mean is None


def test_format_1_without_a_word_is_an_unnamed_increment():
    assert Provenance.from_format_1({}) == Provenance("unnamed")


@pytest.mark.parametrize("key", ["steps", "seconds", "rank", "decoupled_from", "prompts"])
def test_format_1_of_another_type_is_refused(key):
    with pytest.raises(ValueError, match=r"expected"):
        Provenance.from_format_1({**TRAINED, key: "x"})
