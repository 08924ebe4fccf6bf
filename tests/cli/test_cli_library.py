import json
import re
import shutil
from dataclasses import replace

import pytest

from multierase.increments.library import Library

pytestmark = pytest.mark.slow  # trains increments

HOSTILE = "\x1b]52;c;ZWNobw==\x07"


def damage(file):
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


def harmless(text):
    return all(char.isprintable() or char == "\n" for char in text)


def test_ls_lists_and_goes_on_after_a_bad_file(run, run_json, lib_copy):
    (lib_copy / "odd.safetensors").write_bytes(b"odd")
    report = run_json("ls", "--library", lib_copy)
    assert [row["concept"] for row in report["increments"]] == ["Noto", "Twemoji"]
    assert [row["file"] for row in report["problems"]] == [str(lib_copy / "odd.safetensors")]
    row = report["increments"][0]
    assert (row["method"], row["scope"], row["steps"]) == ("esd", "esd-x-strict", 4)
    assert row["bytes"] == (lib_copy / "noto.safetensors").stat().st_size

    code, out, _ = run("ls", "--library", lib_copy)
    assert code == 0
    assert "Noto" in out
    assert "odd.safetensors" in out
    assert "not a whole safetensors file" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_an_empty_library_says_what_to_type(run, tmp_path):
    code, out, err = run("ls", "--library", tmp_path)
    assert (code, out) == (0, "")
    assert "0 increments" in " ".join(err.split())
    assert f"next: multierase erase NAME --library {tmp_path}" in " ".join(err.split())


def test_ls_says_what_its_numbers_mean_and_json_has_no_more_than_its_object(run, lib):
    _, _, err = run("ls", "--library", lib)
    assert "gone: of unseen sentences, 100% is best" in err
    assert "degree: 1 on the base, 0 or less when the concept is gone" in err
    assert run("ls", "--library", lib, "--json")[2] == ""


def test_show_is_short_and_says_what_is_unlike_the_defaults(run, run_json, lib):
    shown = run_json("show", "Noto", "--library", lib)
    assert shown["steps"] == 4 == shown["stop"]["steps"]
    assert shown["settings"]["steps"] == 4
    assert shown["settings"]["beta"] == 1e-6
    assert shown["norm"] > 0
    assert shown["seed"] == 0

    code, out, _ = run("show", "Noto", "--library", lib)
    text = " ".join(out.split())
    assert code == 0
    assert "after 4 steps, stopped by steps; 1 on the base" in text
    settings = text[text.index(" settings ") :]
    for part in ("batch_size 2", "kind none", "learning_rate 0.01", "sampler_steps 4", "steps 4"):
        assert part in settings
        assert text.count(f" {part}") == 1
    for usual in ("beta", "eta", "rank", "seed", "momentum", "scope"):
        assert f" {usual} " not in settings
    assert len(out.splitlines()) < 24
    assert max(map(len, out.splitlines())) <= 80


def test_show_does_not_hide_the_steps_taken_behind_those_asked_for(run, run_json, tmp_path):
    flags = ("--steps", "50", "--stop-at", "0.99", "--batch-size", "2", "--sampler-steps", "4")
    run_json("erase", "Noto", "--library", tmp_path, *flags)
    report = run_json("show", "Noto", "--library", tmp_path)
    assert report["steps"] < 50 == report["settings"]["steps"]
    out = " ".join(run("show", "Noto", "--library", tmp_path)[1].split())
    assert f"after {report['steps']} steps, stopped by" in out
    assert "steps 50;" in out


def test_show_of_another_tools_file_counts_what_it_says_of_itself(run, lib_copy):
    library = Library(lib_copy)
    increment = library["Noto"]
    settings = {"modelspec.thumbnail": "data:" + "x" * 5000, "ss_network_dim": "4", "steps": 4}
    made = replace(increment.provenance, settings=settings)
    library.save(replace(increment, provenance=made), overwrite=True)
    _, out, _ = run("show", "Noto", "--library", lib_copy)
    assert "xxx" not in out
    assert "steps 4; 2 entries of the file that it came from" in " ".join(out.split())


