"""The parts of the reference that are made from the code, and tables that must agree with it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import pytest
from snippets import PAGES, ROOT

from multierase import EraseSettings
from multierase.cli.flags import choices_of
from multierase.cli.main import parser_of
from multierase.cli.options import VERBS
from multierase.emoji import STUDIOS
from multierase.interop.targets import TARGETS
from multierase.models.sources import embedded_folder
from multierase.prompts.kind import load_kind, shipped_kinds

sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import from_code

OF_BASES = {"studio": embedded_folder("emoji"), "typeface": embedded_folder("type")}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", from_code.PARTS)
def test_every_part_is_used_by_a_page(name):
    assert any(
        f"<!-- from code: {name} -->" in page(f"reference/{at}.md")
        for at in ("command-line", "tables")
    )


def test_a_part_that_does_not_exist_ends_the_build():
    with pytest.raises(KeyError, match="flavours"):
        from_code.filled("<!-- from code: flavours -->")


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_of_every_verb_is_there(verb):
    """With its choices and its default, as the parser has them."""
    section = re.search(rf"^## {verb}$(.*?)(?=^## |\Z)", from_code.verbs(), re.M | re.S)[1]
    assert VERBS[verb].example in section

    for option in parser_of(verb).options.values():
        if option.key in ("config", "json", "debug"):
            continue
        name = option.key.upper() if option.positional else option.label
        row = re.search(rf"^\| `{re.escape(name)}[ `][^|]*\|(.*)\|$", section, re.M)
        assert row, option.label
        words = row[1].replace("\\", "")
        assert option.help in words
        for choice in choices_of(option.type):
            assert choice in words, (option.label, choice)


def test_every_setting_of_an_erasure_is_there_and_explained():
    text = from_code.settings_of(EraseSettings)
    for field in dataclasses.fields(EraseSettings):
        row = re.search(rf"^\| `{field.name}` \|([^|]*)\|(.*)\|$", text, re.M)
        assert row, field.name
        assert row[2].strip(), field.name
        if field.default not in (None, "", ()):
            shown = row[1].strip(" `")
            is_text = isinstance(field.default, str)
            assert (shown if is_text else json.loads(shown)) == field.default


def test_a_table_has_as_many_cells_in_each_row():
    for name, make in from_code.PARTS.items():
        text = make()
        tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.M)
        assert tables, name
        for table in tables:
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(counts) == 1, (name, table[:200])


def test_the_kinds_are_as_the_page_counts_them():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page("kinds.md").split("## The keys")[0], re.M)
    stated = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert stated.keys() == {*shipped_kinds(), *OF_BASES}

    for name, (about, *numbers, scope, eta) in stated.items():
        folder = OF_BASES.get(name)
        kind = load_kind(name, folder and folder / "kinds")
        assert about == kind.about
        counted = [len(kind.sentences), len(kind.subjects), len(kind.beside), len(kind.keep)]
        assert [int(number) for number in numbers[:4]] == counted, name
        assert scope.strip("`") == (kind.scope or "")
        assert eta == ("" if kind.eta is None else str(kind.eta))


def test_the_formats_are_those_that_are_written():
    out = page("formats.md").split("## Out")[1].split("## Many sets")[0]
    rows = set(re.findall(r"^\| `([\w-]+)` \|", out, re.M))
    assert rows - {"--to"} == set(TARGETS)


def test_the_glossary_is_sorted_and_has_the_words_that_are_printed():
    words = re.findall(r"^\| \*\*([^*]+)\*\*", page("reference/glossary.md"), re.M)
    assert words == sorted(words, key=str.lower)
    assert {"degree", "certificate", "gone", "moved", "differs from alone by", "increment"} <= set(
        words
    )


def test_every_public_name_is_in_the_reference():
    import multierase

    text = page("reference/python.md")
    for name in multierase.__all__:
        assert re.search(rf"auto\w+:: (?:multierase\.)?(?:\w+\.)*{name}$", text, re.M), name


def test_the_pages_are_in_four_parts():
    """Tutorial, how-tos, explanation, reference; the older pages are in the last two."""
    indexes = {part: page(f"{part}/index.md") for part in ("how-to", "explanation", "reference")}
    for name in PAGES:
        if not name.startswith("docs/") or name.endswith("index.md") or name == "docs/tutorial.md":
            continue
        stem = name.removeprefix("docs/").removesuffix(".md")
        folder, _, last = stem.rpartition("/")
        listed = [
            part for part, text in indexes.items() if re.search(rf"^(?:\.\./)?{last}$", text, re.M)
        ]
        assert listed, name
        assert not folder or listed == [folder], name


MEASURED = (
    "separability.md",
    "any-base.md",
    "cost.md",
    "families.md",
    "explanation/results.md",
    "explanation/peers.md",
    "explanation/large-sets.md",
    "explanation/under-attack.md",
)


@pytest.mark.parametrize(
    "name", [name for name in PAGES if re.search("how-to/|explanation/", name)]
)
def test_a_share_in_prose_is_one_that_was_measured(name):
    """Pages about what was measured name their command; the others repeat their numbers."""
    measured = " ".join(page(each) for each in MEASURED)
    prose = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    for share in re.findall(r"(?<![\d.])\d+\.\d+%", prose):
        assert re.search(rf"(?<![\d.]){re.escape(share.rstrip('%'))} ?%", measured), share


def test_studios_that_pages_erase_exist():
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for given in re.findall(r'multierase erase ("[^"]+"(?: "[^"]+")*) --library', text):
            assert set(re.findall(r'"([^"]+)"', given)) <= set(STUDIOS), (name, given)
