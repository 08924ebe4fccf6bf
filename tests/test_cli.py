import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from multierase.cli import VERBS, main
from multierase.library import Library

QUICK = ["--steps", "4", "--batch-size", "2", "--sampler-steps", "4", "--stop-at", "null", "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    assert main(["erase", "Twemoji", "Noto", "--library", str(folder), *QUICK]) == 0
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def run_json(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)  # one object and nothing else on stdout


def test_erase_reports_the_promised_keys(capsys, tmp_path):
    report = run_json(capsys, "erase", "Twemoji", "--library", tmp_path / "lib", *QUICK)
    keys = {"concept", "file", "stop_reason", "erasure_degree", "steps", "unet_evaluations", "seconds"}
    assert set(report) == keys
    assert report["file"] == str(tmp_path / "lib" / "twemoji.safetensors") and Path(report["file"]).exists()
    both = run_json(capsys, "erase", "Noto", "Fluent Flat", "--library", tmp_path / "lib", *QUICK)
    assert [set(row) for row in both["increments"]] == [keys, keys]
    assert sorted(p.name for p in (tmp_path / "lib").iterdir()) == [
        "fluent-flat.safetensors", "noto.safetensors", "twemoji.safetensors",
    ]  # fmt: skip


def test_simultaneous_erasures_are_files_of_their_own(capsys, tmp_path):
    report = run_json(capsys, "erase", "Twemoji", "Noto", "--simultaneous", "--library", tmp_path / "lib", *QUICK)
    assert [row["concept"] for row in report["increments"]] == ["Twemoji", "Noto"] and "refused" not in report
    assert sorted(p.name for p in (tmp_path / "lib").iterdir()) == ["noto.safetensors", "twemoji.safetensors"]


def test_a_refused_concept_is_reported_and_the_others_are_erased(capsys, tmp_path):
    flags = ["--library", tmp_path / "lib", "--keep", "[Noto]", "--known", "false", *QUICK]
    report = run_json(capsys, "erase", "Noto", "Twemoji", *flags)
    assert [row["concept"] for row in report["increments"]] == ["Twemoji"]
    assert [row["concept"] for row in report["refused"]] == ["Noto"] and "keep" in report["refused"][0]["reason"]
    code, _, err = run(capsys, "erase", "Noto", *flags)
    assert code == 1 and "nothing is left to erase it by" in err


def test_ls_show_validate(capsys, lib):
    assert [row["concept"] for row in run_json(capsys, "ls", "--library", lib)["increments"]] == ["Noto", "Twemoji"]
    shown = run_json(capsys, "show", "Noto", "--library", lib)
    assert shown["settings"]["steps"] == 4 and shown["norm"] > 0 and shown["seed"] == 0
    assert run_json(capsys, "validate", "--library", lib)["sound"] is True
    for verb in (["ls"], ["show", "Noto"], ["validate"]):
        code, out, _ = run(capsys, *verb, "--library", lib)
        assert (code == 0 and "Noto" in out) or "noto" in out


def test_validate_finds_a_damaged_file(capsys, lib, tmp_path):
    copy = tmp_path / "lib"
    shutil.copytree(lib, copy)
    file = copy / "noto.safetensors"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    code, out, _ = run(capsys, "validate", "--library", copy, "--json")
    assert code == 1
    assert [row["sound"] for row in json.loads(out)["files"]] == [False, True]


def test_generate_with_concepts_off(capsys, lib, tmp_path):
    out = tmp_path / "sheet.png"
    report = run_json(
        capsys, "generate", "a church by Noto", "a cat by Twemoji", "--library", lib, "--erase", "Twemoji", "--erase",
        "Noto=0.5", "--seed", "3", "--out", out, "--inference-steps", "2",
    )  # fmt: skip
    assert report["erased"] == {"Noto": 0.5, "Twemoji": 1.0} and report["seeds"] == [3, 3]
    assert out.exists()


def test_composed_folder_gives_the_same_picture_in_plain_diffusers(capsys, lib, tmp_path):
    from diffusers import DiffusionPipeline

    from multierase.base import load_base
    from multierase.composer import Composer
    from multierase.generate import SamplingSettings, generate

    folder = tmp_path / "served"
    run_json(capsys, "compose", "--library", lib, "--erase", "Twemoji", "--erase", "Noto=0.5", "--out", folder)
    base = load_base("emoji", device="cpu")
    before = generate(base, ["a church by Noto"], [3], SamplingSettings(inference_steps=5))
    keep = Library(lib).keep_list(base.text, base.known_prompts)
    Composer(base.unet, Library(lib), keep=keep).set({"Twemoji": 1.0, "Noto": 0.5})
    ours = generate(base, ["a church by Noto"], [3], SamplingSettings(inference_steps=5))
    pipeline = DiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for name, parameter in pipeline.unet.named_parameters():
        assert torch.equal(parameter, dict(base.unet.named_parameters())[name])
    theirs = pipeline(
        ["a church by Noto"], num_inference_steps=5, guidance_scale=SamplingSettings().guidance_scale,
        generator=[torch.Generator().manual_seed(3)], output_type="pt",
    ).images  # fmt: skip
    assert torch.equal(ours, theirs)
    assert (ours - before).abs().max() > 1e-3
    made = json.loads((folder / "multierase.json").read_text())
    assert made["erased"]["Noto"]["strength"] == 0.5
    assert made["solve"] == "joint" and set(made["deviations"]) == {"Noto", "Twemoji"}
    code, _, err = run(capsys, "compose", "--library", lib, "--erase", "Noto", "--out", folder)
    assert code == 1 and "not empty" in err


def test_config_files_and_flags_are_the_same_settings(capsys, tmp_path):
    config = tmp_path / "erase.yaml"
    config.write_text("steps: 4\nbatch_size: 2\nsampler_steps: 4\nstop_at: null\neta: 0.5\n")
    run_json(capsys, "erase", "Noto", "--config", config, "--library", tmp_path / "lib", "--steps", "2")
    settings = run_json(capsys, "show", "Noto", "--library", tmp_path / "lib")["settings"]
    assert settings["eta"] == 0.5 and settings["steps"] == 2  # a flag after the file wins


def test_a_joint_composition_differs_from_the_sum_and_gives_what_its_python_gives(capsys, lib, tmp_path):
    from multierase.base import load_base
    from multierase.composer import Composer
    from multierase.decoupling import KeepList

    folders = {}
    for solve in ("sum", "joint"):
        folders[solve] = tmp_path / solve
        off = ("--erase", "Twemoji", "--erase", "Noto=0.5")
        run_json(capsys, "compose", "--library", lib, *off, "--solve", solve, "--out", folders[solve])
    base, library = load_base("emoji", device="cpu"), Library(lib)
    composer = Composer(base.unet, library, solve="joint", keep=KeepList.of(base.text, base.known_prompts, library))
    composer.set({"Twemoji": 1.0, "Noto": 0.5})
    served = {solve: load_base(folder, device="cpu").unet.state_dict() for solve, folder in folders.items()}
    assert all(torch.equal(weight, served["joint"][name]) for name, weight in base.unet.state_dict().items())
    assert not all(torch.equal(weight, served["sum"][name]) for name, weight in base.unet.state_dict().items())


def test_what_cannot_be_solved_for_is_told_and_how_far_each_effect_is_from_its_own(capsys, caplog, lib, tmp_path):
    copy = tmp_path / "lib"
    shutil.copytree(lib, copy)
    run_json(capsys, "erase", "Firefox", "--library", copy, "--scope", "esd-x", *QUICK)
    off = ("--erase", "Twemoji", "--erase", "Firefox", "--library", copy)
    caplog.clear()
    report = run_json(capsys, "compose", *off, "--solve", "joint", "--out", tmp_path / "joint")
    assert set(report["deviations"]) == {"Twemoji", "Firefox"} and all(0 < v < 2 for v in report["deviations"].values())
    told = [record.getMessage() for record in caplog.records if "are summed" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("'Firefox' changes")
    caplog.clear()
    run_json(capsys, "compose", *off, "--solve", "sum", "--out", tmp_path / "sum")
    assert not any("are summed" in record.getMessage() for record in caplog.records)


def test_compressed_files_are_a_library_of_their_own(capsys, lib, tmp_path):
    report = run_json(capsys, "compress", "--library", lib, "--out", tmp_path / "small", "--error", "0.1")
    assert [row["concept"] for row in report["increments"]] == ["Noto", "Twemoji"]
    for row in report["increments"]:
        assert row["bytes"] < row["bytes_before"] / 2 and row["error"] <= 0.1
        assert Path(row["file"]).stat().st_size == row["bytes"]
    assert run_json(capsys, "validate", "--library", tmp_path / "small")["sound"] is True
    one = run_json(capsys, "compress", "Noto", "--library", lib, "--out", tmp_path / "one", "--dtype", "float32")
    assert [row["concept"] for row in one["increments"]] == ["Noto"]
    code, _, err = run(capsys, "compress", "Noto", "--library", lib, "--out", tmp_path / "one", "--dtype", "int4")
    assert code == 2 and "float16" in err


def test_crosstalk(capsys, lib, tmp_path):
    report = run_json(capsys, "crosstalk", "--library", lib, "--out", tmp_path / "matrix.png")
    table = report["crosstalk"]
    assert set(table) == {"Noto", "Twemoji"} and set(table["Noto"]) == {"Noto", "Twemoji", "(kept)"}
    assert 0 < table["Noto"]["Twemoji"] < table["Noto"]["Noto"]
    assert (tmp_path / "matrix.png").exists()
    code, out, _ = run(capsys, "crosstalk", "--library", lib)
    assert code == 0 and "Twemoji" in out


def test_entangled_concepts_are_warned_of_when_erased(caplog, capsys, lib, tmp_path):
    copy = tmp_path / "lib"
    shutil.copytree(lib, copy)
    # The same words under another name: what erases the one erases the other.
    code, _, err = run(capsys, "erase", "Twemoji twin", "--prompts", '["Twemoji"]', "--library", copy, *QUICK)
    assert code == 0, err
    assert "'Twemoji' and 'Twemoji twin' are entangled" in caplog.text


def test_anchor_and_what_to_erase_from_reach_the_increment(capsys, tmp_path):
    lib = tmp_path / "lib"
    quick = ("--steps", "1", "--batch-size", "1", "--sampler-steps", "2")
    run_json(capsys, "erase", "Noto", "--library", lib, "--anchor", "a church", *quick)
    run_json(capsys, "erase", "church", "--library", lib, "--erase-from", "Noto art", *quick)
    infos = Library(lib).infos()
    assert (infos["Noto"]["anchor"], infos["Noto"]["erase_from"]) == ("a church", None)
    assert (infos["church"]["anchor"], infos["church"]["erase_from"]) == ("", "Noto art")


def test_a_config_with_an_unknown_key_is_refused_with_the_nearest(capsys, tmp_path):
    config = tmp_path / "erase.yaml"
    config.write_text("stepps: 4\n")
    code, _, err = run(capsys, "erase", "Noto", "--config", config, "--library", tmp_path / "lib")
    assert code == 2 and "unknown setting 'stepps'; did you mean 'steps'" in err
    assert not (tmp_path / "lib").exists()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["eraze", "x"], 2, "unknown verb 'eraze'; did you mean 'erase'"),
        (["erase", "Noto", "--library", "L", "--scop", "esd-x"], 2, "unknown setting 'scop'; did you mean 'scope'"),
        (["erase", "Noto", "--library", "L", "--scope", "xattn"], 1, "unknown scope 'xattn'"),
        (["erase", "Noto", "--library", "L", "--learning-rate", "-1"], 1, "learning_rate is -1.0"),
        (["erase", "", "--library", "L"], 1, "a concept needs a name"),
        (["erase", "--library", "L"], 2, "name at least one concept"),
        (["erase", "ピカチュウ", "--library", "L"], 1, "tokenizer cannot represent"),
        (["erase", "a", "b", "--prompts", '["x"]', "--library", "L"], 2, "erase them one by one"),
        (["ls", "--library", "missing"], 1, "no library folder"),
        (["show", "Notto", "--library", "LIB"], 1, "'Notto'; did you mean 'Noto'"),
        (["generate", "x", "--library", "LIB", "--erase", "Twemjoi", "--out", "x.png"], 1, "did you mean 'Twemoji'"),
        (["generate", "x", "--library", "LIB", "--erase", "Noto=much", "--out", "x.png"], 2, "the strength a number"),
        (["generate", "x", "--library", "LIB", "--erase", "Noto=inf", "--out", "x.png"], 1, "finite"),
        (["generate", "x", "--erase", "Noto", "--out", "x.png"], 2, "--erase needs --library"),
        (["generate", "--out", "x.png"], 2, "at least one prompt"),
        (["generate", "x", "--library", "LIB", "--erase", "Noto", "--keep", "Noto", "--out", "x.png"], 2, "to keep"),
        (["generate", "x", "--library", "LIB", "--erase", "Noto", "--solve", "jont", "--out", "x.png"], 2, "solve"),
        (["generate", "x", "--base", "./missing", "--out", "x.png"], 1, "no base at './missing'"),
        (["generate", "x", "--dtype", "float8", "--out", "x.png"], 1, "dtype 'float8'"),
    ],
)
def test_bad_input_is_a_clear_error_and_leaves_nothing(capsys, lib, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(lib) if argument == "LIB" else argument for argument in arguments]
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert message in " ".join(err.split())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as exit_:
            main([verb, "--help"])
        assert exit_.value.code == 0
        assert "--json" in capsys.readouterr().out


