"""How people speak of a kind of concept: sentences, subjects, what is kept; from YAML.

``docs/kinds.md`` says how to write one.
"""

from __future__ import annotations

import math
import random
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from multierase.errors import UsageError, suggest
from multierase.prompts.wording import endings, plain, significant_words, with_article

SHIPPED = Path(__file__).with_name("kinds")
LARGEST_FILE = 2**20  # bytes of YAML, or of a list of names
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
OF_NAME = {"{name}", "{a_name}"}
OF_SUBJECT = {"{subject}", "{a_subject}"}


@dataclass(frozen=True)
class Kind:
    """How people speak of a kind of concept, such as an artist.

    A file of this kind is YAML. Its keys are these fields but ``name``, which is the file's, and
    ``beside_file``: a text file of more names for ``beside``, one a line, relative to the YAML.

    Args:
        about: one line for help and docs.
        sentences: by template its context: the template without the concept. Placeholders are
            ``{name}``, ``{subject}``, and with their indefinite article ``{a_name}``,
            ``{a_subject}``. The most usual templates come first.
        subjects: everyday subjects and scenes that fill ``{subject}``.
        beside: names of the same kind, which are kept.
        keep: captions to keep about this kind's neighbourhood; they name no concept.
        alike: groups of look-alikes, of other names of the same, of a class and what belongs to
            it. With one erased, the others are not kept. In YAML a list is a group, and a mapping
            stands for pairs: ``dog: [pug, beagle]`` for ``[dog, pug]`` and ``[dog, beagle]``.
        scope: default scope of an erasure.
        anchor: prompt whose prediction takes the concept's place.
        eta: default strength of the negative guidance; ``None`` for that of the settings.
    """

    name: str
    about: str
    sentences: Mapping[str, str]
    subjects: tuple[str, ...]
    beside: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    alike: tuple[frozenset[str], ...] = ()
    scope: str | None = None
    anchor: str = ""
    eta: float | None = None

    def sentences_about(
        self, name: str, forms: Sequence[str], words: Sequence[str], count: int, rng: random.Random
    ) -> list[str]:
        """Return ``count`` sentences about a name, in these forms in turn, with random words."""
        found = []
        for index in range(count):
            form = forms[index % len(forms)]
            found.append(self.sentence(form, name, rng.choice(words))[0])

        return found

    def sentence(self, template: str, name: str, subject: str) -> tuple[str, str]:
        """Return one of the ``sentences`` about ``name`` and ``subject``, and its context."""
        words = {
            "name": name,
            "a_name": with_article(name),
            "subject": subject,
            "a_subject": with_article(subject),
        }

        return template.format(**words), self.sentences[template].format(**words)

    def names_beside(self, concept: str) -> tuple[str, ...]:
        """Return ``beside`` without the concept and its relatives.

        Left out are the concept itself, names that share a significant word with it, and names
        that ``alike`` groups with it. A name belongs to a group if it ends in one of the group's:
        "Walker hound" is a hound. Case, accents, plurals and articles make no difference.
        """
        relatives, words = self._relatives(concept), significant_words(concept)

        kept = []
        for name in self.beside:
            if not endings(name) & relatives and not significant_words(name) & words:
                kept.append(name)

        return tuple(kept)

    def mentions(self, concept: str, text: str) -> bool:
        """Whether a subject or caption names the concept or what ``alike`` groups with it."""
        return any(f" {name} " in f" {plain(text)} " for name in self._relatives(concept))

    def _relatives(self, concept: str) -> set[str]:
        """Return, plainly written, the concept and the groups that list it, or its ending."""
        listing = [group for group in self._groups if plain(concept) in group]
        if not listing:  # "hot dog" is no dog, because it is listed as something else
            listing = [group for group in self._groups if group & endings(concept)]

        return {plain(concept)}.union(*listing)

    @cached_property
    def _groups(self) -> list[set[str]]:
        return [{plain(name) for name in group} for group in self.alike]


def shipped_kinds() -> list[str]:
    """Return the names of the kinds that come with the package."""
    return _kinds_in(SHIPPED)


def kinds_beside(folder: Path | None) -> list[str]:
    """Return the names of the kinds that can be asked for: a base's own, and then the shipped."""
    own = [] if folder is None else _kinds_in(folder)

    return list(dict.fromkeys([*own, *shipped_kinds()]))


def general_captions() -> tuple[str, ...]:
    """Return captions of everyday scenes that name no artist and no person."""
    return tuple((SHIPPED / "general.txt").read_text(encoding="utf-8").splitlines())


def load_kind(name: str | Path, folder: Path | None = None) -> Kind:
    """Load a kind.

    Args:
        name: a YAML file, if it ends so or holds a separator; otherwise the name of a kind of
            ``folder``, or of one that comes with the package.
        folder: kinds of a base's own, which come before those of the package.

    Raises:
        UsageError: for a kind that does not exist, or a file that is no kind; all that is wrong
            with it at once.
    """
    path = _find(str(name), folder)
    read = _read_yaml(path)
    names, wrong_names = _beside(path, read)
    problems = [*_problems(read), *wrong_names]
    if problems:
        raise UsageError("\n  ".join([f"kind {path}:", *problems]))

    return Kind(
        name=path.stem,
        about=read["about"],
        sentences=dict(read["sentences"]),
        subjects=tuple(read["subjects"]),
        beside=tuple(names),
        keep=tuple(read.get("keep", ())),
        alike=tuple(_groups(read.get("alike", ()))),
        scope=read.get("scope"),
        anchor=read.get("anchor", ""),
        eta=read.get("eta"),
    )


