"""Every command and every Python snippet of the pages is run, in the order of the page."""

from __future__ import annotations

import runpy
import shlex
import sys

import pytest
from peers_by_hand import esd, random_deltas, trained
from snippets import PAGES, ROOT, Snippet, matches, snippets

from multierase.cli.main import main, parser_of

# What cannot run here, by how its line begins, with the reason. Ours are parsed all the same.
NOT_RUN = {
    "pip install": "needs a package index; .ci/run runs the README's line",
    "python -m pytest": "these are the tests",
    "python scripts/combinatorial_evaluation.py": "tests/test_scripts.py runs it",
    "ray start": "starts a daemon; tests/evaluation/test_sweep_on_ray.py has a cluster",
    "multierase sweep --suite studios --library lib/ --sets pairs --database sweep.db --executor": (
        "needs a cluster at an address"
    ),
    "multierase erase --concepts-file artists.txt --library lib/ --executor ray": (
        "needs a cluster at an address"
    ),
    "hf upload": "needs a hub",
    "multierase demo": "tests/cli/test_cli_demo.py and tests/test_demo.py run it",
    "multierase app": "serves until it is stopped",
}


# What a command is given beside its own flags, so that it takes seconds.
QUICKLY = {
    "attack": ("--inference-steps", "1", "--attack-cases", "1", "--attack", "random"),
    "evaluate": ("--inference-steps", "1"),
    "sweep": ("--inference-steps", "1", "--workers", "1"),
}
# Files that a reader has got from others.
PEERS = {"docs/formats.md": ("esd-noto.safetensors", "uce-three.safetensors")}
# What is there after the last line, on pages that promise files.
LEFT = {
    "README.md": ("studios/noto.safetensors", "sheet.png", "served/model_index.json"),
    "docs/tutorial.md": ("base.png", "lib/twemoji.safetensors", "restored.png", "church.png"),
    "docs/how-to/restore.md": ("both/unet", "restored/unet", "lib/noto.safetensors"),
    "docs/how-to/evaluate.md": ("report/index.html", "report/table.csv", "order.db"),
    "docs/how-to/share.md": ("to-upload/README.md", "to-upload/noto.safetensors"),
}


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def parts_of(command: str) -> list[str]:
    return [part.strip() for part in command.split(" && ")]


class Page:
    """A page as a reader follows it: one folder, one Python session."""

    def __init__(self, capsys: pytest.CaptureFixture):
        self.capsys = capsys
        self.names: dict = {"__name__": "__page__"}
        self.printed = ""

    def follow(self, snippet: Snippet) -> None:
        """Do what a snippet says."""
        if snippet.what == "output":
            assert matches(snippet.text, self.printed), f"{self.printed}\n!=\n{snippet.text}"
        elif snippet.what == "file":
            with open(snippet.name, "w", encoding="utf-8") as file:
                file.write(snippet.text)
        elif snippet.what == "python":
            self._keep_printed(lambda: exec(snippet.text, self.names))
        elif snippet.what == "command":
            for part in parts_of(snippet.text):
                self._keep_printed(lambda part=part: run(part))

    def _keep_printed(self, act) -> None:
        self.capsys.readouterr()
        act()
        shown = self.capsys.readouterr()
        self.printed = shown.out + shown.err


def run(command: str) -> None:
    """Run one command, or parse it if it cannot run here."""
    program, *words = shlex.split(command)
    if reason_not_to_run(command) is not None:
        if program == "multierase":
            parser_of(words[0]).read(words[1:])
    elif program == "multierase":
        here = ("--workers", "1") if "--concepts-file" in words else ()
        assert main([*words, *QUICKLY.get(words[0], here)]) == 0, command
    elif program == "python" and words[0].startswith("scripts/"):
        before, sys.argv = sys.argv, words
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        finally:
            sys.argv = before
    else:
        raise AssertionError(f"nobody runs {command!r}")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)])
def test_a_page_does_what_it_says(page, stand_ins, emoji, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in PEERS.get(page, ()):
        esd(trained(emoji, random_deltas(emoji, "esd-x-strict")), tmp_path / name)
    reader = Page(capsys)

    for snippet in snippets(page):
        try:
            reader.follow(snippet)
        except BaseException as error:
            error.add_note(f"{page}:{snippet.line}: {snippet.text}")
            raise

    for name in LEFT.get(page, ()):
        assert (tmp_path / name).exists(), name