def test_evaluate_sweep_and_report(capsys, lib, tmp_path):
    flags = ("--library", lib, "--inference-steps", "2")
    (tmp_path / "few.csv").write_text(
        "case_number,prompt,evaluation_seed,studio,subject\n0,a church by Noto,0,Noto,church\n"
        "1,a cat by Twemoji,1,Twemoji,cat\n"
    )
    (tmp_path / "few.yaml").write_text("prompts: few.csv\nlabels: [studio, subject]\njudge: emoji\n")
    flags = (*flags, "--suite", tmp_path / "few.yaml")
    report = run_json(capsys, "evaluate", *flags, "--erase", "Twemoji")
    assert report["erased_concepts"] == ["Twemoji"] and report["erased"]["count"] == 1 == report["kept"]["count"]
    assert report["judge"].startswith("emoji judge, sha256") and set(report["by_concept"]) == {
        "Noto", "Twemoji", "church", "cat",
    }  # fmt: skip
    database = tmp_path / "sweep.db"
    swept = run_json(capsys, "sweep", *flags, "--database", database, "--sets", "subsets")
    assert [row["erased_concepts"] for row in swept["rows"]] == [[], ["Noto"], ["Twemoji"], ["Noto", "Twemoji"]]
    assert swept["rows"][2] == {**swept["rows"][2], **{key: report[key] for key in ("erased", "kept", "distance")}}
    made = run_json(capsys, "report", database, "--out", tmp_path / "report")
    table = (tmp_path / "report" / "table.csv").read_text().splitlines()
    assert {Path(file).name for file in made["files"]} == {"index.html", "table.csv", "table.tex"}
    assert made["databases"][str(database)]["sets"] == 4 == len(table) - 1
    assert table[0].startswith("method,event,erased_concepts,size,erased,erased_low")
    code, _, err = run(capsys, "sweep", *flags, "--database", database, "--sets", "order", "--events", "[restore Noto]")
    assert code == 1 and "off now: []" in err
    code, _, err = run(capsys, "report", tmp_path / "no.db", "--out", tmp_path)
    assert code == 1 and "no database" in err


