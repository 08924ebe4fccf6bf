"""Suites: prompts with their seeds, and what a judge should see in each; from YAML and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

import yaml

from multierase.errors import SuiteError, UsageError, suggest
from multierase.evaluation.cases import Case, filled_templates, read_cases, short
from multierase.evaluation.experiment import Experiment, Options
from multierase.models.sources import EMBEDDED
from multierase.sampling import SamplingSettings

SHIPPED = resources.files("multierase") / "assets" / "suites"
DEFAULTS = {"emoji": "studios", "type": "typefaces"}  # by embedded base
SHOWN_CLASSES = 20  # of those that a suite asks for, in a message
LARGEST_SUITE = 2**20  # bytes of YAML
# By key the types that YAML may give, and how a message calls them.
KEYS = {
    "name": ((str,), "a name"),
    "about": ((str,), "a sentence"),
    "prompts": ((str,), "a CSV's name"),
    "published": ((str,), "a sentence"),
    "template": ((str, list), "a sentence, or a list of sentences"),
    "seeds": ((int, list), "a number, or a list of seeds"),
    "labels": ((list, dict), "a list of kinds, or by kind a list of classes"),
    "judge": ((str, dict), "a judge's name, or its options"),
    "clip": ((str,), "a folder or hub id"),
    "thumbnails": ((int,), "a number of pictures"),
    "inference_steps": ((int,), "a number of steps"),
    "guidance_scale": ((int, float), "a number"),
}
Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class JudgeOptions:
    """What a judge may be told.

    ``options`` it takes, ``needed`` ones, and whether each kind of label is an option, too.
    """

    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    kinds: bool = False


JUDGES = {
    **dict.fromkeys(EMBEDDED, JudgeOptions()),
    "clip": JudgeOptions(options=("model",), needed=("model",), kinds=True),
    "imagenet": JudgeOptions(options=("model", "weights")),
    "classifier": JudgeOptions(kinds=True),
    "nudenet": JudgeOptions(options=("model", "threshold")),
}


@dataclass(frozen=True)
class Suite:
    """Prompts, and how to make and judge their pictures.

    A concept belongs to the kind of label, its domain, that has a class of its name.

    Args:
        judge: its name, and its options.
        clip: folder or hub id of the CLIP for the CLIP score; ``None`` for no score.
        thumbnails: how many small pictures are stored of each set.
    """

    name: str
    cases: tuple[Case, ...]
    judge: Options
    sampling: SamplingSettings
    clip: str | None = None
    thumbnails: int = 9

    @property
    def labels(self) -> dict[int, Mapping[str, str]]:
        """What each case asks for, by its number."""
        return {case.number: case.labels for case in self.cases}

    def domain(self, concept: str) -> str | None:
        """Return the kind of label that has ``concept`` as a class; ``None`` if no case asks."""
        for case in self.cases:
            for kind, label in case.labels.items():
                if label.lower() == concept.lower():
                    return kind

        return None

    def classes(self) -> dict[str, list[str]]:
        """Return for each kind of label the classes that cases ask for, in their order."""
        found: dict[str, dict[str, None]] = {}
        for case in self.cases:
            for kind, label in case.labels.items():
                found.setdefault(kind, {})[label] = None

        return {kind: list(labels) for kind, labels in found.items()}

    def require_asked(self, concepts: Sequence[str], *, every: bool = False) -> None:
        """Require that cases ask for one of these concepts, if they ask for anything.

        Args:
            every: require it of all of them: where no library knows their names.

        Raises:
            UsageError: if it is not so.
        """
        asked = [label for labels in self.classes().values() for label in labels]
        known = asked if every else [name for name in concepts if self.domain(name) is not None]
        unknown = [name for name in concepts if name not in known]
        if not asked or not unknown or (not every and len(unknown) < len(concepts)):
            return

        shown = asked[:SHOWN_CLASSES] + ["..."] * (len(asked) > SHOWN_CLASSES)
        raise UsageError(
            f"suite {self.name!r} asks for none of {sorted(unknown)}{suggest(unknown[0], asked)}; "
            f"it asks for {shown}: erase one of them, under that name, or give another suite"
        )


def shipped_suites() -> list[str]:
    """Return the names of the suites that come with the package."""
    files = [path.name for path in SHIPPED.iterdir() if path.name.endswith(".yaml")]

    return sorted(name.removesuffix(".yaml") for name in files)


def default_suite(base: str) -> str:
    """Return the suite that a base is judged by if none is given: one of its own, else emoji's."""
    return DEFAULTS.get(base, DEFAULTS["emoji"])


def suite_of(experiment: Experiment) -> Suite:
    """Load an experiment's suite, with the prompts, judge and CLIP that replace its own.

    Raises:
        FileNotFoundError, SuiteError, PromptFileError: as ``load_suite`` does.
    """
    suite = load_suite(experiment.suite, experiment.prompts, experiment.judge)
    thumbnails = experiment.thumbnails

    return replace(
        suite,
        clip=experiment.clip or suite.clip,
        thumbnails=suite.thumbnails if thumbnails is None else thumbnails,
        sampling=_sampling_of(experiment, suite),
    )


def _sampling_of(experiment: Experiment, suite: Suite) -> SamplingSettings:
    given = {
        "inference_steps": experiment.inference_steps,
        "guidance_scale": experiment.guidance_scale,
        "batch_size": experiment.batch_size,
    }
    chosen = {name: value for name, value in given.items() if value is not None}

    return SamplingSettings(**{**asdict(suite.sampling), **chosen})


