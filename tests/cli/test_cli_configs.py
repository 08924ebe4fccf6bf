"""Every YAML in configs/erase opens with a command that can be run, and makes settings."""

import shlex
from pathlib import Path

import pytest
import yaml

from multierase.cli.main import parser_of
from multierase.cli.requests import settings_of
from multierase.training.settings import EraseSettings

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "erase").glob("*.yaml"))


def command_of(path):
    """The words of the first line, as a shell would split them."""
    first = path.read_text().splitlines()[0]
    return shlex.split(first.removeprefix("# "))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_its_command_makes_the_settings_that_it_states(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, verb, *words = command_of(path)
    assert (program, verb) == ("multierase", "erase")
    assert words[words.index("--config") + 1] == str(path.relative_to(ROOT))

    arguments = parser_of(verb).read(words)
    settings = settings_of(EraseSettings, arguments)
    assert len(arguments.concepts) == 1  # "Van Gogh" is one concept
    assert not arguments.concepts[0].startswith("-")
    assert arguments.library == "lib/"
    for key, value in yaml.safe_load(path.read_text()).items():
        stated = getattr(settings, key) if hasattr(settings, key) else arguments[key]
        assert (list(stated) if isinstance(stated, tuple) else stated) == value, key


def test_there_are_configurations():
    assert {"emoji-studio.yaml", "sd-artist.yaml", "sd-nudity.yaml"} <= {p.name for p in CONFIGS}
