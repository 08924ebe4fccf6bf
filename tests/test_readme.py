"""What README, docs and CONTRIBUTING say is run, parsed or compared with what is there."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from multierase import Workspace
from multierase.cli.main import parser_of
from multierase.cli.options import VERBS, common
from multierase.models.scopes import FAMILIES

ROOT = Path(__file__).parents[1]
SITE = tuple(sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
DOCS = ("README.md", "CONTRIBUTING.md", *SITE)
PAGES = (*DOCS, "CHANGELOG.md", "multierase/assets/emoji/README.md")

# Words of the first version that point both ways, or that stopped a reader.
UNPLAIN = (
    r"\b(is|are|be|being|stay|stays) off\b",
    r"\b(put|puts|putting|taken|take|taking) (on|off)\b",
    r"\bon and off\b",
    r"\bone file a\b",
    r"still in its hand",
    r"\bgiv\w+ (one|it|them|the first) back\b|\bgiven back\b",
    r"buys? nothing|buy nothing",
    r"erased \(worst\)",
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


README = text_of("README.md")
RESULTS = text_of("docs/explanation/results.md")


def section(name: str) -> str:
    """Return what stands between two of the README's markers."""
    return README.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]


def indented(text: str) -> list[str]:
    """Return the command lines of a text: its lines indented by four blanks."""
    return re.findall(r"^    (\S.*)$", text, re.M)


def commands_of(text: str) -> list[str]:
    """Return what follows ``multierase`` in indented lines, and in blocks for a shell."""
    blocks = re.findall(r"^```shell\n(.*?)^```", text, re.M | re.S)
    joined = [re.sub(r"\\\n\s*", "", block) for block in blocks]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)

    found = []
    for line in [*indented(outside), *"\n".join(joined).splitlines()]:
        found += [part.split(maxsplit=1)[1] for part in line.split(" && ") if is_ours(part)]

    return found


def is_ours(command: str) -> bool:
    return command.startswith("multierase ")


def code_spans(text: str) -> list[str]:
    """Return the text between single backticks, joined to one line."""
    outside_blocks = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)

    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside_blocks)]


