"""The cases of a suite: pictures to make, from a CSV with prompts or from templates."""

from __future__ import annotations

import csv
import itertools
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multierase.errors import PromptFileError, SuiteError
from multierase.files import plain

SEED_COLUMNS = ("evaluation_seed", "sd_seed")  # the peers' names for it
WITHOUT = "without_{kind}"  # the column of what of a prompt is left without its concept
MOST_CASES = 1_000_000  # of a template: more is a slip of the pen, and would fill the memory
MOST_NUMBER = 2**63  # what a random generator and a database take as a whole number


def short(value: object) -> str:
    """Return a value for a message: what is nested deeply or long is left out."""
    shown = reprlib.Repr()
    shown.maxlevel = 2

    return shown.repr(value)


@dataclass(frozen=True)
class Case:
    """One picture to make.

    ``labels``: what its prompt asks for, by kind of label, such as ``{"studio": "Noto"}``.
    ``without``: by kind the same prompt without what it asks for of that kind.
    """

    number: int
    prompt: str
    seed: int
    labels: Mapping[str, str]
    without: Mapping[str, str] = field(default_factory=dict)


def filled_templates(read: Mapping, where: str) -> tuple[Case, ...]:
    """Fill every template with every combination of labels, each at the same seeds.

    Where the suite gives the number of seeds, they count from 0. Pictures of equal seeds have equal
    noise.

    Args:
        read: the suite's ``template``, ``labels`` and ``seeds``.
        where: names the suite in messages.

    Raises:
        SuiteError: for labels without lists of classes, seeds that are none, or templates without
            a place for every kind of label.
    """
    templates, labels = _templates(read, where), _classes(read["labels"], where)
    seeds = _seeds(read.get("seeds", 1), where)
    _require_places(templates, labels, where)
    _require_feasible(labels, len(templates) * len(seeds), where)

    cases = []
    for classes in itertools.product(*labels.values()):
        asked = dict(zip(labels, classes, strict=True))
        for template, seed in itertools.product(templates, seeds):
            cases.append(Case(len(cases), _filled(template, asked), seed, asked))

    return tuple(cases)


def _filled(template: str, asked: Mapping[str, str]) -> str:
    for kind, label in asked.items():
        template = template.replace(f"{{{kind}}}", label)

    return template


def _templates(read: Mapping, where: str) -> list[str]:
    templates = read["template"]
    templates = [templates] if isinstance(templates, str) else templates
    if not _is_texts(templates):
        raise SuiteError(
            f"{where}: template {short(templates)}; give a sentence, or a list of sentences"
        )

    return templates


def _classes(labels: object, where: str) -> Mapping[str, Sequence[str]]:
    fine = isinstance(labels, dict) and all(map(_is_texts, labels.values()))
    if not fine:
        raise SuiteError(
            f"{where}: a template needs labels with a list of classes for each kind: {{class: [a]}}"
        )

    return labels


def _seeds(given: object, where: str) -> Sequence[int]:
    seeds = range(given) if _is_whole(given) else given
    listed = isinstance(seeds, list) and all(map(_is_whole, seeds))
    if not (listed or isinstance(seeds, range)) or len(seeds) == 0:
        raise SuiteError(
            f"{where}: seeds {short(given)}; give how many pictures of each prompt, or their seeds"
        )

    return seeds


def _require_places(templates: Sequence[str], labels: Mapping, where: str) -> None:
    for template in templates:
        lacking = [kind for kind in labels if f"{{{kind}}}" not in template]
        if lacking:
            raise SuiteError(f"{where}: template {template!r} has no {{{lacking[0]}}}")


def _require_feasible(labels: Mapping[str, Sequence[str]], each: int, where: str) -> None:
    count = math.prod(map(len, labels.values())) * each
    if count > MOST_CASES:
        raise SuiteError(f"{where}: {count} pictures, at most {MOST_CASES} can be judged")


def _is_texts(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(one, str) for one in given)


def _is_whole(given: object) -> bool:
    whole = isinstance(given, int) and not isinstance(given, bool)

    return whole and -MOST_NUMBER <= given < MOST_NUMBER


