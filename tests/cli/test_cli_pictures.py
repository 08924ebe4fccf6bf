import json

import numpy as np
import pytest
import torch
from PIL import Image

from multierase.cli.requests import strengths_of
from multierase.errors import UsageError

pytestmark = pytest.mark.slow  # many pictures and programs

FEW = ("--inference-steps", "2")


def test_strengths():
    names = {"Noto", "a=b", "a"}
    assert strengths_of(["Noto=0.5", "Twemoji"], names) == {"Noto": 0.5, "Twemoji": 1.0}
    assert strengths_of(["a=b"], names) == {"a=b": 1.0}  # the whole string is a name
    assert strengths_of(["a=b=2"], names) == {"a=b": 2.0}  # the last = parts the strength
    assert strengths_of(["a=1e-3", "Noto", "Noto=1"], names) == {"a": 1e-3, "Noto": 1.0}
    with pytest.raises(UsageError, match=r"NAME or NAME=STRENGTH.*no concept of the whole name"):
        strengths_of(["Noto=much"], names)
    with pytest.raises(UsageError, match="'Noto' the strengths 0.5 and 1: decide for one"):
        strengths_of(["Noto=0.5", "Noto"], names)


@pytest.mark.parametrize(
    "erase",
    [
        ("--erase", "Twemoji", "Noto=0.5"),
        ("--erase", "Twemoji", "--erase", "Noto=0.5"),
    ],
)
def test_generate_with_concepts_erased(run_json, lib, tmp_path, erase):
    out = tmp_path / "sheet.png"
    prompts = ("a church by Noto", "a cat by Twemoji")
    flags = ("--library", lib, *erase, "--seed", "3", "--images", "2", "--out", out, *FEW)
    report = run_json("generate", *prompts, *flags)
    assert report["erased"] == {"Noto": 0.5, "Twemoji": 1.0}
    assert report["seeds"] == [3, 3, 4, 4]
    assert set(report["deviations"]) == {"Noto", "Twemoji"}
    assert out.exists()


def test_generate_prints_what_is_erased_and_replaces_its_picture(run, lib, tmp_path):
    out = tmp_path / "sheet.png"
    out.write_bytes(b"old")
    flags = ("--library", lib, "--erase", "Noto=0.5", "--out", out, *FEW)
    code, printed, err = run("generate", "a church", *flags)
    assert code == 0
    assert "Noto" in printed
    assert f"wrote {out}, with rows: Noto 0.5 erased" in err.replace("\n", "")
    assert out.read_bytes()[1:4] == b"PNG"


def test_generate_needs_no_library_and_says_that_nothing_is_erased(run, run_json, tmp_path):
    report = run_json("generate", "a church", "--out", tmp_path / "x.png", *FEW)
    assert (report["erased"], report["deviations"], report["rows"]) == ({}, {}, ["base"])
    _, _, err = run("generate", "a church", "--out", tmp_path / "x.png", "--compare", *FEW)
    assert "nothing is erased: these are the base's pictures" in " ".join(err.split())


def test_compare_puts_the_bases_pictures_above(run_json, lib, tmp_path, emoji):
    prompts = ("a church by Noto", "a cat by Twemoji")
    flags = ("--library", lib, "--erase", "Twemoji", "Noto=0.5", "--images", "2", *FEW)
    sheets = {}
    for name, compare in (("one", ()), ("both", ("--compare",))):
        out = tmp_path / f"{name}.png"
        report = run_json("generate", *prompts, *flags, *compare, "--out", out)
        with Image.open(out) as sheet:
            sheets[name] = np.asarray(sheet.convert("RGB")).astype(int)
    assert report["rows"] == ["base", "Noto 0.5, Twemoji erased"]

    # A row of the sheet is 128 pixels and a gap; the labels above are the same.
    one, both = sheets["one"], sheets["both"]
    row, wide = 132, 2 * 132
    top = one.shape[0] - 2 * row
    assert both.shape[0] == top + 4 * row
    rows = [both[top + at * row : top + (at + 1) * row, -wide:] for at in range(4)]
    erased = [one[top + at * row : top + (at + 1) * row, -wide:] for at in range(2)]
    assert np.array_equal(rows[1], erased[0])
    assert np.array_equal(rows[3], erased[1])

    from multierase.pictures import contact_sheet
    from multierase.sampling import SamplingSettings
    from multierase.workspace import Workspace

    drawn = Workspace(None, emoji).generate(prompts, [0, 0], SamplingSettings(inference_steps=2))
    base = np.asarray(contact_sheet(drawn, 2)).astype(int)
    assert abs(rows[0] - base).max() <= 1  # another batch has other last bits
    assert abs(rows[0] - rows[1]).max() > 10


def test_generate_in_another_resolution(run_json, tmp_path):
    widths = []
    for resolution in ("32", "64"):
        out = tmp_path / f"{resolution}.png"
        run_json("generate", "a church", "--out", out, "--resolution", resolution, *FEW)
        with Image.open(out) as sheet:
            widths.append(sheet.width)
    # Such small pictures are shown at twice their size.
    assert widths[1] - widths[0] == 2 * (64 - 32)