def load_suite(
    source: str | Path, prompts: str | Path | None = None, judge: Options | None = None
) -> Suite:
    """Load a shipped suite by name, or a YAML file.

    Args:
        prompts: a CSV that replaces the suite's.
        judge: options that replace the suite's; with another ``name``, all of them.

    Raises:
        FileNotFoundError: if there is no such suite, or no prompts.
        SuiteError: for a file that is no YAML, unknown keys, values of a wrong type, or a judge
            that does not exist.
        PromptFileError: for a CSV that is not well formed.
    """
    path = SHIPPED / f"{source}.yaml" if str(source) in shipped_suites() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"no suite {str(source)!r}: give a YAML file, or one of {shipped_suites()}"
        )

    where, read = f"suite {path}", _read_yaml(path)
    _require_form(where, read)
    default = path.name.removesuffix(".yaml")

    return Suite(
        read.get("name", default),
        _cases(path, read, prompts),
        _judge(where, read["judge"], list(read["labels"]), judge or {}),
        _sampling(where, read),
        read.get("clip"),
        read.get("thumbnails", Suite.thumbnails),
    )


def _read_yaml(path: Path) -> object:
    if len(path.read_bytes()) > LARGEST_SUITE:
        raise SuiteError(f"{path} is larger than {LARGEST_SUITE} bytes: no suite is")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    # Dates and numbers that cannot be are ValueErrors, deep nesting is a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SuiteError(f"{path} is not YAML: {error}") from error


def _require_form(where: str, read: object) -> None:
    if not isinstance(read, dict) or not {"labels", "judge"} <= read.keys():
        raise SuiteError(f"{where}: give at least labels and judge, and prompts or a template")

    unknown = sorted(str(key) for key in read.keys() - KEYS.keys())
    if unknown:
        raise SuiteError(
            f"{where}: unknown key {unknown[0]!r}{suggest(unknown[0], KEYS)}; keys: {sorted(KEYS)}"
        )
    if sum(key in read for key in ("prompts", "published", "template")) != 1:
        raise SuiteError(
            f"{where}: give one of prompts, a CSV beside it; template, with lists of labels; "
            "published, what the user has to bring"
        )

    for key, value in read.items():
        types, called = KEYS[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise SuiteError(f"{where}: {key} is {short(value)}; give {called}")
    _require_labels(where, read["labels"])


def _require_labels(where: str, labels: list | dict) -> None:
    names = list(labels)
    if isinstance(labels, dict):
        for classes in labels.values():
            names += classes if isinstance(classes, list) and classes else [None]

    wrong = [name for name in names if not isinstance(name, str)]
    if wrong or len(set(labels)) < len(labels):
        raise SuiteError(
            f"{where}: labels {short(labels)}; give a list of kinds, each once, or by "
            "kind a list of classes; put names that YAML reads as numbers or truth values in quotes"
        )


def _sampling(where: str, read: Mapping) -> SamplingSettings:
    given = {key: read[key] for key in ("inference_steps", "guidance_scale") if key in read}
    if not math.isfinite(given.get("guidance_scale", 0)) or read.get("thumbnails", 0) < 0:
        raise SuiteError(f"{where}: guidance_scale is a finite number, thumbnails 0 or more")

    try:
        return SamplingSettings(**given)
    except (ValueError, UsageError) as error:
        raise SuiteError(f"{where}: {error}") from error


def _cases(path: Path, read: Mapping, prompts: str | Path | None) -> tuple[Case, ...]:
    if prompts is not None:
        return read_cases(Path(prompts), read["labels"])
    if "template" in read:
        return filled_templates(read, f"suite {path}")
    if "published" in read:
        raise FileNotFoundError(
            f"suite {path.name.removesuffix('.yaml')!r}: its prompts cannot be shipped; give them "
            f"with --prompts FILE: {read['published']}"
        )

    return read_cases(path.parent / read["prompts"], read["labels"])


def _judge(where: str, stated: object, kinds: Sequence[str], given: Options) -> Options:
    """Return the suite's judge, with the options that replace its own."""
    stated = dict(stated) if isinstance(stated, dict) else {"name": stated}
    same = given.get("name", stated.get("name")) == stated.get("name")
    judge = {**(stated if same else {}), **given}

    for name in (stated.get("name"), judge.get("name")):
        if not isinstance(name, str) or name not in JUDGES:
            raise SuiteError(
                f"{where}: judge {short(name)}{suggest(str(name)[:80], JUDGES)}; give one "
                f"of {sorted(JUDGES)}"
            )
    if isinstance(judge.get("threshold"), str):  # as a command line gives it
        judge["threshold"] = _number(judge["threshold"])
    _require_options(where, judge, kinds)

    return judge


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _require_options(where: str, judge: Options, kinds: Sequence[str]) -> None:
    name = judge["name"]
    allowed = ["name", *JUDGES[name].options, *(kinds if JUDGES[name].kinds else ())]
    unknown = sorted(str(option) for option in judge.keys() - set(allowed))
    if unknown:
        raise SuiteError(
            f"{where}: judge {name!r} takes no {unknown[0]!r}{suggest(unknown[0], allowed)}; it "
            f"takes {allowed}"
        )

    needed = JUDGES[name].needed or (kinds if name == "classifier" else ())
    missing = [option for option in needed if option not in judge]
    if missing:
        raise SuiteError(
            f"{where}: judge {name!r} needs {missing}, a folder or hub id each: in the suite, or "
            f"as --judge.{missing[0]} FOLDER"
        )

    for option, value in judge.items():
        number = option == "threshold"
        fine = isinstance(value, (int, float) if number else str) and not isinstance(value, bool)
        if not fine:
            raise SuiteError(
                f"{where}: the judge's {option} is {short(value)}; give "
                f"{'a number' if number else 'text'}"
            )
