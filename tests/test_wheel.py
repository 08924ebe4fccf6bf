"""A wheel installs and runs where there is no checkout, with all that it needs inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

pytestmark = pytest.mark.slow


def run(*command, **more):
    """Run a command to its end; return what it prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stderr[-3000:]

    return done.stdout


def packaged() -> set[str]:
    """Every file of the package, as a wheel names it."""
    files = [path for path in (ROOT / "multierase").rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in files}

    return {name for name in names if "__pycache__" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: the checkout's own build folder may hold old files."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "multierase", copy / "multierase", ignore=unwanted)

    # With the setuptools that is here: a test asks no network.
    run(*PIP, "wheel", copy, "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    (built,) = out.glob("multierase-*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """Run the installed program, in an environment that borrows this one's dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel)

    # After the installation, and last on the path: the checkout's own package is no part of it.
    own = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def program(*words):
        script = folder / "venv" / "bin" / "multierase"
        return run(script, *words, cwd=folder, env=environment)

    (folder / "lib").mkdir()
    program.folder = folder
    program.python = lambda code: run(python, "-c", code, cwd=folder, env=environment)
    return program


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert packaged() - names == set()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"multierase"}


def test_it_is_the_wheels_own_code_that_runs(program):
    place = program.python("import multierase; print(multierase.__file__)").strip()
    assert Path(place).is_relative_to(program.folder)


def test_it_answers_outside_the_checkout(program):
    from multierase import __version__

    assert program("--version") == f"multierase {__version__}\n"
    assert "usage: multierase erase" in program("erase", "--help")
    assert json.loads(program("ls", "--library", "lib", "--json"))["increments"] == []


def test_it_knows_its_own_requirements(program):
    report = json.loads(program("doctor", "--json"))
    assert report["sound"]
    assert report["base"]["place"].startswith(str(program.folder))
    assert {"torch", "diffusers", "rich"} <= {one["name"] for one in report["packages"]}


def test_it_draws_with_its_own_base_and_judges_with_its_own_suite(program):
    few = ("--inference-steps", "1")
    program("generate", "a church", "--out", "x.png", *few)
    with Image.open(program.folder / "x.png") as sheet:
        assert min(sheet.size) > 64
    report = json.loads(program("evaluate", "--library", "lib", "--json", *few))
    assert report["base"]["kept"]["count"] > 0