def test_methods_in_one_table(capsys, lib, tmp_path):
    (tmp_path / "few.csv").write_text(
        "case_number,prompt,evaluation_seed,studio,subject\n0,a church by Noto,0,Noto,church\n"
        "1,a cat by Twemoji,1,Twemoji,cat\n"
    )
    (tmp_path / "few.yaml").write_text("prompts: few.csv\nlabels: [studio, subject]\njudge: emoji\n")
    flags = ("--suite", tmp_path / "few.yaml", "--inference-steps", "2")
    erase = ("--library", lib, "--erase", "Twemoji")
    both = run_json(capsys, "evaluate", *flags, *erase, "--method", "increments", "--method", "uce")["methods"]
    code, out, _ = run(capsys, "evaluate", *flags, *erase, "--method", "increments", "--method", "uce")
    assert code == 0 and [word in out for word in ("base", "increments", "uce")] == [True] * 3
    assert both["increments"] == run_json(capsys, "evaluate", *flags, *erase)
    run_json(capsys, "compose", *erase, "--solve", "sum", "--out", tmp_path / "peer")
    peer = run_json(capsys, "evaluate", *flags, "--erase", "Twemoji", "--peer", tmp_path / "peer")
    ours = run_json(capsys, "evaluate", *flags, *erase, "--solve", "sum")
    assert peer["method"] == "peer peer" and peer["distance"] == pytest.approx(ours["distance"], abs=1e-4)

    single = ("--sets", "list", "--listed", "[[Twemoji]]", "--workers", "1")
    for name, own in {"ours": ("--library", lib), "uce": ("--method", "uce")}.items():
        swept = run_json(capsys, "sweep", *flags, *own, *single, "--database", tmp_path / f"{name}.db")
        method = {"ours": "increments"}.get(name, name)
        assert swept["method"] == method and swept["rows"][1]["distance"] == both[method]["distance"]
    run_json(capsys, "report", tmp_path / "ours.db", tmp_path / "uce.db", "--out", tmp_path / "report", "--parquet")
    table = list(csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines()))
    assert [(row["method"], row["erased_concepts"]) for row in table] == [
        ("increments", ""), ("increments", "Twemoji"), ("uce", ""), ("uce", "Twemoji")
    ]  # fmt: skip

    other = (*flags[:3], "3", "--method", "uce", *single, "--database", tmp_path / "other.db")
    run_json(capsys, "sweep", *other)
    for arguments, code, message in [
        (["evaluate", *flags, "--erase", "Twemoji"], 1, "increments are in a library: give its folder"),
        (["evaluate", *flags, *erase, "--method", "uce", "--method", "sld-max", "--database", "x.db"], 2, "one method"),
        (["evaluate", *flags, *erase, "--method", "uec"], 1, "method 'uec'; did you mean 'uce'"),
        (["evaluate", *flags, *erase, "--method", "uce", "--peer", tmp_path / "no"], 1, "no peer's model at"),
        (["sweep", *flags, "--method", "uce", "--database", "x.db"], 2, "which --concepts, without a library?"),
        (["sweep", *flags, "--library", lib, "--address", "a:1", "--database", "x.db"], 2, "give --executor ray too"),
        (["report", tmp_path / "ours.db", tmp_path / "other.db", "--out", "r"], 1, "they differ in ['sampling']"),
    ]:
        got, out, err = run(capsys, *arguments)
        assert (got, out) == (code, "") and message in " ".join(err.split())
