"""Parts of the reference that the code knows, as Markdown: verbs and flags, settings, tables.

A page asks for one with a line such as ``<!-- from code: verbs -->``. A part that does not exist
ends the build.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from multierase.cli.flags import Option, choices_of, described_arguments
from multierase.cli.main import parser_of
from multierase.cli.options import VERBS, common
from multierase.evaluation.suites import SHIPPED as SUITES
from multierase.evaluation.suites import shipped_suites
from multierase.interop.sources import SOURCES, ImportSettings
from multierase.interop.targets import TARGETS, ExportSettings
from multierase.methods import METHODS
from multierase.models.scopes import FAMILIES
from multierase.prompts.kind import load_kind, shipped_kinds
from multierase.sampling import SamplingSettings
from multierase.training.settings import EraseSettings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PLACE = re.compile(r"^<!-- from code: (\S+) -->$", re.M)


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill in pages as Sphinx reads them."""
    app.connect("source-read", lambda app, page, source: source.__setitem__(0, filled(source[0])))

    return {"parallel_read_safe": True, "parallel_write_safe": True}


def filled(page: str) -> str:
    """Return a page with every part that it asks for. Raises ``KeyError`` for an unknown one."""
    return PLACE.sub(lambda place: PARTS[place[1]](), page)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]

    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def verbs() -> str:
    """Return every verb with its flags, each from its own parser."""
    return "\n\n".join(_verb(name) for name in VERBS)


def verb_list() -> str:
    """Return one line for each verb, with a link to its section."""
    return table(
        ("verb", "what it does"),
        [(f"[`{name}`](#{name})", verb.about) for name, verb in VERBS.items()],
    )


def _verb(name: str) -> str:
    """Return a verb's section: what it does, how it is called, an example, its flags by group."""
    verb, parser = VERBS[name], parser_of(name)
    shared = {option.key for option in common()}
    groups: dict[str, list[Option]] = {}
    for option in parser.options.values():
        if option.key not in shared:
            groups.setdefault(option.group, []).append(option)

    parts = [
        f"## {name}",
        _sentence(verb.about),
        f"```text\n{parser.usage}\n```",
        f"Example: `{verb.example}`",
    ]
    for group, options in groups.items():
        if group:
            parts.append(f"**{group[0].upper()}{group[1:]}**")
        parts.append(_definitions(options))

    return "\n\n".join(parts)


def flags_of_all() -> str:
    """Return the flags that every verb takes."""
    return _definitions(common())


def _definitions(options: Sequence[Option]) -> str:
    """Return a table of flags with what their help says."""
    rows = [
        (f"`{_called(option)}`", _escaped(option.described().replace("%%", "%")))
        for option in options
    ]

    return table(("argument", "what it is"), rows)


def _called(option: Option) -> str:
    """Return an option as the help calls it: ``--batch-size N``."""
    if option.positional:
        return option.key.upper() + (" ..." if option.several else "")
    if option.switch:
        return option.label

    metavar = option.for_argparse()["metavar"]
    return f"{option.label} {metavar}" + (" ..." if option.several else "")


def settings_of(kind: type) -> str:
    """Return a table of a settings class: fields, defaults, choices, from its docstring."""
    hints, about = get_type_hints(kind), described_arguments(kind)
    rows = []
    for field in dataclasses.fields(kind):
        default = "" if field.default in (None, "", ()) else f"`{_as_yaml(field.default)}`"
        choices = [f"`{choice}`" for choice in choices_of(hints[field.name])]
        text = about.get(field.name, "") + (f" (one of {', '.join(choices)})" if choices else "")
        rows.append((f"`{field.name}`", default, _escaped(text)))

    return table(("setting", "default", "what it is"), rows)


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def scopes() -> str:
    """Return a table of every family's scopes."""
    rows = []
    for family, names in FAMILIES.items():
        rows += [(f"`{family}`", f"`{name}`", scope.about) for name, scope in names.scopes.items()]

    return table(("family", "scope", "what it touches"), rows)


def kinds() -> str:
    """Return a table of the kinds that come with the package."""
    rows = []
    for name in shipped_kinds():
        kind = load_kind(name)
        sizes = [len(kind.sentences), len(kind.subjects), len(kind.beside), len(kind.keep)]
        rows.append(
            (f"`{name}`", kind.about, *map(str, sizes), f"`{kind.scope}`" if kind.scope else "")
        )

    return table(("kind", "about", "sentences", "subjects", "beside", "keep", "scope"), rows)


def methods() -> str:
    """Return a table of the methods that make increments."""
    return table(
        ("`--method`", "what it does", "paper"),
        [(f"`{name}`", one.about, f"<{one.paper}>") for name, one in METHODS.items()],
    )


def targets() -> str:
    """Return a table of the formats that are written."""
    rows = [
        (
            f"`{name}`",
            target.about,
            ", ".join(f"`{suffix}`" for suffix in target.suffixes) or "a folder",
            "added to a base" if target.adds else "a whole model",
        )
        for name, target in TARGETS.items()
    ]

    return table(("`--to`", "what it is", "file", ""), rows)


def sources() -> str:
    """Return a table of the formats that are read."""
    rows = [(source.about, source.writers, source.known_by) for source in SOURCES.values()]

    return table(("what it holds", "who writes it", "how it is recognised"), rows)


def suites() -> str:
    """Return a table of the suites that come with the package."""
    rows = []
    for name in shipped_suites():
        suite = yaml.safe_load((SUITES / f"{name}.yaml").read_text(encoding="utf-8"))
        judge = suite["judge"]
        rows.append(
            (f"`{name}`", suite["about"], f"`{judge if isinstance(judge, str) else judge['name']}`")
        )

    return table(("suite", "about", "judge"), rows)


def errors() -> str:
    """Return a table of the exceptions."""
    return table(("exception", "what it says"), _errors())


def _errors() -> Iterator[tuple[str, str]]:
    from multierase import errors as module

    for name, one in vars(module).items():
        if isinstance(one, type) and issubclass(one, module.MultieraseError):
            bases = [base.__name__ for base in one.__bases__ if base is not Exception]
            also = f" Also a `{bases[-1]}`." if bases[1:] else ""
            yield f"`{name}`", (one.__doc__ or "").splitlines()[0] + also


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _escaped(text: str) -> str:
    """Return help as Markdown: nothing in it is markup."""
    return re.sub(r"([*_<>\[\]$])", r"\\\1", text)


PARTS: dict[str, Callable[[], Any]] = {
    "verbs": verbs,
    "verb-list": verb_list,
    "flags-of-all": flags_of_all,
    "erase-settings": lambda: settings_of(EraseSettings),
    "sampling-settings": lambda: settings_of(SamplingSettings),
    "export-settings": lambda: settings_of(ExportSettings),
    "import-settings": lambda: settings_of(ImportSettings),
    "scopes": scopes,
    "kinds": kinds,
    "methods": methods,
    "targets": targets,
    "sources": sources,
    "suites": suites,
    "errors": errors,
}
