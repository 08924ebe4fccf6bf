import shlex

import pytest

from multierase.cli.main import parser_of
from multierase.increments.library import Library

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure

ONE_STEP = ("--steps", "1", "--batch-size", "1", "--sampler-steps", "2", "--stop-at", "null")
ONE_STEP += ("--known", "false", "--kind", "none")  # prompts and dictionary take most of the time
KEYS = {
    "concept",
    "file",
    "base",
    "stop_reason",
    "erasure_degree",
    "steps",
    "evaluations",
    "seconds",
    "certificate",
}


def files_of(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_erase_reports_the_promised_keys(run_json, tmp_path):
    lib = tmp_path / "lib"
    report = run_json("erase", "Twemoji", "--library", lib, *ONE_STEP)
    assert set(report) == KEYS
    assert report["file"] == str(lib / "twemoji.safetensors")
    assert (report["steps"], report["stop_reason"]) == (1, "steps")

    both = run_json("erase", "Noto", "Fluent Flat", "--library", lib, *ONE_STEP)
    assert [set(row) for row in both["increments"]] == [KEYS, KEYS]
    assert "refused" not in both
    assert files_of(lib) == ["fluent-flat.safetensors", "noto.safetensors", "twemoji.safetensors"]


def test_erase_prints_a_table_of_80_columns_with_whole_file_names(run, tmp_path):
    lib = tmp_path / "lib"
    code, out, err = run("erase", "Fluent High Contrast", "--library", lib, *ONE_STEP)
    assert code == 0
    assert "fluent-high-contrast.safetensors" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out

    # What it says to type next can be typed.
    assert "degree: 1 on the base" in err
    words = shlex.split(err[err.index("next: ") + len("next: ") :])
    assert words[:2] == ["multierase", "generate"]
    arguments = parser_of("generate").read(words[2:])
    assert (arguments.library, arguments.erase) == (str(lib), ["Fluent High Contrast"])
    assert (arguments.compare, arguments.out) == (True, "fluent-high-contrast.png")


def test_simultaneous_erasures_are_files_of_their_own(run_json, tmp_path):
    flags = ("--simultaneous", "--library", tmp_path / "lib", *ONE_STEP)
    report = run_json("erase", "Twemoji", "Noto", *flags)
    assert [row["concept"] for row in report["increments"]] == ["Twemoji", "Noto"]
    assert files_of(tmp_path / "lib") == ["noto.safetensors", "twemoji.safetensors"]


def test_a_refused_concept_is_reported_and_the_others_are_erased(run_json, said, tmp_path):
    flags = ("--library", tmp_path / "lib", "--keep", "Noto", *ONE_STEP)
    report = run_json("erase", "Noto", "Twemoji", *flags)
    assert [row["concept"] for row in report["increments"]] == ["Twemoji"]
    assert [row["concept"] for row in report["refused"]] == ["Noto"]
    assert "keep" in report["refused"][0]["reason"]

    code, err = said("erase", "Noto", *flags)
    assert code == 1
    assert "refused 'Noto'" in err


@pytest.mark.parametrize(
    "flags",
    [
        ("--prompts", "a cat", "a cat by Noto"),
        ("--prompts", "a cat", "--prompts", "a cat by Noto"),
        ("--prompts", "a cat", "--prompts-file", "FILE"),
    ],
)
def test_prompts_take_several_and_are_repeatable(run_json, tmp_path, flags):
    (tmp_path / "more.txt").write_text("a cat by Noto\n")
    flags = [str(tmp_path / "more.txt") if flag == "FILE" else flag for flag in flags]
    lib = tmp_path / "lib"
    run_json("erase", "Noto", "--library", lib, *ONE_STEP, *flags, "--keep", "a pig", "a cow")
    made = Library(lib).header("Noto").provenance
    assert made.prompts == ("a cat", "a cat by Noto")
    assert list(made.settings["keep"]) == ["a pig", "a cow"]


def test_prompts_in_a_config_are_a_list(run_json, tmp_path):
    config = tmp_path / "erase.yaml"
    config.write_text("concepts: [Noto]\nprompts: [a cat, a cat by Noto]\nsteps: 9\neta: 0.5\n")
    lib = tmp_path / "lib"
    run_json("erase", *ONE_STEP, "--library", lib, "--config", config)
    made = Library(lib).header("Noto").provenance
    assert made.prompts == ("a cat", "a cat by Noto")
    assert (made.settings["eta"], made.settings["steps"]) == (0.5, 1)  # a flag wins


def test_anchor_and_what_to_erase_from_reach_the_increment(run_json, tmp_path):
    lib = tmp_path / "lib"
    run_json("erase", "Noto", "--library", lib, "--anchor", "a church", *ONE_STEP)
    run_json("erase", "church", "--library", lib, "--erase-from", "Noto art", *ONE_STEP)
    made = {name: header.provenance for name, header in Library(lib).headers().items()}
    assert (made["Noto"].anchor, made["Noto"].erase_from) == ("a church", None)
    assert (made["church"].anchor, made["church"].erase_from) == ("", "Noto art")


def test_a_keep_file_reaches_the_settings(run_json, tmp_path):
    (tmp_path / "keep.csv").write_text("prompt,studio\na pig,\na pig by Noto,Noto\na cow,\n")
    lib = tmp_path / "lib"
    flags = ("--keep-file", tmp_path / "keep.csv")
    run_json("erase", "Noto", "--library", lib, *ONE_STEP, *flags)
    made = Library(lib).header("Noto").provenance
    assert set(made.separation.kept_exactly) == {"", "a pig", "a cow"}  # not its own sentence


def test_a_method_is_chosen_by_name(run_json, said, tmp_path):
    lib = tmp_path / "lib"
    for method, concept in (("sepme", "Noto"), ("uce", "Twemoji")):
        run_json("erase", concept, "--method", method, "--library", lib, *ONE_STEP)
        assert Library(lib).header(concept).provenance.method == method
    code, err = said("erase", "Firefox", "--method", "secme", "--library", lib)
    assert code == 2
    assert "did you mean 'sepme'" in err


def test_entangled_concepts_are_warned_of(run, lib_copy):
    # The same words under another name: what erases the one erases the other.
    flags = ("--prompts", "Twemoji", "--library", lib_copy, "--steps", "4", "--batch-size", "2")
    code, _, err = run("erase", "Twemoji twin", *flags, "--sampler-steps", "4")
    assert code == 0
    assert "'Twemoji' and 'Twemoji twin' are entangled" in " ".join(err.split())


def test_a_damaged_file_beside_it_does_not_hurt(run, lib_copy):
    (lib_copy / "odd.safetensors").write_bytes(b"odd")
    code, out, err = run("erase", "Firefox", "--library", lib_copy, *ONE_STEP)
    assert code == 0, err
    assert "firefox.safetensors" in out


@pytest.mark.parametrize("concept", ["Twemojii", "Van Gogh"])
def test_a_concept_that_the_base_does_not_draw_is_refused(run, tmp_path, concept):
    flags = ("--library", tmp_path / "lib", *ONE_STEP, "--kind", "studio")
    code, _, err = run("erase", concept, *flags)
    err = " ".join(err.split())
    assert code == 1
    assert f"does not draw {concept!r}" in err
    assert "nothing to erase" in err
    assert files_of(tmp_path / "lib") == []
    assert ("did you mean 'twemoji'" in err.lower()) == (concept == "Twemojii")


def test_what_is_there_is_not_overwritten_unasked(run_json, said, lib_copy):
    file = lib_copy / "noto.safetensors"
    before = file.read_bytes()
    code, err = said("erase", "Noto", "--library", lib_copy, *ONE_STEP)
    assert code == 1
    assert "--overwrite" in err
    assert file.read_bytes() == before

    run_json("erase", "Noto", "--library", lib_copy, *ONE_STEP, "--overwrite")
    assert Library(lib_copy).header("Noto").provenance.stop.steps == 1


def test_names_whose_files_meet_are_refused(said, tmp_path, lib_copy):
    code, err = said("erase", "Noto", "noto", "--library", tmp_path / "lib")
    assert code == 2
    assert "'Noto' and 'noto'" in err
    code, err = said("erase", "Noto", "Noto", "--library", tmp_path / "lib")
    assert code == 2
    assert "given twice" in err
    code, err = said("erase", "noto", "--library", lib_copy)
    assert code == 1
    assert "holds the concept 'Noto'" in err


def test_a_damaged_target_can_be_replaced(run, said, lib_copy):
    (lib_copy / "noto.safetensors").write_bytes(b"damaged")
    code, err = said("erase", "Noto", "--library", lib_copy, *ONE_STEP)
    assert code == 1
    assert "no sound increment" in err
    code, _, err = run("erase", "Noto", "--library", lib_copy, *ONE_STEP, "--overwrite")
    assert code == 0, err


def test_another_erasures_checkpoint_is_told_in_one_line(said, run, tmp_path, monkeypatch):
    lib = tmp_path / "lib"

    def killed(*arguments, **more):
        raise KeyboardInterrupt

    flags = ("erase", "Noto", "--library", lib, "--batch-size", "1", "--sampler-steps", "2")
    flags = (*flags, "--stop-at", "null", "--steps", "3", "--known", "false", "--kind", "none")
    monkeypatch.setattr(Library, "save", killed)
    code, _, err = run(*flags)
    assert code == 130
    assert "--resume" in err
    monkeypatch.undo()

    code, err = said(*flags, "--eta", "2", "--resume")
    assert code == 1
    assert "eta" in err
    assert "learning_rate" not in err  # it is equal
    assert len(err) < 400
    assert run(*flags, "--resume")[0] == 0
    assert files_of(lib) == ["noto.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["Noto", "--scope", "xattn"], 2, "--scope 'xattn'"),
        (["Noto", "--scop", "esd-x"], 2, "unknown setting 'scop'; did you mean 'scope'"),
        (["Noto", "--learning-rate", "-1"], 2, "learning_rate is -1.0"),
        (["Noto", "--objective", "esd"], 2, "unknown setting 'objective'"),
        ([""], 1, "a concept needs a name"),
        ([], 2, "name at least one concept"),
        (["--prompts", "a cat", "Noto"], 2, "name at least one concept, right after the verb"),
        (["ピカチュウ"], 1, "tokenizer cannot represent"),
        (["a", "b", "--prompts", "x"], 2, "erase them one by one"),
        (["Noto", "--prompts-file", "no.txt"], 1, "no prompts at no.txt"),
        (["Noto", "--device", "cuda:77"], 1, "cuda"),
        (["Noto", "--base", "./missing"], 1, "no base at './missing'"),
        (["Noto", "--dtype", "float8"], 2, "--dtype 'float8'"),
        (["x" * 300], 1, "300 characters"),
    ],
)
def test_bad_input_is_a_clear_error_and_leaves_nothing(
    said, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    got, err = said("erase", *arguments, "--library", "L")
    assert got == code
    assert message in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_config_with_an_unknown_key_is_refused_with_the_nearest(said, tmp_path):
    config = tmp_path / "erase.yaml"
    config.write_text("stepps: 4\n")
    code, err = said("erase", "Noto", "--config", config, "--library", tmp_path / "lib")
    assert code == 2
    assert "unknown setting 'stepps'; did you mean 'steps'" in err
    assert not (tmp_path / "lib").exists()


def test_a_list_as_it_was_once_written_is_warned_of(run, tmp_path):
    flags = ("--library", tmp_path / "lib", *ONE_STEP)
    _, _, err = run("erase", "Noto", "--prompts", "[a cat, a cow]", *flags)
    assert "is taken as one prompt; give several as --prompts A B" in " ".join(err.split())


def test_a_file_of_concepts_is_a_run_each(run, run_json, tmp_path):
    (tmp_path / "own.csv").write_text("concept,kind,anchor\nNoto,,a cat\nFirefox,none,\n")
    flags = ("--concepts-file", tmp_path / "own.csv", "--library", tmp_path / "lib", *ONE_STEP)
    report = run_json("erase", "Twemoji", *flags, "--workers", "1")
    assert [row["concept"] for row in report["increments"]] == ["Twemoji", "Noto", "Firefox"]
    assert [set(row) for row in report["increments"]] == [KEYS] * 3
    anchors = {name: one.provenance.anchor for name, one in Library(tmp_path / "lib").items()}
    assert anchors == {"Twemoji": "", "Noto": "a cat", "Firefox": ""}

    names = ("Twemoji", "Noto", "Firefox")
    where = ("--library", tmp_path / "lib", "--workers", "2")
    code, out, err = run("erase", *names, *where, *ONE_STEP, "--resume")
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("concept  ")]
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--simultaneous",), "--simultaneous is one run of all concepts"),
        (("--prompts", "a cat by Noto"), "--prompts are one concept's, 2 concepts given"),
        (("--address", "10.0.0.1:6379"), "--address is a Ray cluster's: give --executor ray too"),
        (("--workers", "0"), "0 workers: give 1 or more"),
    ],
)
def test_what_a_file_of_concepts_does_not_go_with(run, tmp_path, more, message):
    (tmp_path / "own.txt").write_text("Noto\nFirefox\n")
    flags = ("--concepts-file", tmp_path / "own.txt", "--library", tmp_path / "lib")
    code, _, err = run("erase", *flags, *more)
    assert code == 2
    assert message in err
    assert not (tmp_path / "lib").exists()
