"""Lists of prompts: text, CSV, and what is not one."""

from __future__ import annotations

import pytest

from multierase.errors import PromptFileError
from multierase.prompts.lists import (
    TaggedPrompt,
    known_concepts,
    not_about,
    read_prompts,
    unknown_to,
)


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes, name: str = "prompts.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_peers_csv(written):
    """As UCE's and ESD's lists are: more columns than the prompt, commas in quotes."""
    path = written('case_number,prompt,evaluation_seed\n0,"a church, by Noto",7\n1,a cat,8\n')
    assert read_prompts(path) == [
        TaggedPrompt("a church, by Noto", frozenset({"0", "7"})),
        TaggedPrompt("a cat", frozenset({"1", "8"})),
    ]


@pytest.mark.parametrize(
    "text",
    ["one\n\ntwo\n", "\ufeffone\r\ntwo", "  one  \n\t\ntwo\n\n"],
    ids=["plain", "bom", "blank"],
)
def test_text_has_a_prompt_on_each_line(written, text):
    assert read_prompts(written(text, "p.txt")) == [TaggedPrompt("one"), TaggedPrompt("two")]


def test_rows_may_be_short_long_or_empty(written):
    path = written("prompt,studio\na\nb,Noto,more,and more\n,Noto\n\n\ufeffc,NOTO \n")
    assert [tagged.concepts for tagged in read_prompts(path)] == [
        frozenset(),
        frozenset({"noto"}),
        frozenset({"noto"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,seed\na,1\n", r"no column 'prompt'; its columns are \['seed', 'text'\]"),
        ("prompt\n\n", "holds no prompt"),
        ("", r"no column 'prompt'; its columns are \[\]"),
        (b"prompt\n\xff\xfe\n", "cannot be read as UTF-8"),
        ("prompt\n" + "x" * 200_000 + "\n", "cannot be read .*field"),
    ],
    ids=["column", "empty", "nothing", "latin", "long"],
)
def test_what_is_no_list_is_refused_with_its_columns(written, text, message):
    with pytest.raises(PromptFileError, match=message):
        read_prompts(written(text))


def test_a_missing_list_says_what_to_give(tmp_path):
    for path in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no prompts at .*give a .txt.*or a .csv"):
            read_prompts(path)


KNOWN = [
    TaggedPrompt("a church by Noto", frozenset({"noto", "church"})),
    TaggedPrompt("a church by Fluent Flat", frozenset({"fluent flat", "church"})),
    TaggedPrompt("Noto", frozenset({"noto"})),
]


@pytest.mark.parametrize(
    ("concepts", "kept"),
    [
        (["NOTO"], ["a church by Fluent Flat"]),
        (["Fluent"], ["a church by Noto", "a church by Fluent Flat", "Noto"]),  # whole names
        (["church"], ["Noto"]),
        (["church", "noto"], []),
        ([], ["a church by Noto", "a church by Fluent Flat", "Noto"]),
    ],
)
def test_what_a_list_says_of_a_concept_is_not_kept(concepts, kept):
    assert not_about(KNOWN, *concepts) == kept


def test_a_list_knows_the_concepts_that_it_names():
    assert known_concepts(KNOWN) == {"noto", "church", "fluent flat"}
    assert unknown_to(KNOWN, "Noto") is None
    assert "no concept 'Notto'; did you mean 'noto'" in unknown_to(KNOWN, "Notto")
    assert unknown_to([TaggedPrompt("x")], "Noto") is None  # a list that names none cannot tell
