"""What the pages show to be typed: commands, Python, files, and the outputs beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in path.parts
)
FILE = re.compile(r"<!-- file: (\S+) -->")
NAMED = re.compile(r"# (\S+\.ya?ml)\b")  # the first line of a YAML file names it
NUMBER = re.compile(r"-?\d[\d,.]*(?:e[-+]?\d+)?%?")
DIRECTIVES = ("{eval-rst}", "{toctree}")


@dataclass(frozen=True)
class Snippet:
    """A block of a page.

    Args:
        what: ``command`` (one line), ``python``, ``file``, ``output`` of what comes before, or
            ``shown``, which is neither typed nor printed.
        name: of a file.
    """

    what: str
    text: str
    line: int
    name: str = ""


def snippets(page: str) -> list[Snippet]:
    """Return a page's blocks, in their order.

    Raises:
        ValueError: for a fence in a language that nobody runs.
    """
    found: list[Snippet] = []
    comment = ""
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.strip() if token.type == "fence" else "shell"
            line = (token.map or [0])[0] + 1
            found += _of(language, token.content, line, comment, found)
        if token.nesting >= 0 and token.type != "inline":
            comment = token.content if token.type == "html_block" else ""

    return found


def _of(
    language: str, text: str, line: int, comment: str, before: list[Snippet]
) -> Iterator[Snippet]:
    if language.split(" ")[0] in DIRECTIVES:
        return
    if named := FILE.search(comment) or (language == "yaml" and NAMED.match(text)):
        yield Snippet("file", text, line, named[1])
    elif language == "shell":
        for number, command in enumerate(_commands(text)):
            yield Snippet("command", command, line + number)
    elif language == "python":
        yield Snippet("python", text, line)
    elif language == "text":
        follows = bool(before) and before[-1].what in ("command", "python")
        yield Snippet("output" if follows else "shown", text, line)
    else:
        raise ValueError(f"line {line}: nobody runs a block in {language!r}")


def _commands(text: str) -> list[str]:
    """Return the lines of a block that are commands, continued ones joined."""
    joined = re.sub(r"\\\n\s*", "", text)

    return [line.strip() for line in joined.splitlines() if line.strip()]


def matches(stated: str, printed: str) -> bool:
    """Whether each paragraph of a page's output was printed, whatever the numbers: these differ.

    ``...`` stands for any words.
    """
    words = " ".join(_words(printed))
    paragraphs = [_words(paragraph) for paragraph in re.split(r"\n\s*\n", stated.strip())]
    patterns = [r"\s+".join(map(_pattern, paragraph)) for paragraph in paragraphs]

    return all(re.search(rf"(?:^|\s){pattern}(?:\s|$)", words) for pattern in patterns)


def _words(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not re.fullmatch(r"[\s─]*", line)]

    return NUMBER.sub("#", " ".join(lines)).split()


def _pattern(word: str) -> str:
    return r".*?" if word == "..." else re.escape(word)
