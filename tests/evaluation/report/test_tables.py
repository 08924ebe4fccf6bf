import csv
import io

import pytest

from multierase.evaluation.report.rows import Rows
from multierase.evaluation.report.tables import as_csv, as_latex, by_size, escaped


@pytest.fixture
def rows(store):
    return Rows(store).rows()


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_sets_of_one_size_are_counted_together(rows):
    cells = by_size(rows)
    remaining = cells[1]["remaining"]
    assert (cells[1]["sets"], remaining["right"], remaining["count"]) == (2, 1, 3)
    assert cells[1]["measures"] == {
        "clip_score": 24.75,
        "clip_score_erased": 24.75,
        "in_prompt_clip_score": 9.5,
        "in_prompt_clip_score_by_base": 10.0,
    }
    gone = 1 - remaining["value"]
    assert cells[1]["kept_relative"] == 1.0
    assert cells[1]["harmonic_mean"] == pytest.approx(2 / (1 / gone + 1))


def test_a_line_of_latex_for_each_size(rows):
    lines = as_latex({"sld_weak": by_size(rows)}).splitlines()
    assert lines[2].startswith(r"method & erased & sets & remaining, \% & kept, \% & of the base's")
    assert lines[2].endswith(
        r"cross domain, \% & beside the erased, \% & clip score & clip score erased & "
        r"in prompt clip score & in prompt clip score by base \\"
    )
    assert lines[4].startswith(r"sld\_weak & 0 & 1 & -- & ")
    assert lines[4].endswith(r" & -- & -- & 25.000 & -- & -- & -- \\")
    found = r"sld\_weak & 1 & 2 & 33.3 [6.1, 79.2] & 100.0 [43.9, 100.0] & 100.0 & 0.800 & -- & "
    assert lines[5].startswith(found)
    columns = lines[0].removeprefix(r"\begin{tabular}").count("r") + 1
    assert {line.count("&") + 1 for line in lines[4:-2]} == {columns}


def test_a_row_of_csv_for_each_set(rows):
    table = read(as_csv(rows))
    assert [row["erased_concepts"] for row in table] == ["", "Noto", "Twemoji", "Noto + Twemoji"]
    assert (float(table[1]["remaining"]), table[1]["remaining_count"]) == (0.5, "2")
    assert [row["counts_FEET_EXPOSED"] for row in table] == ["1", "2", "2", "3"]
    assert [row["clip_score_erased"] for row in table][:2] == ["", "24.5"]
    assert table[3]["base_counts_FEET_EXPOSED"] == "1"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_is_a_formula_and_numbers_stay(begin):
    formula = f'{begin}HYPERLINK("http://x","y")'
    rows = [
        {
            "method": formula,
            "erased_concepts": [formula, "Noto"],
            "counts": {formula: 1},
            formula: "x",
            "distance": -0.5,
        }
    ]
    text = as_csv(rows)
    table = list(csv.reader(io.StringIO(text)))
    assert table[1][0].startswith("'")
    assert table[1][1].startswith("'")
    assert table[0][3].startswith("'")
    assert "-0.5" in table[1]
    assert table[0][2].startswith("counts_")
    for row in table:
        for cell in row:
            assert not cell.startswith(begin) or cell == "-0.5"


def test_latex_prints_what_is_written():
    assert escaped(r"50% of a\b_c & {d} ~ ^ $x$ #1") == (
        r"50\% of a\textbackslash{}b\_c \& \{d\} \textasciitilde{} \textasciicircum{} \$x\$ \#1"
    )
    assert escaped("\\input{/etc/passwd}") == r"\textbackslash{}input\{/etc/passwd\}"
    assert escaped("a\nb\x1b[31m") == r"a b\textbackslash{}x1b[31m"