def prose_of(text: str) -> str:
    """Return a text without its code, so that only sentences and tables are left."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^    \S.*$", "", text, flags=re.M)

    return re.sub(r"`[^`]+`", "", text)


def python_example() -> str:
    return section("python").replace("```python", "").replace("```", "")


def test_the_python_example_names_what_there_is():
    """``tests/docs`` runs it, with all other snippets and commands of the pages."""
    tree = ast.parse(python_example())
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in used if ast.unparse(node.value) == "workspace"}

    assert {"train", "erase", "restore", "erasing", "restore_all"} <= names
    assert [name for name in sorted(names) if not hasattr(Workspace, name)] == []


def test_the_readme_is_short():
    """One picture, ten lines of Python, three tables; the rest is in docs."""
    assert len(README) <= 11_000
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 2  # what it does, and the page
    assert len([line for line in python_example().splitlines() if line.strip()]) == 10
    assert len(re.findall(r"^\|[-|]+\|$", README, re.M)) == 3


@pytest.mark.parametrize("page", DOCS)
def test_every_command_line_parses(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, settings in re.findall(
        r"^```yaml\n# (\S+\.yaml)(.*?)^```", text_of(page), re.M | re.S
    ):
        (tmp_path / name).write_text(f"#{settings}", encoding="utf-8")

    for command in commands_of(text_of(page)):
        verb, *rest = shlex.split(command)
        parser_of(verb).read(rest)


def test_there_are_commands_to_parse():
    assert len(commands_of(README)) == 6
    assert sum(len(commands_of(text_of(page))) for page in DOCS) > 60


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_that_is_named_exists(page):
    for span in code_spans(text_of(page)):
        if is_ours(span):
            verb = span.split()[1]
            assert verb in {*VERBS, "VERB", "--version"}, span


def flags_that_exist() -> set[str]:
    """Return the flags of every verb, and those of the benchmarks and scripts by their source."""
    options = [option for verb in VERBS.values() for option in [*verb.options(), *common()]]
    flags = {option.label for option in options} | {option.name for option in options}
    for folder in ("benchmarks", "scripts", "scripts/build_base"):
        for path in (ROOT / folder).glob("*.py"):
            flags |= set(re.findall(r'"(--[a-z][\w-]*)"', path.read_text(encoding="utf-8")))

    return flags | {"--help", "--version"}


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_flag_that_is_named_exists(page):
    """The changelog names flags that are gone."""
    named = set()
    for span in code_spans(text_of(page)):
        named |= {flag.split(".")[0] for flag in re.findall(r"(?<!\S)(--[a-z][\w.-]*)", span)}

    assert named - flags_that_exist() == set()


def test_the_two_commands_of_the_readme_are_as_promised():
    assert indented(section("demo")) == [
        "pip install torch==2.13.0 && pip install -e . && multierase demo --out demo/"
    ]
    assert indented(section("test")) == [
        'pip install torch==2.13.0 && pip install -e ".[test]" '
        "&& python -m pytest -n 2 --dist loadfile"
    ]


def test_installation_is_as_setup_says():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    least = setup["options"]["python_requires"].removeprefix(">=")
    assert f"Python {least} or newer" in README

    extras = {extra for page in DOCS for extra in re.findall(r'"\.\[([\w,]+)\]"', text_of(page))}
    named = {name for extra in extras for name in extra.split(",")}
    assert named
    assert named <= set(setup["options.extras_require"])


def test_the_scopes_are_the_models():
    rows = re.findall(r"^\| [^`|]+ \| `([\w-]+)` \| (.+) \|$", section("scopes"), re.M)
    scopes = {
        (name, scope.about) for family in FAMILIES.values() for name, scope in family.scopes.items()
    }

    assert len(rows) == len(scopes)
    assert set(rows) == scopes


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent

    for target in re.findall(r"\]\(([^)#\s]+)\)", text_of(page)):
        if not target.startswith("http"):
            assert (folder / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    rooms = "benchmarks|configs|docs|scripts|tests|multierase"
    inner = "cli|evaluation|increments|interop|methods|models|prompts|separation|training"
    for span in code_spans(text_of(page)):
        for path in re.findall(rf"(?<![\w./-])(?:{rooms})/[\w./-]*", span):
            assert (ROOT / path).exists(), path
        for path in re.findall(rf"(?<![\w./-])(?:{inner})/[\w./-]*", span):
            assert (ROOT / "multierase" / path).exists(), path


@pytest.mark.parametrize("page", SITE)
def test_every_result_that_is_named_is_committed(page):
    names = {span for span in code_spans(text_of(page)) if re.fullmatch(r"\w+\.json", span)}

    for name in names - {"model_index.json", "config.json"}:  # those are diffusers'
        assert (ROOT / "benchmarks" / "results" / name).is_file(), name


@pytest.mark.parametrize("page", PAGES)
def test_words_are_plain(page):
    prose = " ".join(prose_of(text_of(page)).split())
    found = [match[0] for words in UNPLAIN for match in re.finditer(words, prose, re.I)]

    assert found == []


def rows_under(header: str) -> Iterator[list[str]]:
    """Yield the cells of the table of the results with this header."""
    lines = RESULTS.split(header)[1].splitlines()
    for line in lines[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def percents(cell: str) -> list[float]:
    return [float(number) / 100 for number in re.findall(r"([\d.]+)%", cell)]


def test_each_studio_alone_is_as_measured():
    """The numbers are those of the committed results, to what one decimal can show."""
    results = json.loads(text_of("benchmarks/results/erase_quality.json"))["studios"]
    header = "| erased | base | remaining (worst) |"
    rows = {name: cells for name, *cells in rows_under(header)}
    assert rows.keys() == results.keys()

    for name, (base, remaining, kept, subject, evaluations) in rows.items():
        cell = results[name]
        left = cell.get("remaining", cell.get("erased"))
        others = cell["others_relative"]
        right = cell["subject"]
        assert percents(base)[0] == pytest.approx(cell["base"]["median"], abs=6e-3)
        for shown, (median, worst) in (
            (remaining, (left["median"], left["max"])),
            (kept, (others["median"], others["min"])),
            (subject, (right["median"], right["min"])),
        ):
            assert percents(shown) == pytest.approx([median, worst], abs=6e-4), name
        assert int(evaluations) == pytest.approx(cell["unet_evaluations"]["median"], abs=1)


def test_the_numbers_of_the_readme_are_those_of_the_results():
    """Its rows are some of the longer table's, whose names may be longer too."""
    longer = [re.findall(r"[\d.]+%", line) for line in RESULTS.splitlines() if line[:2] == "| "]
    rows = [line for line in section("results").splitlines() if "%" in line]
    assert len(rows) == 5

    for row in rows:
        assert re.findall(r"[\d.]+%", row) in longer, row


def test_the_model_card_is_its_source_with_numbers():
    """Prose is written once, in ``model_card.md``; ``evaluate.py`` fills in what it measured."""
    source = text_of("scripts/build_base/model_card.md")
    parts = re.split(r"\{\w+\}", source)
    pattern = ".+?".join(re.escape(part) for part in parts)

    assert re.fullmatch(pattern, text_of("multierase/assets/emoji/README.md"), re.S)
