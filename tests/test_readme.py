"""The README is run as it stands: its Python, and its command lines."""

import re
import shlex
from pathlib import Path

from multierase.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def section(name):
    return README.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]


def test_commands_then_python(tmp_path, monkeypatch):
    """In the order of the page, in one folder; the demo has a test of its own."""
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    multierase (.+)$", README.split("## Erase, compose")[1].split("The same in")[0], re.M)
    assert len(commands) == 7
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    for path in (
        "lib/twemoji.safetensors",
        "lib/noto.safetensors",
        "sheet.png",
        "crosstalk.png",
        "small/noto.safetensors",
        "served/model_index.json",
    ):
        assert (tmp_path / path).exists()
    commands = re.findall(r"^    multierase (.+)$", section("evaluate"), re.M)
    assert [main(shlex.split(command)) for command in commands] == [0, 0, 0]
    assert "Noto + Twemoji" in (tmp_path / "report" / "index.html").read_text()
    code = section("python").replace("```python", "").replace("```", "")
    names = {}
    exec(code, names)
    assert names["image"].size == (64, 64)
    assert names["both"].concept == "Twemoji + Noto"
    assert dict(names["composer"].off) == {}