def read_cases(path: Path, labels: Sequence[str] | Mapping[str, Sequence[str]]) -> tuple[Case, ...]:
    """Read the cases of a CSV with the peers' columns; other columns are ignored.

    The columns are ``case_number`` (or else the row's number, from 0), ``prompt``,
    ``evaluation_seed`` (or ``sd_seed``), and one for each kind of label. A case with an empty label
    does not ask for anything of that kind. A column ``without_studio`` may have the same prompt
    without its studio, and so for every kind.

    Args:
        labels: kinds of label; or by kind the one class that every case asks for, which then needs
            no column.

    Raises:
        FileNotFoundError: if there is no such file.
        PromptFileError: for a file that is no UTF-8 text of rows and columns, a missing column or
            cell, a number that is none, a case number that comes twice, or no case at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no prompts at {path}: a suite's CSV lies beside its YAML file")

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cases = tuple(_Table(path, csv.DictReader(file), labels).cases())
    except (csv.Error, UnicodeDecodeError) as error:
        raise PromptFileError(
            f"{path} cannot be read as UTF-8 text in rows and columns: {error}"
        ) from error

    if not cases:
        raise PromptFileError(f"{path}: holds no case")

    return cases


class _Table:
    """A CSV's rows, and which of its columns are read."""

    def __init__(
        self, path: Path, rows: csv.DictReader, labels: Sequence[str] | Mapping[str, Sequence[str]]
    ):
        self.path, self.rows = path, rows
        columns = list(rows.fieldnames or ())
        self.fixed = _fixed(columns, labels)
        self.kinds = [kind for kind in labels if kind not in self.fixed]
        self.seed = next((name for name in SEED_COLUMNS if name in columns), SEED_COLUMNS[0])
        self.without = {}
        for kind in labels:
            if (column := WITHOUT.format(kind=kind)) in columns:
                self.without[kind] = column
        self._require_columns(columns)

    def _require_columns(self, columns: Sequence[str]) -> None:
        wanted = ["prompt", *self.kinds, self.seed]
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise PromptFileError(
                f"{self.path}: no column {missing}; its columns are "
                f"{[plain(column) for column in columns]}"
            )

        read = [*wanted, *self.without.values(), "case_number"]
        twice = [name for name in read if columns.count(name) > 1]
        if twice:
            raise PromptFileError(f"{self.path}: more than one column {twice}; give each once")

    def cases(self) -> Iterator[Case]:
        numbers: set[int] = set()
        for index, row in enumerate(self.rows):
            where = f"{self.path}, line {self.rows.line_num}"
            case = self._case(row, index, where)
            if case.number in numbers:
                raise PromptFileError(f"{where}: case {case.number} is there already")

            numbers.add(case.number)
            yield case

    def _case(self, row: dict, index: int, where: str) -> Case:
        # A short row has None in its last columns, a long one what is too much under None.
        read = ("prompt", self.seed, *self.kinds, *self.without.values())
        lacking = [name for name in read if row[name] is None]
        if lacking or any(cell.strip() for cell in row.get(None) or ()):
            raise PromptFileError(
                f"{where}: {'fewer' if lacking else 'more'} cells than there are columns; put text "
                "with commas or line breaks in quotes"
            )
        prompt = row["prompt"].strip()
        without = {kind: row[column].strip() for kind, column in self.without.items()}
        if any("\0" in text for text in (prompt, *without.values())):
            raise PromptFileError(f"{where}: the prompt holds a NUL character")

        given = row.get("case_number")
        number = _whole("case_number", given, where) if given is not None else index
        seed = _whole(self.seed, row[self.seed], where)
        asked = {kind: row[kind].strip() for kind in self.kinds if row[kind].strip()}

        return Case(
            number,
            prompt,
            seed,
            {**asked, **self.fixed},
            {kind: text for kind, text in without.items() if text},
        )


def _fixed(columns: Sequence[str], labels: object) -> dict[str, str]:
    """Return by kind of label the one class that every case asks for without a column."""
    if not isinstance(labels, Mapping):
        return {}

    found = {}
    for kind, names in labels.items():
        if kind not in columns and len(names) == 1:
            found[kind] = names[0]

    return found


def _whole(column: str, given: str, where: str) -> int:
    try:
        number = int(given)
    except ValueError:
        number = None

    if number is None or not _is_whole(number):
        raise PromptFileError(
            f"{where}: {column} is a whole number of at most 64 bits, given {plain(given)[:40]!r}"
        )

    return number
