"""Small sweeps on the page: all subsets of a few concepts, judged on part of a suite.

The loaded model works, nothing is loaded twice, and each database is the library's own: it lies in
its folder, or in ``sweeps`` there.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multierase.app.session import Session, require_few
from multierase.errors import Cancelled, UsageError, suggest
from multierase.evaluation.concept_sets import Stage, concept_sets
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments, load_instruments
from multierase.evaluation.report.files import write_report
from multierase.evaluation.suites import Suite, load_suite, shipped_suites, suite_of
from multierase.evaluation.sweep import ingredients, settings_of, sweep
from multierase.executors.executor import Done, Here, Make, one_thread
from multierase.files import digest_bytes
from multierase.models.sources import EMBEDDED
from multierase.prompts.concepts import slug
from multierase.workspace import Workspace

FOLDER = "sweeps"  # in the library's
SUFFIX = ".db"
MOST_OF_EACH = 8  # pictures of each class
LONGEST_NAME = 80  # characters of the concepts in a file's name

Tell = Callable[[int, int], bool]
"""Told of the sets that are done, and of how many there are; false ends the sweep."""


@dataclass(frozen=True)
class Wanted:
    """A small sweep as the page asks for it.

    Args:
        concepts: all of their subsets are judged.
        suite: name of a shipped one.
        of_each: pictures of each class.
    """

    concepts: tuple[str, ...]
    suite: str
    of_each: int = 4


def suites_for(session: Session) -> dict[str, str]:
    """Return by name the suites that can judge this base's pictures, with what each needs."""
    base, found = session.workspace.model.name, {}
    for name in shipped_suites():
        with contextlib.suppress(FileNotFoundError):  # one whose prompts the user has to bring
            suite = load_suite(name)
            # An embedded base's judge knows its classes and no others.
            owner = suite.judge["name"] if suite.judge["name"] in EMBEDDED else None
            if owner == (base if base in EMBEDDED else None):
                found[name] = _described(suite)

    return found


def small_sweep(session: Session, wanted: Wanted, tell: Tell = lambda *_: True) -> str:
    """Judge every subset of a few concepts, and return the database's name.

    The same sweep goes on where it was ended, and has nothing left to do where it was not.

    Raises:
        Cancelled: if ``tell`` says so; the finished sets are kept.
        UsageError, UnknownConcept: for a suite, concepts or numbers that cannot be.
        MissingExtra, FileNotFoundError: if the suite's judge is not at hand.
        WriteError: for a library that cannot be written, such as one on a hub.
    """
    _require(session, wanted)
    with session.alone() as workspace, one_thread():
        workspace.library.check_targets([])  # a folder that may be written
        experiment = _experiment(workspace, wanted.suite)
        suite = few_of(suite_of(experiment), wanted.of_each)
        stages = concept_sets("subsets", wanted.concepts)
        instruments = load_instruments(experiment, suite, workspace.model.device)
        name = _name_of(wanted, experiment, instruments, stages)

        path = workspace.library.folder / name
        path.parent.mkdir(exist_ok=True)
        evaluator = Evaluator(
            experiment, model=workspace.model, eraser=workspace, instruments=instruments
        )
        executor = _Telling(evaluator, tell)
        sweep(experiment, stages, path, executor=executor, instruments=instruments).close()

    return name


def few_of(suite: Suite, of_each: int) -> Suite:
    """Return the first cases of each class, of the first kind of label; every class has its own."""
    count: Counter[str] = Counter()
    cases = []
    for case in suite.cases:
        label = next(iter(case.labels.values()), "")
        count[label] += 1
        if count[label] <= of_each:
            cases.append(case)

    return replace(suite, name=f"{suite.name}, {of_each} of each", cases=tuple(cases))


def databases(session: Session) -> dict[str, Path]:
    """Return the library's databases by name, those of small sweeps after the others.

    Only plain files that lie in the folder or in ``sweeps`` there: no link leads elsewhere.
    """
    library = session.workspace.library.folder
    found = {}
    for folder in (library, library / FOLDER):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if path.is_file() and not path.is_symlink() and not folder.is_symlink():
                found[path.relative_to(library).as_posix()] = path

    return found


def report_of(session: Session, name: str) -> str:
    """Return the page of a sweep's report, which opens without anything beside it.

    Raises:
        UsageError: for a database that is not the library's.
        DatabaseError: for a file that is none, or that has no finished set.
    """
    known = databases(session)
    if name not in known:
        raise UsageError(
            f"no database {name!r}{suggest(str(name), known)} in the library's folder; there are "
            f"{sorted(known)}"
        )

    with tempfile.TemporaryDirectory(prefix="multierase-") as folder:
        page, *_ = write_report([known[name]], folder).files
        return page.read_text("utf-8")


class _Telling(Here):
    """An evaluator of this process that tells after each set how many are done."""

    def __init__(self, evaluator: Evaluator, tell: Tell):
        super().__init__(evaluator.observe)
        self.tell = tell

    def map(self, make: Make, tasks: Sequence[Any]) -> Done:
        for done, observed in enumerate(super().map(make, tasks), start=1):
            yield observed
            # Whoever took it has stored it by now.
            if not self.tell(done, len(tasks)) and done < len(tasks):
                raise Cancelled(
                    f"the sweep was ended after {done} of {len(tasks)} sets; they are kept, and "
                    "the same sweep goes on from there"
                )


def _require(session: Session, wanted: Wanted) -> None:
    known = suites_for(session)
    if wanted.suite not in known:
        raise UsageError(
            f"no suite {wanted.suite!r}{suggest(str(wanted.suite), known)} for this base; give one "
            f"of {sorted(known)}"
        )
    require_few(wanted.concepts, "a sweep")
    if not 1 <= wanted.of_each <= MOST_OF_EACH:
        raise UsageError(f"{wanted.of_each} pictures of each class: give 1 to {MOST_OF_EACH}")
    session.workspace.library.require(wanted.concepts)


def _experiment(workspace: Workspace, suite: str) -> Experiment:
    """Say how the workspace at hand composes."""
    model, composer = workspace.model, workspace.composer

    return Experiment(
        suite=suite,
        library=str(workspace.library.folder),
        base=model.name,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        resolution=model.resolution,
        solve=composer.solve,
        keep_weight=composer.keep_weight,
        keep=tuple(workspace.keep),
    )


def _name_of(
    wanted: Wanted, experiment: Experiment, instruments: Instruments, stages: Sequence[Stage]
) -> str:
    """Return a name that says the concepts, and changes with all that the numbers depend on."""
    suite, sets = instruments.suite, [erased for _, erased in stages]
    depends = {
        **settings_of(experiment, instruments),
        **ingredients(experiment, suite, sets),
        "concepts": sorted(wanted.concepts),
    }
    digest = digest_bytes(json.dumps(depends, sort_keys=True), length=8)

    concepts = "_".join(map(slug, sorted(wanted.concepts)))[:LONGEST_NAME]
    return f"{FOLDER}/{concepts}.{wanted.suite}-{wanted.of_each}.{digest}{SUFFIX}"


def _described(suite: Suite) -> str:
    judge = suite.judge["name"] if suite.judge["name"] not in EMBEDDED else "its own judge"
    needs = dict.fromkeys(str(value) for key, value in suite.judge.items() if key == "model")
    if suite.clip is not None:
        needs[suite.clip] = None
    with_them = f" with {', '.join(needs)}" if needs else ""

    return f"{' and '.join(suite.classes())}: judged by {judge}{with_them}"