def test_a_name_with_an_equals_sign_can_be_erased(run_json, lib, tmp_path):
    from multierase.increments.library import Library

    folder = Library(tmp_path / "lib", create=True)
    folder.save(Library(lib)["Noto"].named("a=b"))
    flags = ("--library", folder.folder, "--out", tmp_path / "x.png", *FEW)
    assert run_json("generate", "x", "--erase", "a=b", *flags)["erased"] == {"a=b": 1.0}
    assert run_json("generate", "x", "--erase", "a=b=0.5", *flags)["erased"] == {"a=b": 0.5}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x", "--library", "LIB", "--erase", "Twemjoi"], 1, "did you mean 'Twemoji'"),
        (["x", "--library", "LIB", "--erase", "Noto=much"], 2, "the strength a number"),
        (["x", "--library", "LIB", "--erase", "Noto=inf"], 1, "finite"),
        (["x", "--library", "LIB", "--erase", "Noto=1e39"], 1, "finite"),
        (["x", "--library", "LIB", "--erase", "Noto=0.5", "Noto"], 2, "decide for one"),
        (["x", "--erase", "Noto"], 2, "--erase needs --library"),
        ([], 2, "at least one prompt"),
        (["--library", "LIB", "--erase", "Noto", "a cat"], 2, "right after the verb"),
        (["x", "--library", "LIB", "--erase", "Noto", "--keep", "Noto"], 2, "to keep"),
        (["x", "--library", "LIB", "--erase", "Noto", "--solve", "jont"], 2, "'joint'"),
        (["x", "--library", "LIB", "--solve", "project"], 2, "['joint', 'sum']"),
        (["x", "--base", "./missing"], 1, "no base at './missing'"),
        (["x", "--images", "0"], 2, "--images 0"),
        (["x", "--batch-size", "0"], 2, "1 or more"),
        (["x", "--keep-file", "no.txt"], 1, "no prompts at no.txt"),
    ],
)
def test_bad_input_is_a_clear_error_and_leaves_nothing(
    said, lib, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(lib) if argument == "LIB" else argument for argument in arguments]
    got, err = said("generate", *arguments, "--out", "x.png")
    assert got == code
    assert message in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_composed_folder_gives_the_same_picture_in_plain_diffusers(run_json, said, lib, tmp_path):
    from diffusers import DiffusionPipeline

    from multierase.sampling import SamplingSettings
    from multierase.workspace import Workspace

    folder = tmp_path / "served"
    erase = ("--erase", "Twemoji", "Noto=0.5")
    run_json("export", "--library", lib, *erase, "--out", folder)

    settings = SamplingSettings(inference_steps=5)
    workspace = Workspace(lib, device="cpu")
    before = workspace.generate(["a church by Noto"], [3], settings)
    workspace.set({"Twemoji": 1.0, "Noto": 0.5})
    ours = workspace.generate(["a church by Noto"], [3], settings)

    pipeline = DiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["a church by Noto"],
        num_inference_steps=5,
        guidance_scale=settings.guidance_scale,
        generator=[torch.Generator().manual_seed(3)],
        output_type="pt",
    ).images
    assert torch.equal(ours, theirs)
    assert (ours - before).abs().max() > 1e-3

    made = json.loads((folder / "multierase.json").read_text())
    assert made["erased"]["Noto"]["strength"] == 0.5
    assert made["solve"] == "joint"
    assert set(made["deviations"]) == {"Noto", "Twemoji"}
    code, err = said("export", "--library", lib, "--erase", "Noto", "--out", folder)
    assert code == 1
    assert "not empty" in err


def test_export_says_what_its_file_loses(run, run_json, lib, tmp_path):
    flags = ("--library", lib, "--erase", "Twemoji", "Noto=0.5", "--to", "kohya")
    report = run_json("export", *flags, "--out", tmp_path / "a.safetensors", "--quick", "true")
    assert (report["to"], report["erased"]) == ("kohya", {"Noto": 0.5, "Twemoji": 1.0})
    assert report["error"] < 1e-5
    assert "certificate" not in report

    code, printed, err = run("export", *flags, "--out", tmp_path / "b.safetensors", "--rank", "2")
    said = " ".join(err.split())
    assert "next: put it among the LoRAs of ComfyUI" in said
    assert code == 0
    assert "Twemoji" in printed
    assert "the file loses" in said
    assert "export that set as one file" in said


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--to", "kohia"], 2, "'kohya'"),
        (["--to", "kohya", "--out", "x.bin"], 2, "ends in .safetensors"),
        (["--to", "diff", "--out", "there.safetensors"], 1, "exists already"),
        (["--to", "diff", "--rank", "0"], 2, "rank 0"),
        (["--to", "diff", "--erase", "Twemjoi"], 1, "did you mean 'Twemoji'"),
    ],
)
def test_a_bad_export_writes_nothing(said, lib, tmp_path, monkeypatch, flags, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").write_text("precious")
    out = () if "--out" in flags else ("--out", "x.safetensors")
    erase = () if "--erase" in flags else ("--erase", "Noto")
    got, err = said("export", "--library", lib, *erase, *flags, *out)
    assert got == code
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]


def test_solves_differ(run_json, lib, tmp_path):
    from safetensors.torch import load_file

    served = {}
    for solve in ("sum", "joint"):
        flags = ("--erase", "Twemoji", "Noto=0.5", "--solve", solve, "--out", tmp_path / solve)
        run_json("export", "--library", lib, *flags)
        [file] = (tmp_path / solve / "unet").glob("*.safetensors")
        served[solve] = load_file(file)
    assert any(
        not torch.equal(served["sum"][name], served["joint"][name]) for name in served["sum"]
    )


def test_what_cannot_be_solved_for_is_told(run, run_json, lib_copy, tmp_path):
    one = ("--steps", "2", "--batch-size", "1", "--sampler-steps", "2", "--stop-at", "null")
    one += ("--known", "false", "--kind", "none")
    run_json("erase", "Firefox", "--library", lib_copy, "--scope", "esd-x", *one)
    flags = ("--erase", "Twemoji", "Firefox", "--library", lib_copy)
    for solve in ("joint", "sum"):
        out = tmp_path / solve
        code, _, err = run("export", *flags, "--solve", solve, "--out", out)
        assert code == 0
        told = "'Firefox' changes" in " ".join(err.split())
        assert told == (solve == "joint")
