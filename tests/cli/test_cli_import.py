"""``multierase import``: what it prints; bad input is said in one line and leaves nothing."""

from __future__ import annotations

import os
import pickle

import peers_by_hand as peers
import pytest
import torch
from families import tiny_model
from peers_by_hand import HEADER, factors, numbers, random_deltas, trained
from safetensors.torch import save_file

from multierase import Library

QUIET = ("--kind", "none", "--device", "cpu")


@pytest.fixture(scope="module")
def esd_file(emoji, tmp_path_factory):
    """ESD's file for the embedded base, of cross-attention."""
    weights = trained(emoji, random_deltas(emoji, "esd-x"), torch.bfloat16)
    return peers.esd(weights, tmp_path_factory.mktemp("esd") / "esd.safetensors", HEADER)


def test_a_file_becomes_an_increment_and_says_what_it_is(run, run_json, esd_file, tmp_path):
    lib = tmp_path / "lib"
    report = run_json("import", esd_file, "--concept", "Noto", "--library", lib, *QUIET)
    increment = Library(lib)["Noto"]
    assert report["file"] == str(lib / "noto.safetensors")
    assert report["source"] == str(esd_file)
    assert report["from"] == "ESD's weights, erasing-esd-v2"
    assert (report["method"], report["scope"], report["dtype"]) == ("esd", "esd-x", "bfloat16")
    assert report["parameters"] == len(increment.deltas)
    assert report["summed"] == len(increment.deltas) - len(increment.readers)
    assert (report["concepts"], report["separable"]) == (["Noto"], True)
    assert report["certificate"] is None

    # Another concept: the header's is named, and what cannot be separated is said.
    code, out, err = run("import", esd_file, "--concept", "Emoji", "--library", lib, *QUIET)
    assert code == 0
    assert "says that it erases ['noto']" in err
    assert "do not read the text alone: when composed they are summed" in " ".join(err.split())
    assert "esd-x" in out
    assert "bfloat16" in out

    code, out, _ = run("show", "Noto", "--library", lib)
    assert code == 0
    assert "imported from esd.safetensors: ESD's weights" in " ".join(out.split())


def test_a_set_is_imported_whole_or_by_one_concepts_part(run, esd_file, tmp_path):
    lib, also = tmp_path / "lib", ("--also", "Twemoji", "Firefox")
    code, out, err = run("import", esd_file, "--concept", "Noto", *also, "--library", lib, *QUIET)
    assert code == 0
    assert "Noto, Twemoji, Firefox" in out
    assert "a set of 3 concepts, not separable" in " ".join(err.split())
    assert "--project takes one concept's part out of it" in " ".join(err.split())

    more = (*also, "--library", lib, "--project", "--overwrite", *QUIET)
    code, out, err = run("import", esd_file, "--concept", "Noto", *more)
    assert code == 0
    assert "this one's part alone, with" in " ".join(err.split())
    assert "effect kept" in out
    increment = Library(lib)["Noto"]
    assert set(increment.deltas) == set(increment.readers)


def test_what_is_there_is_not_replaced_unasked(said, esd_file, tmp_path):
    (tmp_path / "noto.safetensors").write_bytes(b"precious")
    code, err = said("import", esd_file, "--concept", "Noto", "--library", tmp_path, *QUIET)
    assert code == 1
    assert "--overwrite" in err
    assert (tmp_path / "noto.safetensors").read_bytes() == b"precious"


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def other_architecture(tokenizer, path):
    model = tiny_model("flux", tokenizer)
    peers.esd(trained(model, random_deltas(model, "esd-x")), path)


def bad_files(emoji, tokenizer, path):
    """Return by name what makes a bad file, and what is said of it."""
    name = emoji.scope_parameters("esd-x-strict")[0]
    pair = numbers(8, 1), numbers(1, 8)

    return {
        "another architecture": (
            lambda: other_architecture(tokenizer, path),
            "was made for a model of another architecture",
        ),
        "an unknown format": (
            lambda: save_file({"a": numbers(2), "b": numbers(2)}, path),
            "is of no format that is known",
        ),
        "no weights": (lambda: path.write_text("a text, and nothing else"), "it begins with"),
        "code": (lambda: torch.save({"a": Hostile()}, path), "wants to run code"),
        "plain pickle": (lambda: path.write_bytes(pickle.dumps([1])), "holds more than tensors"),
        "other modules": (
            lambda: peers.kohya({"unet.no.such.weight": pair}, path),
            "'lora_unet_no_such'",
        ),
        "another size": (lambda: peers.esd({name: numbers(4, 4)}, path), "of another size"),
        "the base itself": (
            lambda: peers.esd(trained(emoji, {name: torch.zeros(())}), path),
            "its weights are the base's own",
        ),
        "an own increment": (
            lambda: save_file({"a": numbers(2)}, path, {"multierase": '{"format_version": 2}'}),
            "copy it into the library",
        ),
        "nothing": (lambda: None, "no file or folder"),
    }


BAD = (
    "another architecture",
    "an unknown format",
    "no weights",
    "code",
    "plain pickle",
    "other modules",
    "another size",
    "the base itself",
    "an own increment",
    "nothing",
)


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_said_in_one_line_and_leave_nothing(
    said, emoji, tokenizer, tmp_path, monkeypatch, case
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x"
    cases = bad_files(emoji, tokenizer, path)
    assert tuple(cases) == BAD
    make, told = cases[case]
    make()
    before = sorted(os.listdir(tmp_path))
    code, err = said("import", path, "--concept", "Noto", "--library", "lib/in", *QUIET)
    assert code == 1
    assert told in err
    assert str(path) in err
    assert sorted(os.listdir(tmp_path)) == before


def test_a_missing_base_leaves_nothing(said, esd_file, tmp_path):
    lib = tmp_path / "lib"
    base = ("--base", str(tmp_path / "nowhere"))
    code, err = said("import", esd_file, "--concept", "Noto", "--library", lib, *base)
    assert code == 1
    assert "nowhere" in err
    assert not lib.exists()


def test_a_relative_file_asks_for_its_model(said, emoji, tmp_path):
    found = factors(emoji, emoji.scope_parameters("esd-x-strict"), 1)
    path = peers.mace(found, tmp_path / "mace.safetensors")
    code, err = said("import", path, "--concept", "Noto", "--library", tmp_path / "lib", *QUIET)
    assert code == 1
    assert "--refined FOLDER" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--concept", "Noto", "--library", "lib"), "name a file or a folder"),
        (("x", "--library", "lib"), "--concept is missing"),
        (("x", "--concept", "Noto"), "--library is missing"),
        (("x", "--concept", "Noto", "--library", "lib", "--also", "a", "a"), "given twice"),
        (("x", "--concept", "Noto", "--library", "lib", "--projekt"), "did you mean 'project'"),
    ],
)
def test_what_is_missing_or_wrong_is_said(said, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, err = said("import", *arguments)
    assert code == 2
    assert told in err
    assert os.listdir(tmp_path) == []
