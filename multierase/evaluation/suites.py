"""Suites: prompts with their seeds, and what a judge should see in each; from YAML and CSV."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import yaml

from multierase.evaluation.classifiers import classifier_judge, imagenet_judge
from multierase.evaluation.clip import Clip
from multierase.evaluation.judges import ClipJudge, EmojiJudge, Judge
from multierase.evaluation.nudity import NudeNetJudge
from multierase.generate import SamplingSettings
from multierase.increments import suggest

SHIPPED = resources.files("multierase") / "assets" / "suites"
SEED_COLUMNS = ("evaluation_seed", "sd_seed")  # the peers' names for it
KEYS = {
    "name", "about", "prompts", "published", "template", "seeds", "labels", "judge", "clip", "thumbnails",
    "inference_steps", "guidance_scale",
}  # fmt: skip
Classes = Mapping[str, Sequence[str]]
Options = Mapping[str, str | float]


@dataclass(frozen=True)
class JudgeKind:
    """A judge that a suite may name: ``options`` it takes, ``needed`` ones, and whether each kind of label is one."""

    load: Callable[[Classes, Options, str | torch.device], Judge]
    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    kinds: bool = False


JUDGES = {
    "emoji": JudgeKind(lambda classes, options, device: EmojiJudge.load()),
    "clip": JudgeKind(
        lambda classes, options, device: ClipJudge(Clip.load(str(options["model"]), device), classes, options),
        options=("model",), needed=("model",), kinds=True,
    ),
    "imagenet": JudgeKind(
        lambda classes, options, device: imagenet_judge(**options, device=device), options=("model", "weights")
    ),
    "classifier": JudgeKind(lambda classes, options, device: classifier_judge(options, device), kinds=True),
    "nudenet": JudgeKind(lambda classes, options, device: NudeNetJudge(**options), options=("model", "threshold")),
}  # fmt: skip


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

    Args:
        judge: its name, and its options.
        clip: folder or hub id of the CLIP for the CLIP score; ``None`` for none.
        thumbnails: pictures to keep of each set, small.
    """

    name: str
    cases: tuple[Case, ...]
    judge: Options
    sampling: SamplingSettings
    clip: str | None = None
    thumbnails: int = 9

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

    def load_judge(self, device: str | torch.device = "cpu") -> Judge:
        """The judge.

        Raises:
            ValueError: where it cannot see what the suite asks for, or a package of it is missing.
            FileNotFoundError: where its weights are not at hand.
        """
        options = dict(self.judge)
        judge = JUDGES[options.pop("name")].load(self.classes(), options, device)
        for case in self.cases:
            for kind, label in case.labels.items():
                if label not in judge.classes.get(kind, ()):
                    raise ValueError(
                        f"suite {self.name!r}, case {case.number}: {judge.name} cannot see {kind} {label!r}"
                        f"{suggest(label, judge.classes.get(kind, ()))}; it sees {list(judge.classes)}"
                    )
        return judge

    def require_asked(self, concepts: Sequence[str], *, every: bool = False) -> None:
        """Raises ``ValueError`` where there are labels, and none of these concepts is one.

        Args:
            every: all of them have to be: where there is no library to know their names.
        """
        asked = [label for labels in self.classes().values() for label in labels]
        unknown = [name for name in concepts if (name not in asked if every else self.domain(name) is None)]
        if asked and unknown and (every or len(unknown) == len(concepts)):
            shown = asked if len(asked) <= 20 else [*asked[:20], "..."]
            raise ValueError(
                f"suite {self.name!r} asks for none of {sorted(unknown)}{suggest(unknown[0], asked)}; it asks for "
                f"{shown}: erase one of them, under that name, or give another suite"
            )


def shipped_suites() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))


def load_suite(source: str | Path, prompts: str | Path | None = None, judge: Options | None = None) -> Suite:
    """A shipped suite by name, or a YAML file.

    Args:
        prompts: a CSV in place of the suite's.
        judge: options in place of the suite's; with another ``name``, all of them.

    Raises:
        FileNotFoundError: where there is none, or no prompts.
        ValueError: for unknown keys, a judge that there is not, or a CSV without its columns; all before any picture.
    """
    path = SHIPPED / f"{source}.yaml" if str(source) in shipped_suites() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no suite {str(source)!r}: give a YAML file, or one of {shipped_suites()}")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(read, dict) or not {"labels", "judge"} <= read.keys():
        raise ValueError(f"suite {path}: give at least labels and judge, and prompts or a template")
    unknown = sorted(read.keys() - KEYS)
    if unknown:
        raise ValueError(f"suite {path}: unknown key {unknown[0]!r}{suggest(unknown[0], KEYS)}; keys: {sorted(KEYS)}")
    if sum(key in read for key in ("prompts", "published", "template")) != 1:
        raise ValueError(
            f"suite {path}: give one of prompts, a CSV beside it; template, with lists of labels; published, what the "
            "user has to bring"
        )
    sampling = {key: read[key] for key in ("inference_steps", "guidance_scale") if key in read}
    return Suite(
        read.get("name", path.name.removesuffix(".yaml")),
        _cases(path, read, prompts),
        _judge(path, read["judge"], read["labels"], judge or {}),
        SamplingSettings(**sampling),
        read.get("clip"),
        read.get("thumbnails", Suite.thumbnails),
    )


