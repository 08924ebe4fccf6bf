"""A folder of increments: a mapping that one odd file never takes down."""

from __future__ import annotations

import logging
import os
import shutil
import time

import pytest
from making import A, B, make

from multierase import Library
from multierase.errors import (
    AlreadyThere,
    IncrementFileError,
    UnknownConcept,
    UsageError,
    WriteError,
)
from multierase.increments import header as header_module
from multierase.increments import library as library_module


@pytest.fixture
def library(tmp_path) -> Library:
    library = Library(tmp_path / "lib", create=True)
    for seed, name in enumerate(("Noto", "Fluent Flat")):
        library.save(make(name, seed))

    return library


def test_a_library_is_a_mapping(library):
    assert list(library) == ["Fluent Flat", "Noto"]
    assert len(library) == 2
    assert library["Noto"] == make("Noto", 0)
    assert dict(library) == {"Noto": make("Noto", 0), "Fluent Flat": make("Fluent Flat", 1)}
    assert library.path("Fluent Flat").name == "fluent-flat.safetensors"
    assert library.headers()["Noto"].base.name == "base"

    library.remove("Noto")
    assert list(library) == ["Fluent Flat"]
    with pytest.raises(UnknownConcept):
        library.remove("Noto")


def test_a_concept_gets_another_name(library):
    before = library["Noto"]
    assert library.rename("Noto", "Google's") == library.path("Google's")
    assert list(library) == ["Fluent Flat", "Google's"]
    assert library["Google's"] == before.named("Google's")
    assert sorted(path.name for path in library.folder.iterdir()) == [
        "fluent-flat.safetensors",
        library.path("Google's").name,
    ]


def test_names_of_one_file_can_take_each_others_place(library):
    library.rename("Noto", "NOTO")
    assert list(library) == ["Fluent Flat", "NOTO"]
    assert library.path("Noto") == library.path("NOTO")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("Noto", "Fluent Flat", AlreadyThere),
        ("Noto", "fluent flat", AlreadyThere),
        ("Notto", "x", UnknownConcept),
        ("Noto", "", ValueError),
        ("Noto", "x" * 400, (ValueError, WriteError)),
    ],
)
def test_a_name_that_cannot_be_given_changes_nothing(library, old, new, error):
    before = {path.name: path.read_bytes() for path in library.folder.iterdir()}
    with pytest.raises(error):
        library.rename(old, new)
    assert {path.name: path.read_bytes() for path in library.folder.iterdir()} == before


def test_a_rename_that_fails_keeps_the_old_file(library, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = library.path("Noto").read_bytes()
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match="No space left"):
        library.rename("Noto", "x")
    assert library.path("Noto").read_bytes() == before
    assert list(library) == ["Fluent Flat", "Noto"]


@pytest.mark.parametrize(
    "name",
    ["noto", "NOTO", "fluent-flat", "", " ", "x" * 400, "a/b", "\x00", "\ud800", 3, None, ("a",)],
)
def test_only_the_exact_name_is_in_it(library, name):
    assert name not in library
    assert library.get(name) is None if isinstance(name, str) else True


