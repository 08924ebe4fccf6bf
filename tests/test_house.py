"""The house rules that can be measured, over every module of the package."""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import multierase

ROOT = Path(multierase.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Parameter names and classes of one architecture.
ARCHITECTURE = re.compile(r"unet|\battn[12]\b|StableDiffusion|stable-diffusion", re.I)
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    """Count the lines of a function's body, its docstring aside."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if has_docstring else first.lineno - 1

    return function.end_lineno - start


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_is_short_and_keeps_the_rules(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_MODULE
    assert "sys.path" not in source

    nodes = list(ast.walk(ast.parse(source)))
    assert not any(isinstance(node, ast.Assert) for node in nodes)
    names = [
        node.func.id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "print" not in names or name_of(path).startswith("cli/")
    for function in functions(path):
        assert function.end_lineno - function.lineno <= LONGEST_FUNCTION + 20, function.name
        assert body_lines(function) <= LONGEST_FUNCTION, function.name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_models_name_an_architecture(path):
    # Other tools' files have names of architectures inside.
    if name_of(path).startswith(("models/", "interop/")):
        return

    found = [line for line in path.read_text().splitlines() if ARCHITECTURE.search(line)]
    assert found == []


def test_every_load_of_a_pickle_is_of_weights_alone():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                stated = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert stated.get("weights_only") == "True", (path, node.lineno)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Auto"):
                stated = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert stated.get("trust_remote_code") == "False", (path, node.lineno)


def test_functions_are_small():
    sizes = [body_lines(function) for path in FILES for function in functions(path)]

    assert statistics.median(sizes) <= 10
    assert statistics.quantiles(sizes, n=10)[-1] < 30


def test_code_reads_in_paragraphs():
    """Blank lines and comments in bodies, and few comprehensions, as in the codebases we admire."""
    lines = blank = comments = comprehensions = nested = 0
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for path in FILES:
        source = path.read_text()
        tree, text = ast.parse(source), source.splitlines()
        for function in functions(path):
            body = text[function.end_lineno - body_lines(function) : function.end_lineno]
            lines += len(body)
            blank += sum(not line.strip() for line in body)
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                comprehensions += 1
                nested += sum(isinstance(inner, kinds) for inner in ast.walk(node)) - 1

    assert blank / lines >= 0.03, blank / lines
    assert comments / lines >= 0.03, comments / lines
    assert 1000 * comprehensions / lines <= 80, comprehensions
    assert nested <= 12, nested
