"""The checks of the pages can fail for the right reason."""

from __future__ import annotations

import re

import pytest
import snippets as module
from snippets import PAGES, matches, snippets
from stand_ins import STAND_INS
from test_pages import LEFT, NOT_RUN, PEERS, parts_of

TABLE = "concept  gone   degree\n──────────\nNoto     75.0%  -0.0411  ..."


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        (
            "loading ...\nconcept  gone  degree\n─\nNoto  8.3%  1.2e-05  a cat by Noto\nwrote it",
            True,
        ),
        ("concept  gone  degree\nTwemoji  8.3%  0.1  a cat", False),
        ("concept  left  degree\nNoto  8.3%  0.1  a cat", False),
        ("concept  gone  degree\nNoto  -  0.1  a cat", False),
    ],
)
def test_an_output_is_the_same_but_for_its_numbers(printed, same):
    assert matches(TABLE, printed) == same


def test_each_paragraph_of_an_output_is_needed():
    assert matches("one\n\ntwo 1", "one\nthen\ntwo 2")
    assert not matches("one\n\ntwo 1", "one")


def test_blocks_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(
        "# A page\n\n    multierase ls --library lib\n\n```text\nlib: 2 increments\n```\n\n"
        "```shell\nmultierase a \\\n    --b c\nmultierase d\n```\n\n"
        "<!-- file: keep.txt -->\n\n```text\na cat\n```\n\n"
        "```yaml\n# set.yaml: a set\nerase: []\n```\n\n```python\nx = 1\n```\n"
    )
    monkeypatch.setattr(module, "ROOT", tmp_path)

    assert [(one.what, one.text.strip(), one.name) for one in snippets("page.md")] == [
        ("command", "multierase ls --library lib", ""),
        ("output", "lib: 2 increments", ""),
        ("command", "multierase a --b c", ""),
        ("command", "multierase d", ""),
        ("file", "a cat", "keep.txt"),
        ("file", "# set.yaml: a set\nerase: []", "set.yaml"),
        ("python", "x = 1", ""),
    ]


def test_a_block_that_nobody_runs_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("```powershell\nmultierase ls\n```\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)

    with pytest.raises(ValueError, match="line 1: nobody runs a block in 'powershell'"):
        snippets("page.md")


def commands() -> list[str]:
    every = [one for page in PAGES for one in snippets(page)]

    return [part for one in every if one.what == "command" for part in parts_of(one.text)]


def test_each_exception_is_of_a_command_that_is_there():
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands()), start


def test_pages_that_promise_files_exist():
    assert {*LEFT, *PEERS} <= set(PAGES)


def test_most_commands_are_run():
    run = [one for one in commands() if not any(one.startswith(start) for start in NOT_RUN)]

    assert len(run) > 60
    assert all(re.match(r"multierase |python scripts/", one) for one in run)


def test_the_hub_ids_of_the_pages_have_stand_ins():
    for page in PAGES:
        for one in snippets(page):
            if one.what in ("command", "python", "file"):
                ids = re.findall(r"(?<![\w/.-])[A-Za-z][\w-]+/[A-Za-z][\w.-]+-[\w.-]+", one.text)
                assert set(ids) - {"OWNER/NAME"} <= set(STAND_INS), (page, ids)