def test_a_concept_is_renamed_with_its_file(run_json, said, lib_copy):
    before = Library(lib_copy)["Noto"]
    report = run_json("rename", "Noto", "Noto Emoji", "--library", lib_copy)
    assert report["file"] == str(lib_copy / "noto-emoji.safetensors")
    assert list(Library(lib_copy)) == ["Noto Emoji", "Twemoji"]
    assert not (lib_copy / "noto.safetensors").exists()
    assert Library(lib_copy)["Noto Emoji"] == before.named("Noto Emoji")

    for words, code, message in (
        (("Noto Emoji", "Twemoji"), 1, "already"),
        (("Noto Emoji", "twemoji"), 1, "holds the concept 'Twemoji'"),
        (("Noto", "x"), 1, "did you mean 'Noto Emoji'"),
        (("Noto Emoji",), 2, "given 1 names: multierase rename NAME NEW_NAME"),
        (("Noto Emoji", ""), 1, "name"),
    ):
        got, err = said("rename", *words, "--library", lib_copy)
        assert got == code, words
        assert message in err
    assert list(Library(lib_copy)) == ["Noto Emoji", "Twemoji"]


def test_concepts_are_removed_all_or_none(run, run_json, said, lib_copy):
    code, err = said("remove", "Noto", "Twemojj", "--library", lib_copy)
    assert code == 1
    assert "did you mean 'Twemoji'" in err
    assert list(Library(lib_copy)) == ["Noto", "Twemoji"]
    assert said("remove", "--library", lib_copy)[0] == 2

    report = run_json("remove", "Noto", "--library", lib_copy)
    assert report["removed"] == ["Noto"]
    assert list(Library(lib_copy)) == ["Twemoji"]
    code, _, err = run("remove", "Twemoji", "Twemoji", "--library", lib_copy)
    assert code == 0
    assert f"deleted {lib_copy / 'twemoji.safetensors'}" in " ".join(err.split())


def test_show_names_the_nearest(said, lib):
    code, err = said("show", "Notto", "--library", lib)
    assert code == 1
    assert "'Notto'; did you mean 'Noto'" in err
    assert said("show", "--library", lib)[0] == 2


def test_validate_is_sound(run, run_json, lib):
    assert run_json("validate", "--library", lib)["sound"] is True
    code, out, _ = run("validate", "--library", lib)
    assert code == 0
    assert "noto.safetensors" in out


def test_validate_finds_a_damaged_file_and_goes_on(run, lib_copy):
    damage(lib_copy / "noto.safetensors")
    code, out, _ = run("validate", "--library", lib_copy, "--json")
    report = json.loads(out)
    assert code == 1
    by_name = {row["file"].rsplit("/")[-1]: row["sound"] for row in report["files"]}
    assert by_name == {"noto.safetensors": False, "twemoji.safetensors": True}

    code, out, _ = run("validate", "--library", lib_copy)
    assert code == 1
    assert "damaged" in out
    assert "twemoji.safetensors" in out


def test_validate_finds_a_file_of_another_base(run, lib, tiny, tmp_path):
    tiny.pipeline.save_pretrained(tmp_path / "base")
    code, out, _ = run("validate", "--library", lib, "--base", tmp_path / "base", "--json")
    assert code == 1
    assert not any(row["sound"] for row in json.loads(out)["files"])


def test_compressed_files_are_a_library_of_their_own(run, run_json, lib, tmp_path):
    small = tmp_path / "small"
    report = run_json("compress", "--library", lib, "--out", small)
    assert [row["concept"] for row in report["increments"]] == ["Noto", "Twemoji"]
    assert all(row["bytes"] < row["bytes_before"] for row in report["increments"])
    assert all(0 <= row["error"] <= 0.05 for row in report["increments"])
    assert list(Library(small)) == ["Noto", "Twemoji"]
    assert run_json("validate", "--library", small)["sound"] is True

    one = run_json("compress", "Noto", "--library", lib, "--out", tmp_path / "one")
    assert [row["concept"] for row in one["increments"]] == ["Noto"]
    code, out, err = run("compress", "--library", lib, "--out", tmp_path / "table")
    assert code == 0
    assert "norm lost" in out
    assert f"next: multierase validate --library {tmp_path / 'table'}" in " ".join(err.split())


