"""Files of concepts to erase."""

from __future__ import annotations

import pytest

from multierase.errors import PromptFileError
from multierase.prompts.concept_lists import ListedConcept, read_concepts


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, name="own.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_concepts(path)

    return write_and_read


def test_a_text_has_a_name_a_line(read):
    found = read("# artists\nVan Gogh\n\n  Claude Monet  \n", "own.txt")
    assert found == [ListedConcept("Van Gogh"), ListedConcept("Claude Monet")]


def test_a_table_has_what_differs(read):
    table = (
        'siblings,concept,kind,anchor\n"Monet; Sisley ;",Renoir,artist,\n,church,object,a barn\n'
    )
    assert read(table) == [
        ListedConcept("Renoir", "artist", None, ("Monet", "Sisley")),
        ListedConcept("church", "object", "a barn", None),
    ]
    assert read("\ufeffconcept\nRenoir\n") == [ListedConcept("Renoir")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name\nRenoir\n", "its columns are \\['name'\\]; give 'concept'"),
        ("concept,sibling\nRenoir,\n", "did you mean 'siblings'"),
        ("concept,concept\na,b\n", "at most once"),
        ("concept,kind\nRenoir,artist,x\n", "line 2: more cells than there are columns"),
        ("concept,kind\n,artist\n", "line 2: no concept"),
        ("concept\n", "holds no concept"),
        (b"concept\nRen\xfcir\n", "cannot be read as UTF-8"),
        ("", "its columns are \\[\\]"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(read, table, message):
    with pytest.raises(PromptFileError, match=message):
        read(table)


def test_a_text_of_nothing_and_a_file_that_is_not_there(read, tmp_path):
    with pytest.raises(PromptFileError, match="holds no concept"):
        read("# nobody\n", "own.txt")
    with pytest.raises(FileNotFoundError, match="one name a line, or a .csv"):
        read_concepts(tmp_path / "none.csv")
