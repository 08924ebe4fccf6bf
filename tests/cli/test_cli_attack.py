import pytest

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure
FLAGS = ("--attack", "random", "--attack-cases", "1", "--inference-steps", "2")


def test_attack_prints_a_table(run, run_json, lib, tmp_path):
    flags = ("--library", lib, *FLAGS, "--database", tmp_path / "a.db")
    report = run_json("attack", "Noto", *flags)
    assert report["concept"] == "Noto"
    assert set(report["attacks"]["random"]) == {"erased", "base"}

    code, out, err = run("attack", "Noto", *flags)
    assert code == 0
    assert "Noto seen in 1 attacked case (0 % best); erased: Noto" in " ".join(out.split())
    assert "restored, it is the base, bit for bit" in err
    assert max(map(len, out.splitlines())) <= 80

    beside = run_json("attack", "Noto", "--beside", "Twemoji", "--library", lib, *FLAGS)
    assert set(beside["attacks"]["random"]) == {"erased", "restored", "base"}
    assert beside["erased_concepts"] == ["Noto", "Twemoji"]


def test_evaluate_and_sweep_take_attacks(run, lib, tmp_path):
    code, out, _ = run("evaluate", "--library", lib, "--erase", "Noto", *FLAGS)
    assert code == 0
    assert "seen in the attacked cases of an erased concept" in " ".join(out.split())
    code, out, _ = run(
        "sweep", "--library", lib, "--sets", "single", *FLAGS, "--workers", "1",
        "--database", tmp_path / "s.db",
    )  # fmt: skip
    assert code == 0
    assert "under random" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the concept to attack"),
        (("Noto", "--attack", "ring-a"), "did you mean 'ring-a-bell'"),
        (("Noto", "--budget", "huge"), "give one of ['paper', 'quick']"),
        (("Noto", "--attack-cases", "0"), "0 cases to attack"),
        (("Noot",), "did you mean 'Noto'"),
        (("Noto", "--suite", "imagenette"), "asks for none of ['Noto']"),
    ],
)
def test_what_is_wrong_is_said(said, lib, arguments, message):
    code, error = said("attack", *arguments, "--library", lib)
    assert code in (1, 2)
    assert message in error
