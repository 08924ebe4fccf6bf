"""Attacks on one concept: erased, restored, and on the base; with a file of verdicts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from multierase.errors import DatabaseError
from multierase.evaluation.attacks import ATTACKS
from multierase.evaluation.attacks.asking import attack_concept, cases_of
from multierase.evaluation.attacks.run import Attacked, copied, target_of
from multierase.evaluation.database import Database, locked
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.report.attacked import success_of
from multierase.evaluation.statistics import mean
from multierase.evaluation.store import differences
from multierase.evaluation.suites import suite_of
from multierase.evaluation.sweep import ingredients, settings_of
from multierase.executors.executor import one_thread

ERASED, RESTORED, BASE = "erased", "restored", "base"
TABLES = (
    "CREATE TABLE IF NOT EXISTS attacked (settings TEXT NOT NULL, state TEXT NOT NULL, "
    "attack TEXT NOT NULL, case_number INTEGER NOT NULL, verdict TEXT NOT NULL, "
    "PRIMARY KEY (settings, state, attack, case_number))",
)


@dataclass(frozen=True)
class Asked:
    """One attack on one state of the model.

    Args:
        state: ``erased``; ``restored``, with the concept given back and the rest still erased; or
            the ``base``. Where the concept is there, prompts do not name it: whoever finds it all
            the same shows what the attack can do.
        attack: its name.
        erased: the concepts that are erased.
    """

    state: str
    attack: str
    erased: tuple[str, ...]


def campaign(
    experiment: Experiment,
    concept: str,
    beside: Sequence[str] = (),
    *,
    states: Sequence[str] = (ERASED, RESTORED, BASE),
    database: str | Path | None = None,
    progress: bool = False,
) -> dict:
    """Attack an erased concept, the same concept restored, and the base; return what came of it.

    Args:
        experiment: with its attacks; all of them if it names none.
        beside: concepts that are erased too.
        states: on which of them.
        database: keeps every verdict, so that the same call goes on after a kill.
        progress: show a progress bar on stderr.

    Raises:
        UsageError: for a concept that is not there or that no case asks for, or a family that an
            attack does not fit; before anything is made.
        DatabaseError: for a file that is none.
    """
    suite = suite_of(experiment)
    erased = tuple(sorted({concept, *beside}))
    made_from = ingredients(experiment, suite, [erased])
    cases_of(suite, concept, experiment.attack_cases)
    names = experiment.attack or tuple(ATTACKS)

    sets = {ERASED: erased, RESTORED: tuple(sorted({*beside} - {concept})), BASE: ()}
    restored_is_base = not sets[RESTORED]
    # Then it need not be attacked twice.
    wanted = [state for state in sets if state in states]
    if restored_is_base and BASE in wanted:
        wanted = [state for state in wanted if state != RESTORED]
    asked = [Asked(state, name, sets[state]) for name in names for state in wanted]

    with one_thread():
        evaluator = Evaluator(experiment)
        settings = {
            **settings_of(experiment, evaluator.instruments),
            **made_from,
            "concept": concept,
            "erased": erased,
        }
        with _Journal(database, settings).opened() as journal:
            found = dict(_attacked(evaluator, concept, asked, journal, progress))
        evaluator.close()

    return {
        "concept": concept,
        "erased_concepts": list(erased),
        "budget": experiment.budget,
        "restored_is_base": restored_is_base,
        "judge": evaluator.instruments.judge.name,
        "attacks": {name: _row(name, wanted, found) for name in names},
    }


def _attacked(
    evaluator: Evaluator,
    concept: str,
    asked: Sequence[Asked],
    journal: _Journal,
    progress: bool,
) -> Iterator[tuple[Asked, list[Attacked]]]:
    experiment, model = evaluator.experiment, evaluator.model
    before = copied(model)
    _, cases = cases_of(evaluator.suite, concept, experiment.attack_cases)
    with tqdm(total=len(asked) * len(cases), desc="cases", disable=not progress) as bar:
        for one in asked:
            verdicts = journal.read(one)
            bar.update(len(verdicts))
            with evaluator.eraser.erasing(*one.erased):
                target = target_of(model, before, evaluator.suite.sampling)
                named = one.state == ERASED
                for verdict in attack_concept(
                    experiment,
                    evaluator.instruments,
                    target,
                    one.attack,
                    concept,
                    named=named,
                    done=[verdict.number for verdict in verdicts],
                ):
                    journal.write(one, verdict)
                    verdicts.append(verdict)
                    bar.update()
            yield one, verdicts


def _row(name: str, states: Iterable[str], found: Mapping[Asked, Sequence[Attacked]]) -> dict:
    row = {}
    for one, verdicts in found.items():
        if one.attack == name:
            row[one.state] = {
                **success_of(verdicts),
                "evaluations": mean([verdict.evaluations for verdict in verdicts]),
                "cases": [verdict.as_json() for verdict in verdicts],
            }

    return {state: row[state] for state in states}


class _Journal:
    """A file of verdicts, one transaction each; without a path nothing is kept."""

    def __init__(self, path: str | Path | None, settings: Mapping):
        self.path, self.settings = path, json.dumps(settings, sort_keys=True, default=list)
        self._database: Database | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[_Journal]:
        """Hold the file for a block; whatever is raised, it is closed, and others may have it.

        Raises:
            DatabaseError: for a file that is none, that another has, or of another campaign.
        """
        if self.path is None:
            yield self
            return

        with locked(Path(self.path)), contextlib.closing(Database(self.path)) as self._database:
            with self._database.transaction() as connection:
                for statement in TABLES:
                    connection.execute(statement)
            self._require_same(self._database)
            yield self

    def read(self, asked: Asked) -> list[Attacked]:
        """Return the verdicts that are there."""
        if self._database is None:
            return []
        found = self._database.rows(
            "SELECT verdict FROM attacked WHERE state = ? AND attack = ? ORDER BY rowid",
            asked.state,
            asked.attack,
        )
        try:
            return [Attacked.from_json(json.loads(verdict)) for (verdict,) in found]
        except (ValueError, TypeError, KeyError) as error:
            raise DatabaseError(f"{self.path} is damaged: give another file") from error

    def write(self, asked: Asked, verdict: Attacked) -> None:
        """Add a verdict."""
        if self._database is None:
            return
        row = (asked.state, asked.attack, verdict.number, json.dumps(verdict.as_json()))
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO attacked VALUES (?, ?, ?, ?, ?)", (self.settings, *row))

    def _require_same(self, database: Database) -> None:
        for (there,) in database.rows("SELECT DISTINCT settings FROM attacked"):
            if there != self.settings:
                old, new = json.loads(there), json.loads(self.settings)
                wrong = {}
                for key in sorted(old.keys() | new.keys()):
                    if old.get(key) != new.get(key):
                        wrong[key] = (old.get(key), new.get(key))
                raise DatabaseError(
                    f"{self.path} holds attacks with other settings: {differences(wrong)}; give "
                    "those settings, or another file"
                )