def _cases(path: Path, read: Mapping, prompts: str | Path | None) -> tuple[Case, ...]:
    if prompts is not None:
        return read_cases(Path(prompts), read["labels"])
    if "template" in read:
        return tuple(_filled(path, read))
    if "published" in read:
        raise FileNotFoundError(
            f"suite {path.name.removesuffix('.yaml')!r}: its prompts cannot be shipped; give them with --prompts FILE: "
            f"{read['published']}"
        )
    return read_cases(path.parent / read["prompts"], read["labels"])


def _filled(path: Path, read: Mapping) -> Iterator[Case]:
    """Every template with every combination of labels, with the same seeds, from 0 on where their number is given:
    pictures of equal seeds have equal noise."""
    templates = [read["template"]] if isinstance(read["template"], str) else read["template"]
    labels, seeds = read["labels"], read.get("seeds", 1)
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not isinstance(labels, dict) or not all(isinstance(names, list) and names for names in labels.values()):
        raise ValueError(f"suite {path}: a template needs labels with a list of classes for each kind: {{class: [a]}}")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(
            f"suite {path}: seeds {read['seeds']!r}; give how many pictures of each prompt, or their seeds"
        )
    for template in templates:
        lacking = [kind for kind in labels if f"{{{kind}}}" not in template]
        if lacking:
            raise ValueError(f"suite {path}: template {template!r} has no {{{lacking[0]}}}")
    prompts = itertools.product(itertools.product(*labels.values()), templates, seeds)
    for number, (classes, template, seed) in enumerate(prompts):
        asked, prompt = dict(zip(labels, classes, strict=True)), template
        for kind, label in asked.items():
            prompt = prompt.replace(f"{{{kind}}}", label)
        yield Case(number, prompt, seed, asked)


def _judge(path: Path, stated: object, kinds: Sequence[str], given: Options) -> Options:
    """The suite's, with what is given in its place."""
    stated = dict(stated) if isinstance(stated, dict) else {"name": stated}
    judge = {**(stated if given.get("name", stated.get("name")) == stated.get("name") else {}), **given}
    for name in (stated.get("name"), judge.get("name")):
        if name not in JUDGES:
            raise ValueError(f"suite {path}: judge {name!r}{suggest(str(name), JUDGES)}; give one of {sorted(JUDGES)}")
    kind = JUDGES[judge["name"]]
    allowed = ["name", *kind.options, *(kinds if kind.kinds else ())]
    unknown = sorted(judge.keys() - set(allowed))
    if unknown:
        raise ValueError(
            f"suite {path}: judge {judge['name']!r} takes no {unknown[0]!r}{suggest(unknown[0], allowed)}; it takes "
            f"{allowed}"
        )
    needed = kind.needed or (kinds if judge["name"] == "classifier" else ())
    missing = [name for name in needed if name not in judge]
    if missing:
        raise ValueError(
            f"suite {path}: judge {judge['name']!r} needs {missing}, a folder or hub id each: in the suite, or as "
            f"--judge.{missing[0]} FOLDER"
        )
    return judge


def read_cases(path: Path, labels: Sequence[str] | Mapping[str, Sequence[str]]) -> tuple[Case, ...]:
    """Cases of a CSV with the peers' columns; others are ignored.

    ``case_number`` (or the row's number, from 0), ``prompt``, ``evaluation_seed`` (or ``sd_seed``), and one for each
    kind of label; a case with an empty label does not ask for any of that kind.

    Args:
        labels: kinds of label; or by kind the one class that every case asks for, which needs no column.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a missing column, a number that is none, a case number that comes twice, or no case at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no prompts at {path}: a suite's CSV lies beside its YAML file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        seed = next((name for name in SEED_COLUMNS if name in columns), None)
        fixed = (
            {kind: names[0] for kind, names in labels.items() if kind not in columns and len(names) == 1}
            if (isinstance(labels, Mapping))
            else {}
        )
        wanted = ["prompt", *(kind for kind in labels if kind not in fixed)]
        missing = [name for name in wanted if name not in columns] + ["evaluation_seed"] * (seed is None)
        if missing:
            raise ValueError(f"{path}: no column {missing}; its columns are {columns}")
        cases, numbers = [], set()
        for line, row in enumerate(rows, start=2):
            given = row.get("case_number", str(line - 2))
            try:
                number, noise = int(given), int(row[seed])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {line}: case_number and {seed} are whole numbers, given {given!r} and {row[seed]!r}"
                ) from None
            if number in numbers:
                raise ValueError(f"{path}, line {line}: case {number} is there already")
            numbers.add(number)
            asked = {kind: row[kind].strip() for kind in wanted[1:] if (row[kind] or "").strip()}
            cases.append(Case(number, (row["prompt"] or "").strip(), noise, {**asked, **fixed}))
    if not cases:
        raise ValueError(f"{path}: holds no case")
    return tuple(cases)
