"""Completion in the shells themselves, where they are installed; bash is everywhere."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from multierase.cli.completion import script
from multierase.cli.flags import choices_of
from multierase.cli.options import VERBS, common

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_multierase
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Ask bash how it would complete the last of these words."""
    path = tmp_path_factory.mktemp("bash") / "script"
    path.write_text(script("bash"))

    def bash(*words):
        command = ["bash", "--norc", "-c", ASK, "bash", str(path), "multierase", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return bash


def test_verbs(bash):
    assert bash("") == [*VERBS, "--help", "--version"]
    assert bash("com") == ["compress", "completion"]
    assert bash("nothing") == []


@pytest.mark.parametrize("verb", VERBS)
def test_flags(bash, verb):
    options = [*VERBS[verb].options(), *common()]
    flags = [option.label for option in options if not option.positional]
    assert bash(verb, "--") == [*flags, "--help"]
    assert bash(verb, "x", "--js") == ["--json"]


def test_choices_of_the_flag_before_also_where_it_takes_several(bash):
    assert bash("erase", "Noto", "--scope", "esd-x") == ["esd-x", "esd-x-strict"]
    assert bash("evaluate", "--method", "uce", "sld-m") == ["sld-medium", "sld-max"]
    assert bash("erase", "--known", "") == ["true", "false"]
    assert bash("completion", "") == ["bash", "zsh", "fish"]
    # bash makes three words of "--scope=esd-u".
    assert bash("erase", "--scope", "=", "esd-u") == ["esd-u"]
    assert "full" in bash("erase", "--scope", "=")
    for option in VERBS["sweep"].options():
        if choices := choices_of(option.type):
            assert bash("sweep", option.label, "") == choices


def test_all_else_is_left_to_names_of_files(bash, tmp_path):
    assert bash("ls", "--library", "") == []
    assert bash("erase", "No") == []

    # The shell then completes names of files, as the script registers it.
    path = tmp_path / "script"
    path.write_text(script("bash"))
    shown = subprocess.run(
        ["bash", "--norc", "-c", f"source {path}; complete -p multierase"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-o default" in shown
    assert "-F _multierase" in shown


def test_the_verb_prints_the_script_as_it_is(run, run_json, said):
    for shell in ("bash", "zsh", "fish"):
        assert run("completion", shell) == (0, script(shell), "")
        assert run_json("completion", shell)["script"] == script(shell)
    assert "source <(multierase completion bash)" in said("completion")[1]
    assert "did you mean 'fish'" in said("completion", "fsh")[1]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_read_their_scripts(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(script(shell))
    subprocess.run([shell, "-n", path], check=True)


def test_fish_completes(tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    path = tmp_path / "script"
    path.write_text(script("fish"))

    def ask(line):
        command = ["fish", "-c", f"source {path}; complete -C '{line}'"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    assert ask("multierase comp") == ["completion", "compress"]
    assert ask("multierase erase --sco") == ["--scope"]
    assert set(ask("multierase erase --scope esd-x")) == {"esd-x", "esd-x-strict"}


def test_fish_quotes_what_help_says():
    lines = script("fish").splitlines()
    assert len(lines) == len(set(lines))
    for line in lines[2:]:
        # An odd number of quotes that no backslash stands before would leave one open.
        assert line.replace("\\'", "").count("'") % 2 == 0, line