def test_reading_again_is_only_done_when_a_file_has_changed(library, monkeypatch):
    read = []
    original = library_module.read_header
    monkeypatch.setattr(
        library_module, "read_header", lambda path: read.append(path) or original(path)
    )
    fresh = Library(library.folder)

    assert fresh["Noto"] is fresh["Noto"]
    list(fresh)
    list(fresh)
    assert len(read) == 2

    library.save(make("Noto", 7), overwrite=True)
    read.clear()
    assert fresh["Noto"] == make("Noto", 7)
    assert read == [library.path("Noto")]


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no library folder .*makes one"):
        Library(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    for create in (False, True):
        with pytest.raises((FileNotFoundError, WriteError), match="library folder"):
            Library(tmp_path / "file", create=create)


def test_an_unknown_concept_gets_the_nearest_name(library):
    with pytest.raises(
        UnknownConcept, match="'Notto'; did you mean 'Noto'.*it holds .*Fluent Flat"
    ):
        library["Notto"]
    with pytest.raises(UnknownConcept, match="'a'.*'b'"):
        library.require(["Noto", "a", "b"])
    with pytest.raises(KeyError):
        library.header("x")


def test_an_unknown_concept_with_a_damaged_file_gets_the_reason(library):
    library.path("Noto").write_bytes(b"x" * 100)
    with pytest.raises(
        UnknownConcept, match="not in library.*'Noto'.*not a whole safetensors file"
    ):
        library["Noto"]
    with pytest.raises(UnknownConcept, match="not a whole"):
        library.header("Noto")


def test_one_odd_file_leaves_its_neighbours(library, caplog):
    folder = library.folder
    (folder / "damaged.safetensors").write_bytes(b"not one")
    (folder / "folder.safetensors").mkdir()
    (folder / "link.safetensors").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.safetensors")
    shutil.copy(library.path("Noto"), folder / "copy.safetensors")
    (folder / ".noto.safetensors").write_bytes(b"hidden files are nobody's")
    (folder / "notes.txt").write_text("and neither are others")

    fresh = Library(folder)
    assert list(fresh) == ["Fluent Flat", "Noto"]
    assert fresh["Noto"] == make("Noto", 0)
    found = {path.name: why for path, why in fresh.problems().items()}
    assert found.keys() == {
        f"{stem}.safetensors" for stem in ("damaged", "folder", "link", "pipe", "copy")
    }
    assert "holds the concept 'Noto', whose file is noto.safetensors" in found["copy.safetensors"]
    assert "is no file" in found["pipe.safetensors"]
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == len(found)


def test_who_asks_for_problems_is_not_warned_of_them(library, caplog):
    (library.folder / "damaged.safetensors").write_bytes(b"not one")
    library.problems()
    list(library)
    assert caplog.records == []


def test_numbers_that_are_damaged_leave_the_header_and_the_neighbours(library):
    path = library.path("Noto")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert list(library) == ["Fluent Flat", "Noto"]  # the header is sound
    with pytest.raises(IncrementFileError, match="noto.safetensors is damaged"):
        library["Noto"]
    assert library["Fluent Flat"] == make("Fluent Flat", 1)


def test_a_file_that_cannot_be_read_is_a_problem(library, monkeypatch):
    """We may be root, who can read everything."""
    original = header_module.read_container

    def denied(path):
        if path.name == "noto.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(header_module, "read_container", denied)
    fresh = Library(library.folder)
    assert list(fresh) == ["Fluent Flat"]
    assert "Permission denied" in fresh.problems()[library.path("Noto")]


# ---- before anything is trained


def test_targets_are_checked_before_any_work(library):
    with pytest.raises(AlreadyThere, match="'Noto' is in library .* already: .*--overwrite"):
        library.check_targets(["Twemoji", "Noto"])
    with pytest.raises(AlreadyThere, match="holds the concept 'Noto': give 'NOTO' another name"):
        library.check_targets(["NOTO"])
    with pytest.raises(UsageError, match="given twice"):
        library.check_targets(["a", "a"])
    with pytest.raises(UsageError, match="'Dali' and 'dali' would both be stored"):
        library.check_targets(["Dali", "dali"])
    with pytest.raises(ValueError, match="at most 200"):
        library.check_targets(["x" * 260])
    library.check_targets(["Twemoji"])
    library.check_targets(["Noto"], overwrite=True)
    assert len(list(library.folder.iterdir())) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_concepts_file_is_never_replaced(library, overwrite):
    before = library.path("Noto").read_bytes()
    with pytest.raises(AlreadyThere, match="holds the concept 'Noto': give 'NOTO' another name"):
        library.check_targets(["NOTO"], overwrite=overwrite)
    with pytest.raises(AlreadyThere, match="holds the concept 'Noto': give 'NOTO' another name"):
        library.save(make("NOTO", 5), overwrite=overwrite)
    assert library.path("Noto").read_bytes() == before


def test_a_damaged_file_is_replaced_on_request_only(library):
    library.path("Noto").write_bytes(b"damaged")
    for refused in (lambda: library.check_targets(["Noto"]), lambda: library.save(make("Noto", 5))):
        with pytest.raises(AlreadyThere, match="is there and is no sound increment: replace it"):
            refused()
    library.check_targets(["Noto"], overwrite=True)
    library.save(make("Noto", 5), overwrite=True)
    assert library["Noto"] == make("Noto", 5)


def test_a_folder_in_the_way_is_told(library):
    (library.folder / "x.safetensors").mkdir()
    with pytest.raises(AlreadyThere):
        library.check_targets(["x"])
    with pytest.raises(WriteError, match="is a folder: remove it"):
        library.check_targets(["x"], overwrite=True)
    with pytest.raises(WriteError, match="cannot write"):
        library.save(make("x"), overwrite=True)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(library, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(WriteError, match="cannot write into .*lib: Permission denied"):
        library.check_targets(["Twemoji"])


# ---- speed


@pytest.fixture(scope="module")
def five_hundred(tmp_path_factory) -> Library:
    """Make increments of the embedded base's size, and as much said of each."""
    library = Library(tmp_path_factory.mktemp("many"))
    sentences = tuple(f"a picture of subject number {i} by somebody" for i in range(110))
    one = make(
        "number 0",
        names=(A, B),
        factored=(A, B),
        shape=(900, 256),
        rank=75,
        prompts=sentences,
        contexts=sentences,
    )
    for number in range(500):
        library.save(one.named(f"number {number}"))

    return Library(library.folder)


@pytest.mark.slow
def test_five_hundred_headers_are_read_at_once(five_hundred):
    started = time.process_time()
    assert len(five_hundred.headers()) == 500
    assert five_hundred.problems() == {}
    assert time.process_time() - started < 1.0  # 0.3 s on an idle core

    started = time.process_time()
    assert len(five_hundred) == 500
    assert time.process_time() - started < 0.2


@pytest.mark.slow
def test_five_hundred_increments_are_loaded_within_seconds(five_hundred):
    started = time.process_time()
    for name in five_hundred:
        five_hundred[name].grams["tokens"]
    assert time.process_time() - started < 4.0  # 1 s on an idle core