def _kinds_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _find(name: str, folder: Path | None) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name:
        if not Path(name).is_file():
            raise UsageError(f"no kind at {name}: give a YAML file, or one of {shipped_kinds()}")
        return Path(name)

    folders = [SHIPPED] if folder is None else [folder, SHIPPED]
    for place in folders:
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"

    known = sorted(kinds_beside(folder))
    raise UsageError(
        f"no kind {name!r}{suggest(name, known)}; give one of {known}, or the path of a YAML file"
    )


def _read_yaml(path: Path) -> dict:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"kind {path} is larger than {LARGEST_FILE} bytes: none is")
        read = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    # Dates and numbers that cannot be are ValueErrors, deep nesting is a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UsageError(f"kind {path} cannot be read as YAML: {error}") from error

    if not isinstance(read, dict):
        raise UsageError(f"kind {path} is {reprlib.repr(read)}; give the keys {sorted(KEYS)}")

    return read


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_sentences(value: object) -> bool:
    if not isinstance(value, dict):
        return False

    return all(_is_text(key) and isinstance(text, str) for key, text in value.items())


def _is_alike(value: object) -> bool:
    if not isinstance(value, list):
        return False

    by_class = [group for group in value if isinstance(group, dict)]
    lists = [group for group in value if group not in by_class]
    for group in by_class:
        lists += group.values()

    return all(map(_is_list, lists)) and all(_is_text(name) for group in by_class for name in group)


def _is_number(value: object) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value)

    return value is None


NAMES = "a list of texts, what YAML reads as numbers or truth values in quotes"
# By key what its value must be, and how a message calls that.
KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "about": (_is_text, "a line of text"),
    "sentences": (_is_sentences, 'by template its context, a text each, "" for none'),
    "subjects": (_is_list, NAMES),
    "beside": (_is_list, NAMES),
    "beside_file": (_is_text, "the path of a .txt file, relative to this file"),
    "keep": (_is_list, NAMES),
    "alike": (_is_alike, "a list of groups: lists of names, or by class a list of names"),
    "scope": (lambda value: value is None or _is_text(value), "a scope's name"),
    "anchor": (lambda value: isinstance(value, str), "a prompt"),
    "eta": (_is_number, "a number"),
}
NEEDED = ("about", "sentences", "subjects")


def _problems(read: Mapping) -> Iterator[str]:
    """Yield all that is wrong with a kind, as far as its own file shows it."""
    for key in sorted(map(str, read.keys() - KEYS.keys())):
        yield f"unknown key {key!r}{suggest(key, KEYS)}; keys are {sorted(KEYS)}"
    for key in NEEDED:
        if key not in read:
            yield f"no {key}: give {KEYS[key][1]}"

    for key, (is_right, called) in KEYS.items():
        if key not in read:
            continue
        value = read[key]
        if not is_right(value):
            yield f"{key} is {_shown(value)}; give {called}"
        elif key in ("sentences", "subjects") and not value:
            yield f"{key} is empty; give one or more"
        elif key == "sentences":
            for template, context in value.items():
                yield from _problems_of_sentence(template, context)
        elif key in ("subjects", "keep"):
            yield from _repeated(key, value)


def _shown(value: object) -> str:
    """Return what is given, or of a list the first item that is no text."""
    wrong = [item for item in value if not _is_text(item)] if isinstance(value, list) else []

    return f"a list with {reprlib.repr(wrong[0])}" if wrong else reprlib.repr(value)


def _problems_of_sentence(template: str, context: str) -> Iterator[str]:
    where = f"sentence {template!r} with context {context!r}"
    of_template = set(PLACEHOLDER.findall(template))
    of_context = set(PLACEHOLDER.findall(context))

    for unknown in sorted((of_template | of_context) - OF_NAME - OF_SUBJECT):
        allowed = sorted(OF_NAME | OF_SUBJECT)
        yield f"{where}: unknown {unknown}{suggest(unknown, allowed)}; give {', '.join(allowed)}"
    if set(PLACEHOLDER.sub("", template + context)) & set("{}"):
        yield f"{where}: a brace without its other one"

    if not of_template & OF_NAME:
        yield f"{where} has no place for the concept: give {{name}} or {{a_name}}"
    if of_context & OF_NAME:
        yield f"{where}: the context names the concept, leave it out there"
    if of_context & OF_SUBJECT - of_template:
        yield f"{where}: the context may have only the sentence's own form of the subject"


def _repeated(key: str, names: Sequence[str]) -> Iterator[str]:
    """Yield one problem for each name that is listed again, in whatever case."""
    seen = set()
    for name in names:
        if name.strip().casefold() in seen:
            yield f"{key} has {name!r} twice: list it once"
        seen.add(name.strip().casefold())


def _beside(path: Path, read: Mapping) -> tuple[list[str], list[str]]:
    """Return the names beside a concept, the file's first, and what is wrong with them."""
    names = read["beside"] if _is_list(read.get("beside")) else []
    if _is_text(read.get("beside_file")):
        file = path.parent / read["beside_file"]
        # A base's own kind could otherwise make prompts of any file of its user's.
        if file.suffix != ".txt" or not file.is_file() or file.stat().st_size > LARGEST_FILE:
            return [], [f"beside_file: no list of names at {file}: give a .txt, one name a line"]
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except ValueError as error:
            return [], [f"beside_file: {file} cannot be read as UTF-8 text: {error}"]
        names = [line.strip() for line in lines if line.strip()] + names

    return names, list(_repeated("beside", names))


def _groups(alike: Sequence) -> Iterator[frozenset[str]]:
    for group in alike:
        if isinstance(group, list):
            yield frozenset(group)
            continue
        for name, members in group.items():
            for member in members:
                yield frozenset((name, member))
