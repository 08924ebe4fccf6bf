"""How data flows is how the package reads: a module imports only from those above it."""

import ast
from pathlib import Path

import pytest

import multierase

ROOT = Path(multierase.__file__).parent
ORDER = [
    "multierase",
    "multierase.concepts",
    "multierase.text",
    "multierase.base",
    "multierase.trajectories",
    "multierase.objectives",
    "multierase.stopping",
    "multierase.decoupling",
    "multierase.increments",
    "multierase.erase_settings",
    "multierase.examples",
    "multierase.student",
    "multierase.training",
    "multierase.library",
    "multierase.composer",
    "multierase.interop",
    "multierase.generate",
    "multierase.evaluation",
    "multierase.evaluation.clip",
    "multierase.evaluation.judges",
    "multierase.evaluation.accuracy",
    "multierase.evaluation.classifiers",
    "multierase.evaluation.nudity",
    "multierase.evaluation.measures",
    "multierase.evaluation.metrics",
    "multierase.evaluation.suites",
    "multierase.evaluation.plans",
    "multierase.evaluation.baselines",
    "multierase.evaluation.evaluator",
    "multierase.evaluation.executors",
    "multierase.evaluation.database",
    "multierase.evaluation.sweep",
    "multierase.evaluation.report",
    "multierase.evaluation.page",
    "multierase.demo",
    "multierase.settings",
    "multierase.arguments",
    "multierase.console",
    "multierase.evaluation.verbs",
    "multierase.cli",
    "multierase.__main__",
]
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    return ".".join(("multierase", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_module_has_its_place():
    assert sorted(map(name_of, FILES)) == sorted(ORDER)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_upwards(path):
    place = ORDER.index(name_of(path))
    ours = {name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] == "multierase"}
    assert {name for name in ours if ORDER.index(name) >= place} == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    source = path.read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) <= 400
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "print" not in calls or path.name == "cli.py"
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert "sys.path" not in source
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            assert function.end_lineno - function.lineno <= 60, function.name
