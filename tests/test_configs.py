"""Every YAML says how it is run, and can be."""

from pathlib import Path

import pytest

from multierase.cli import build_parser
from multierase.increments import SCOPES
from multierase.settings import parse

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_opens_with_its_command_and_parses(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    first = path.read_text().splitlines()[0]
    assert first.startswith("# multierase ")
    words = first.removeprefix("# multierase ").replace('"', "").split()
    assert str(path.relative_to(ROOT)) in words
    parsed = parse(*build_parser(), words)
    assert parsed[parsed.verb].scope in SCOPES


def test_the_readmes_table_of_scopes_is_the_codes():
    readme = (ROOT / "README.md").read_text()
    table = readme.split("<!-- scopes -->")[1].split("<!-- end -->")[0]
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, (meaning, _) in SCOPES.items())
    assert table.strip() == f"| scope | what it touches |\n|---|---|\n{rows}"
