"""Every benchmark and script can be imported and explains itself, so that none rots."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # many pictures and programs

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SHARED = {
    "drawing",
    "harness",
    "large_sets",
    "merging",
    "peer_tables",
    "peft_adapters",
    "projecting",
    "sd14",
    "sdxl",
    "seeing",
    "studios",
    "subset_tables",
    "typefaces",
}
"""Modules that benchmarks import; the others are programs."""
PROGRAMS = [path for path in sorted(BENCHMARKS.glob("*.py")) if path.stem not in SHARED]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
NEEDS = {"compose": "peft", "figures": "matplotlib", "sweep": "ray", "data": "resvg_py"}
"""Packages of the optional extras."""


def needed(path):
    """Skip a program whose optional package is not installed."""
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])


@pytest.fixture
def beside(monkeypatch):
    """Make a program's neighbours importable, as Python does for a script that is run.

    Neighbours of one folder are forgotten afterwards: another may have the same names.
    """

    def of(folder):
        monkeypatch.syspath_prepend(folder)
        for path in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)

    before = set(sys.modules)
    yield of
    for name in set(sys.modules) - before:
        if "." not in name:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if Path(origin).is_relative_to(ROOT / "benchmarks") or "scripts" in origin:
                del sys.modules[name]


@pytest.mark.parametrize("path", [*PROGRAMS, *SCRIPTS], ids=lambda path: path.stem)
def test_its_help_is_its_first_line(path, beside, monkeypatch, capsys):
    if "__main__" not in path.read_text():
        pytest.skip("a module that the training scripts share")
    needed(path)
    beside(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    about = path.read_text().splitlines()[0].strip('"')
    assert about.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_they_share_is_used(name, beside):
    path = BENCHMARKS / f"{name}.py"
    if name == "peft_adapters":
        pytest.importorskip("peft")
    beside(BENCHMARKS)
    importlib.import_module(name)

    users = [
        other for other in BENCHMARKS.glob("*.py") if f"from {name} import" in other.read_text()
    ]
    assert users, f"{path} is imported by no benchmark"


def test_every_benchmark_is_in_the_table():
    readme = (BENCHMARKS / "README.md").read_text()
    missing = [path.name for path in PROGRAMS if f"benchmarks/{path.name}" not in readme]
    assert missing == []
