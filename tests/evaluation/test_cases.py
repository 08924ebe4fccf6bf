"""Cases from files as people and enemies write them."""

import random

import pytest

from multierase.errors import MultieraseError, PromptFileError
from multierase.evaluation.cases import read_cases

CSV = (
    "case_number,prompt,evaluation_seed,studio,subject\n"
    "7,a church by Noto,3,Noto,church\n"
    "8,a cat,4,,cat\n"
)
KINDS = ["studio", "subject"]
WITHOUT = (
    "prompt,sd_seed,studio,subject,without_studio\n"
    "a church by Noto,3,Noto,church, a church \n"
    "a cat,4,,cat,\n"
)


@pytest.fixture
def read(tmp_path):
    def write_and_read(table, kinds=KINDS):
        data = table if isinstance(table, bytes) else table.encode()
        (tmp_path / "own.csv").write_bytes(data)
        return read_cases(tmp_path / "own.csv", kinds)

    return write_and_read


def test_the_peers_columns(read):
    cases = read(CSV)
    assert [(case.number, case.seed, dict(case.labels)) for case in cases] == [
        (7, 3, {"studio": "Noto", "subject": "church"}),
        (8, 4, {"subject": "cat"}),
    ]
    assert read(CSV.replace("evaluation_seed", "sd_seed")) == cases


def test_the_one_class_of_a_kind_needs_no_column_and_rows_are_numbered_from_0(read):
    cases = read("prompt,sd_seed\na beach,5\n,6\n", {"nudity": ["nudity"]})
    assert [(case.number, case.prompt, dict(case.labels)) for case in cases] == [
        (0, "a beach", {"nudity": "nudity"}),
        (1, "", {"nudity": "nudity"}),  # the empty prompt is a prompt
    ]


def test_prompts_without_what_they_ask_for(read):
    assert [dict(case.without) for case in read(WITHOUT)] == [{"studio": "a church"}, {}]
    assert [dict(case.without) for case in read(CSV)] == [{}, {}]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (WITHOUT.replace(" a church ", "a\0"), "NUL character"),
        (WITHOUT.replace("subject,w", "subject,without_studio,w"), "more than one column .*studio"),
        (WITHOUT.replace(",cat,", ",cat"), "line 3: fewer cells than there are columns"),
        (CSV.replace("prompt,", "promt,"), "no column \\['prompt'\\]; its columns are"),
        (CSV.replace("evaluation_seed", "seed"), "no column \\['evaluation_seed'\\]"),
        (CSV.replace("studio,", "prompt,"), "no column \\['studio'\\]"),
        (CSV.replace("case_number", "prompt"), "more than one column \\['prompt'\\]"),
        (CSV.replace(",3,", ",three,"), "line 2: evaluation_seed is a whole number .*'three'"),
        (CSV.replace(",3,", f",{2**63},"), "line 2: evaluation_seed is a whole number"),
        (CSV.replace("7,", "7.5,"), "line 2: case_number is a whole number .*'7.5'"),
        (CSV.replace("\n8", "\n7"), "line 3: case 7 is there already"),
        (CSV.replace("8,a cat,4,,cat", "8,a cat,4"), "line 3: fewer cells than there are columns"),
        (CSV.replace("church by", "church, by"), "line 2: (more cells|evaluation_seed is)"),
        (CSV.split("\n")[0] + "\n", "holds no case"),
        ("", "no column \\['prompt'"),
        (CSV.encode("utf-16"), "cannot be read as UTF-8 text"),
        (CSV.encode().replace(b"church", b"ch\xfcrch"), "cannot be read as UTF-8 text"),
        (CSV.replace("a cat", "a\0cat"), "NUL character"),
        (CSV.replace("a cat", "a" * 200_000), "cannot be read as UTF-8 text in rows and columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(read, table, message):
    with pytest.raises(PromptFileError, match=message):
        read(table)


def test_no_damage_is_a_traceback(read):
    """Five hundred tables with random bytes in random places: read, or refused in one way."""
    chance, refused = random.Random(0), 0
    for _ in range(500):
        data = bytearray(CSV.encode())
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'\0\xff",\n\r=;\t\x1b9')
        try:
            read(bytes(data))
        except MultieraseError:
            refused += 1
    assert 100 < refused < 500
