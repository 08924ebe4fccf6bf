"""Command lines, run in this process; and a library of two quick increments."""

import json
import re
import shutil

import pytest

from multierase.cli.main import main

BARS = re.compile(r"(\x1b\[A|\r)[^\r\n]*%\|[^\r\n]*\n?|\x1b\[A")  # progress, which is redrawn
QUICK = ["--steps", "4", "--batch-size", "2", "--sampler-steps", "4", "--stop-at", "null"]
QUICK += ["--kind", "none"]
QUICK += ["--learning-rate", "1e-2"]


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command line: its exit code, and what it wrote on stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, BARS.sub("", err)

    return run


@pytest.fixture
def said(run):
    """Run a command line that must fail: its exit code, and its message in one line."""

    def said(*arguments):
        code, out, err = run(*arguments)
        assert out == ""
        assert "Traceback" not in err
        assert "this is a bug" not in err
        return code, " ".join(err.split())

    return said


@pytest.fixture
def run_json(run):
    """Run a command line that must do, and read the one object on stdout."""

    def run_json(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return run_json


@pytest.fixture(scope="session")
def lib(tmp_path_factory):
    """Two increments that change weights and erase little. Read only: copy it to write."""
    folder = tmp_path_factory.mktemp("library")
    assert main(["erase", "Twemoji", "Noto", "--library", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def lib_copy(lib, tmp_path):
    """The same library, to be changed."""
    return shutil.copytree(lib, tmp_path / "copied")