def test_compressing_nothing_makes_no_folder(said, tmp_path):
    (tmp_path / "empty").mkdir()
    code, err = said("compress", "--library", tmp_path / "empty", "--out", tmp_path / "small")
    assert code == 2
    assert "there is nothing to compress" in err
    assert not (tmp_path / "small").exists()


def test_compress_does_not_overwrite_unasked(run_json, said, lib_copy):
    before = {path.name: path.read_bytes() for path in lib_copy.iterdir()}
    code, err = said("compress", "--library", lib_copy, "--out", lib_copy)
    assert code == 1
    assert "--overwrite" in err
    assert {path.name: path.read_bytes() for path in lib_copy.iterdir()} == before

    run_json("compress", "--library", lib_copy, "--out", lib_copy, "--overwrite")
    assert (lib_copy / "noto.safetensors").read_bytes() != before["noto.safetensors"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--dtype", "int4"], 2, "--dtype 'int4'"),
        (["--error", "-1"], 1, "error"),
        (["Notto"], 1, "did you mean 'Noto'"),
    ],
)
def test_what_compress_refuses(said, lib, tmp_path, flags, code, message):
    got, err = said("compress", *flags, "--library", lib, "--out", tmp_path / "small")
    assert got == code
    assert message in err


def test_crosstalk(run, run_json, lib, tmp_path):
    picture = tmp_path / "matrix.png"
    report = run_json("crosstalk", "--library", lib, "--out", picture)
    table = report["crosstalk"]
    assert set(table) == {"Noto", "Twemoji"}
    assert set(table["Noto"]) == {"Noto", "Twemoji", "(kept)"}
    assert 0 < table["Noto"]["Twemoji"] < table["Noto"]["Noto"]
    assert report["relative"]["Noto"]["Noto"] == 1.0
    assert report["entangled"] == []
    assert picture.exists()

    code, out, _ = run("crosstalk", "--library", lib)
    assert code == 0
    assert "1.00" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_missing_library_is_told(said, tmp_path):
    for verb in (["ls"], ["show", "Noto"], ["validate"], ["crosstalk"]):
        code, err = said(*verb, "--library", tmp_path / "no")
        assert code == 1
        assert "no library folder" in err


def test_a_hostile_path_is_shown_and_not_obeyed(run, lib, tmp_path):
    folder = tmp_path / f"[x]{HOSTILE}"
    shutil.copytree(lib, folder / "lib")
    (folder / "lib" / f"[red]{HOSTILE}.safetensors").write_bytes(b"odd")
    verbs = [["ls"], ["show", "Noto"], ["validate"], ["compress", "--out", folder / "small"]]
    for verb in verbs:
        code, out, err = run(*verb, "--library", folder / "lib")
        assert code in (0, 1), err
        assert harmless(out)
        assert harmless(err)
        assert "this is a bug" not in err
        assert "\\x1b]52" in re.sub(r"\s", "", out + err)  # folded, it may be on two lines


def test_hostile_metadata_is_shown_and_not_obeyed(run, lib_copy):
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = lib_copy / "noto.safetensors"
    with safe_open(file, "pt") as opened:
        body = json.loads(opened.metadata()["multierase"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    body["provenance"]["scope"] = f"[/x]{HOSTILE}"
    body["base"]["name"] = f"[link=x]{HOSTILE}"
    save_file(tensors, file, metadata={"multierase": json.dumps(body)})
    for verb in (["ls"], ["show", "Noto"], ["validate"]):
        code, out, err = run(*verb, "--library", lib_copy)
        assert code in (0, 1)
        assert harmless(out)
        assert harmless(err)
        assert "this is a bug" not in err
