"""Suites: prompts with their seeds, and what a judge should see in each; from YAML and CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from multierase.evaluation.judges import ClipJudge, EmojiJudge, Judge
from multierase.generate import SamplingSettings
from multierase.increments import suggest

SHIPPED = resources.files("multierase") / "assets" / "suites"
SEED_COLUMNS = ("evaluation_seed", "sd_seed")  # the peers' names for it
JUDGES = ("emoji", "clip")
KEYS = {"name", "about", "prompts", "labels", "judge", "inference_steps", "guidance_scale"}


@dataclass(frozen=True)
class Case:
    """One picture to make: ``labels`` are what its prompt asks for, by kind, such as ``{"studio": "Noto"}``."""

    number: int
    prompt: str
    seed: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Suite:
    """Prompts, and how to make and judge their pictures.

    A concept of a library belongs to the kind of label, its domain, that has a class of its name.
    """

    name: str
    cases: tuple[Case, ...]
    judge: Mapping[str, str]
    sampling: SamplingSettings

    def domain(self, concept: str) -> str | None:
        """The kind of label that ``concept`` is a class of; ``None`` where no case asks for it."""
        for case in self.cases:
            for kind, label in case.labels.items():
                if label.lower() == concept.lower():
                    return kind
        return None

    def classes(self) -> dict[str, list[str]]:
        """For each kind of label, what cases ask for, in their order."""
        found: dict[str, dict[str, None]] = {}
        for case in self.cases:
            for kind, label in case.labels.items():
                found.setdefault(kind, {})[label] = None
        return {kind: list(labels) for kind, labels in found.items()}

    def require(self, names: Sequence[str]) -> None:
        """Raises ``ValueError`` for a concept that no case asks for."""
        classes = [label for labels in self.classes().values() for label in labels]
        for name in names:
            if name not in classes:
                raise ValueError(f"suite {self.name!r} asks for no {name!r}{suggest(name, classes)}; it has {classes}")

    def load_judge(self) -> Judge:
        """The judge.

        Raises:
            ValueError: where it cannot see what the suite asks for.
            FileNotFoundError: where its weights are not at hand.
        """
        options = dict(self.judge)
        if options.pop("name") == "emoji":
            judge = EmojiJudge.load()
        else:
            judge = ClipJudge.load(options.pop("model"), self.classes(), options)
        for case in self.cases:
            for kind, label in case.labels.items():
                if label not in judge.classes.get(kind, ()):
                    raise ValueError(
                        f"suite {self.name!r}, case {case.number}: {judge.name} cannot see {kind} {label!r}"
                        f"{suggest(label, judge.classes.get(kind, ()))}; it sees {list(judge.classes)}"
                    )
        return judge


def shipped_suites() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))


def load_suite(source: str | Path) -> Suite:
    """A shipped suite by name, or a YAML file.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for unknown keys, a judge that there is not, or a CSV without its columns; all before any picture.
    """
    path = SHIPPED / f"{source}.yaml" if str(source) in shipped_suites() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no suite {str(source)!r}: give a YAML file, or one of {shipped_suites()}")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(read, dict) or not {"prompts", "labels", "judge"} <= read.keys():
        raise ValueError(f"suite {path}: give at least prompts, labels and judge")
    unknown = sorted(read.keys() - KEYS)
    if unknown:
        raise ValueError(f"suite {path}: unknown key {unknown[0]!r}{suggest(unknown[0], KEYS)}; keys: {sorted(KEYS)}")
    judge = {"name": read["judge"]} if isinstance(read["judge"], str) else dict(read["judge"])
    if judge.get("name") not in JUDGES or (judge["name"] == "clip" and "model" not in judge):
        raise ValueError(
            f"suite {path}: judge {read['judge']!r}; give one of {list(JUDGES)}, clip with the folder or hub id of its "
            "model: {name: clip, model: openai/clip-vit-large-patch14}"
        )
    sampling = {key: read[key] for key in ("inference_steps", "guidance_scale") if key in read}
    cases = read_cases(path.parent / read["prompts"], read["labels"])
    return Suite(read.get("name", path.name.removesuffix(".yaml")), cases, judge, SamplingSettings(**sampling))


def read_cases(path: Path, labels: list[str]) -> tuple[Case, ...]:
    """Cases of a CSV with the peers' columns: ``case_number``, ``prompt``, ``evaluation_seed`` (or ``sd_seed``), and
    one for each kind of label; a case with an empty label does not ask for any of that kind.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a missing column, a number that is none, or a case number that comes twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no prompts at {path}: a suite's CSV lies beside its YAML file")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        seed = next((name for name in SEED_COLUMNS if name in columns), None)
        wanted = ["case_number", "prompt", *labels]
        missing = [name for name in wanted if name not in columns] + ["evaluation_seed"] * (seed is None)
        if missing:
            raise ValueError(f"{path}: no column {missing}; its columns are {columns}")
        cases, numbers = [], set()
        for line, row in enumerate(rows, start=2):
            try:
                number, noise = int(row["case_number"]), int(row[seed])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {line}: case_number and {seed} are whole numbers, given {row['case_number']!r} and "
                    f"{row[seed]!r}"
                ) from None
            if number in numbers:
                raise ValueError(f"{path}, line {line}: case {number} is there already")
            numbers.add(number)
            asked = {kind: row[kind].strip() for kind in labels if (row[kind] or "").strip()}
            cases.append(Case(number, row["prompt"].strip(), noise, asked))
    if not cases:
        raise ValueError(f"{path}: holds no case")
    return tuple(cases)
