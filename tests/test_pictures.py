"""Sheets, matrices and files of pictures."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from multierase.errors import MissingExtra, WriteError
from multierase.pictures import (
    WIDEST,
    comparison,
    contact_sheet,
    erased_in_words,
    matrix_picture,
    require_picture_name,
    save_picture,
    to_picture,
)

GREYS = torch.stack([torch.full((3, 64, 64), value) for value in (0.0, 0.25, 0.5, 0.75)])


def test_a_sheet_places_pictures_row_by_row():
    sheet = contact_sheet(GREYS, 2)
    centres = [sheet.getpixel((x, y))[0] for y in (64, 196) for x in (64, 196)]
    assert centres == [0, 64, 128, 191]


def test_labels_move_the_pictures_and_are_drawn():
    plain = contact_sheet(GREYS, 2)
    labelled = contact_sheet(
        GREYS, 2, row_labels=["base", "erased"], column_labels=["a church", "a cat by Noto " * 4]
    )
    left, top = (a - b for a, b in zip(labelled.size, plain.size, strict=True))
    assert left > 12
    assert top > 8 + 17  # the long label is wrapped
    place = left, top, *labelled.size
    assert np.array_equal(np.asarray(labelled.crop(place)), np.asarray(plain))
    margin = np.asarray(labelled.crop((0, 0, labelled.size[0], top)))
    assert (margin < 128).any()


@pytest.mark.parametrize(
    "label", ["\x1b]52;c;aGk=\x07", "a\x00b", "\udc80", "ピカチュウ", "[/x]", "a\nb", "\u202eabc"]
)
def test_odd_characters_on_a_sheet(label):
    sheet = contact_sheet(GREYS[:1], 1, row_labels=[label], column_labels=[label])
    assert sheet.size[0] >= 132


def test_long_row_labels_are_wrapped_and_stay_in_their_rows():
    names = [f"a studio with number {number}" for number in range(9)]
    sheet = contact_sheet(GREYS[:2], 1, row_labels=["base", ", ".join(names)])
    left = sheet.size[0] - 132
    assert 60 < left <= WIDEST + 12
    labels = np.asarray(sheet.convert("L").crop((0, 0, left, sheet.size[1]))) < 128
    assert labels[:132].any()
    assert labels[132:].any()


@pytest.mark.parametrize(
    ("erased", "words"),
    [
        ({}, "base"),
        ({"Noto": 1.0}, "Noto erased"),
        ({"Noto": 0.5, "Twemoji": 1.0}, "Noto 0.5, Twemoji erased"),
        ({"Noto": -1.0}, "Noto -1 erased"),
    ],
)
def test_what_is_erased_in_words(erased, words):
    assert erased_in_words(erased) == words


def test_a_comparison_has_a_row_for_each_seed_and_state():
    """Two seeds of two prompts: 0, 0.25 / 0.5, 0.75 on the base; one less of each erased."""
    states = {"base": GREYS, "Noto erased": 1 - GREYS}
    sheet = comparison(states, ["a", "b"], [3, 4])
    left, top = sheet.size[0] - 2 * 132, sheet.size[1] - 4 * 132
    centres = []
    for row in range(4):
        places = [(left + 132 * column + 64, top + 132 * row + 64) for column in range(2)]
        centres.append([sheet.getpixel(place)[0] for place in places])
    assert centres == [[0, 64], [255, 191], [128, 191], [128, 64]]
    assert top > 8
    assert left > 12


def test_pixels_are_rounded_and_clamped():
    values = torch.tensor([-1.0, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 2.0])
    picture = to_picture(values.expand(3, 1, 6))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


TABLE = {
    "$a": {"$a": 1.0, "b_1^2": 0.25, "\x1b[31mred": 0.0},
    "cost $5 and $6": {"$a": 0.5, "b_1^2": 1.0, "\x1b[31mred": 0.75},
}


@pytest.mark.parametrize("title", ["price", "in $ and \\frac, {x}", "$\\frac$", "$5_ or $6^"])
def test_a_matrix_with_names_that_are_no_formulas(title):
    picture = matrix_picture(TABLE, title)
    assert picture.mode == "RGB"
    assert min(picture.size) > 100


@pytest.mark.parametrize("columns", [1, 12])
def test_a_long_title_is_wrapped_and_not_cut(columns):
    names = [f"c{number}" for number in range(columns)]
    table = {name: dict.fromkeys(names, 0.0) for name in names}
    title = " ".join(["how much a row's increment moves a column's tokens"] * 4)
    picture = np.asarray(matrix_picture(table, title).convert("L"))
    plot = int((picture < 128).mean(1).argmax())  # the frame's upper edge is the first dark line
    head = picture[: plot - 5]
    assert (head < 128).any()
    assert (head[:, :3] > 200).all()
    assert (head[:, -3:] > 200).all()


def test_a_matrix_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'multierase\[plots\]'"):
        matrix_picture(TABLE, "x")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "PNG"])
def test_pictures_are_written_in_the_format_of_their_name(tmp_path, suffix):
    path = tmp_path / "new" / f"x.{suffix}"
    save_picture(Image.new("RGB", (4, 4), "red"), path)
    with Image.open(path) as written:
        assert written.size == (4, 4)
        assert written.format.lower().startswith(suffix.lower()[:2])


@pytest.mark.parametrize("name", ["x.txt", "x", "x.", "x.pdb", "png"])
def test_a_name_that_is_no_picture_is_refused_before_any_work(tmp_path, name):
    class Untouched:
        def save(self, *_):
            pytest.fail("it draws")

    with pytest.raises(ValueError, match=r"give a name that ends in \.png"):
        require_picture_name(name)
    with pytest.raises(ValueError, match=r"give a name that ends in \.png"):
        save_picture(Untouched(), tmp_path / "new" / name)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save_picture(Image.new("RGB", (4, 4), "red"), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match="No space left on device"):
        save_picture(Image.new("RGB", (8, 8), "blue"), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]
