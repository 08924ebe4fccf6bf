"""A concept, its name, and the sentences about it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multierase import Concept
from multierase.errors import UsageError
from multierase.prompts.concepts import check_name, require_distinct, slug
from multierase.prompts.lists import TaggedPrompt

quickly = settings(max_examples=100, deadline=None, derandomize=True)


def test_the_name_is_the_prompt_unless_others_are_given():
    assert Concept("Van Gogh").prompts == ("Van Gogh",)
    assert Concept("Van Gogh", ("Starry Night",)).prompts == ("Starry Night",)
    assert Concept("Van Gogh", ["Starry Night"]).prompts == ("Starry Night",)


def test_the_target_is_the_anchor_or_what_it_is_erased_from():
    assert Concept("x").target_prompt is None
    assert Concept("hat", erase_from="cowboy").target_prompt == "cowboy"
    assert Concept("hat", erase_from="cowboy", anchor="man").target_prompt == "man"


def test_there_is_one_context_for_each_prompt():
    assert Concept("x", ("a", "b")).contexts == ("", "")
    assert Concept("x", ("a", "b"), ("c", "d")).contexts == ("c", "d")
    with pytest.raises(
        ValueError, match="'x': 2 prompts and 1 contexts; give one context for each"
    ):
        Concept("x", ("a", "b"), ("c",))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "a concept needs a name"),
        ({"name": "  "}, "a concept needs a name"),
        ({"name": "a", "prompts": ("b", "")}, r"prompts \[1\] of 2 are empty"),
        ({"name": "a", "erase_from": " "}, "erase_from is empty; leave it out"),
        ({"name": "a" * 201}, "has 201 characters, at most 200 .* as its prompt"),
        ({"name": " a"}, "begins or ends with a blank"),
        ({"name": "a/b"}, r"holds \['/'\]"),
        ({"name": "..\\b"}, "are not allowed"),
        ({"name": "\x1b]52;c;x\x07"}, r"'\\x1b\]52;c;x\\x07' holds .*control characters"),
        ({"name": "a\u202eb"}, r"a\\u202eb"),
        ({"name": "\ud800"}, r"\\ud800"),
        ({"name": 3}, "needs a name, given 3"),
    ],
)
def test_what_cannot_be_a_concept_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Concept(**wrong)


@pytest.mark.parametrize(
    "name", ["a", "Van Gogh", "-2 × Noto", "ピカチュウ", "a" * 200, "[red]x[red]", "50%"]
)
def test_names_that_people_use_are_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Fluent High Contrast", "fluent-high-contrast"),
        ("../../etc/passwd", "etc-passwd"),
        ("-2 × Noto", "2-noto"),
        ("ピカ", "e38394e382ab"),
    ],
)
def test_slugs(name, file):
    assert slug(name) == file


@quickly
@given(st.text(min_size=1, max_size=200, alphabet=st.characters(codec=None)))
def test_every_slug_is_a_file_name(name):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug(name))
    assert len(slug(name)) + len(".safetensors") <= 255


def test_concepts_of_one_command_have_their_own_files():
    require_distinct(["Noto", "Twemoji"])
    with pytest.raises(UsageError, match="'Noto' is given twice"):
        require_distinct(["Noto", "Twemoji", "Noto"])
    with pytest.raises(UsageError, match="'Noto' and 'noto' would both be stored as 'noto.safete"):
        require_distinct(["Noto", "noto"])
    with pytest.raises(ValueError, match="holds"):
        require_distinct(["a/b"])


KNOWN = [
    TaggedPrompt("a church by Noto", frozenset({"noto", "church"})),
    TaggedPrompt("Noto church", frozenset({"noto", "church"})),
    TaggedPrompt("a church", frozenset({"church"})),
    TaggedPrompt("church", frozenset({"church"})),
    TaggedPrompt("Noto art", frozenset({"noto"})),
    TaggedPrompt("a cat by Noto", frozenset({"noto", "cat"})),  # nothing is about the cat alone
    TaggedPrompt("a church by Twemoji", frozenset({"twemoji", "church"})),
    TaggedPrompt("weather"),
]


def test_a_bare_name_gets_the_sentences_about_it_each_with_its_context():
    concept = Concept("Noto").with_sentences(KNOWN)
    assert dict(zip(concept.prompts, concept.contexts, strict=True)) == {
        "Noto": "",
        "a church by Noto": "a church",
        "Noto church": "a church",
        "Noto art": "",
    }


@pytest.mark.parametrize(
    "concept", [Concept("Noto", ("Noto art",)), Concept("Noto", erase_from="a church")]
)
def test_what_was_said_is_not_changed(concept):
    assert concept.with_sentences(KNOWN) == concept


def test_a_name_that_no_sentence_is_about_stays_alone():
    assert Concept("Dali").with_sentences(KNOWN) == Concept("Dali")
