"""The store: a sweep's results in one SQLite file that no kill and no second sweep can hurt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from multierase.errors import DatabaseError
from multierase.evaluation.attacks.run import Attacked
from multierase.evaluation.cases import Case
from multierase.evaluation.concept_sets import Erased, Stage
from multierase.evaluation.database import Database
from multierase.evaluation.observations import (
    Comparison,
    Observations,
    Outcome,
    Picture,
    case_order,
)
from multierase.evaluation.statistics import Gaussian
from multierase.evaluation.suites import Suite
from multierase.files import plain

SCHEMA_VERSION = 4
LONGEST_SHOWN = 100  # characters of a setting, in a message
TABLES = (
    "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE cases (
    case_number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, evaluation_seed INTEGER NOT NULL,
    labels TEXT NOT NULL, without TEXT NOT NULL, features BLOB, frechet_features BLOB)""",
    """CREATE TABLE stages (
    position INTEGER PRIMARY KEY, event TEXT NOT NULL, erased TEXT NOT NULL)""",
    """CREATE TABLE sets (
    erased TEXT PRIMARY KEY, frechet_distance REAL, reference_distance REAL)""",
    """CREATE TABLE pictures (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, seen TEXT NOT NULL, distance REAL,
    counts TEXT NOT NULL, measures TEXT NOT NULL,
    PRIMARY KEY (erased, case_number)) WITHOUT ROWID""",
    """CREATE TABLE thumbnails (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, webp BLOB NOT NULL,
    PRIMARY KEY (erased, case_number))""",
    """CREATE TABLE attacked (
    erased TEXT NOT NULL, attack TEXT NOT NULL, concept TEXT NOT NULL,
    case_number INTEGER NOT NULL, verdict TEXT NOT NULL,
    PRIMARY KEY (erased, attack, concept, case_number)) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
COLUMNS = ("features", "frechet_features")


class Store:
    """A sweep's results: one SQLite file, in which every set of concepts is one transaction.

    Raises:
        DatabaseError: for a file that is none, cannot be written, or is of another version.
    """

    def __init__(self, path: str | Path):
        self._open(Database(path), create=True)

    @classmethod
    def reading(cls, path: str | Path) -> Store:
        """Open a database to read it only: no file is made or changed, also in its folder.

        Raises:
            FileNotFoundError: if there is none.
            DatabaseError: for a file that is none, or is of another version.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no database {path}: `multierase sweep` makes one")

        store = cls.__new__(cls)
        store._open(Database(path, "ro"), create=False)
        return store

    def _open(self, database: Database, *, create: bool) -> None:
        self.database, self.path = database, database.path
        self._comparison: Comparison | None = None  # with the base: read once
        try:
            if create:
                self._create()
            self._require_version()
        except BaseException:
            database.close()
            raise

    def _create(self) -> None:
        """Make the tables, unless there is something in the file already."""
        self.rows("PRAGMA synchronous = FULL")
        if self.rows("SELECT name FROM sqlite_master LIMIT 1"):
            return

        with self.database.transaction() as connection:
            # Another process may have been quicker.
            if not self.rows("SELECT name FROM sqlite_master LIMIT 1"):
                for statement in TABLES:
                    connection.execute(statement)

    def _require_version(self) -> None:
        ((version,),) = self.rows("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            raise DatabaseError(
                f"{self.path} is no sweep's database of this version of multierase (its format is "
                f"{version}, this one's {SCHEMA_VERSION}): give another file, and make the sweep "
                "again"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *raised) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def rows(self, query: str, *values: object) -> list[tuple]:
        """Return what a query finds."""
        return self.database.rows(query, *values)

    def settings(self) -> dict:
        """Return what the sweep was made with."""
        found = {}
        for key, value in self.rows("SELECT key, value FROM settings"):
            found[key] = self._decoded(value)

        return found

    def cases(self) -> tuple[Case, ...]:
        """Return the cases, in the order of their numbers."""
        found = []
        for number, prompt, seed, *by_kind in self.rows(
            "SELECT case_number, prompt, evaluation_seed, labels, without FROM cases "
            "ORDER BY case_number"
        ):
            labels, without = (self._column(text, str) for text in by_kind)
            found.append(Case(number, str(prompt), seed, labels, without))

        return tuple(found)

    def stages(self) -> list[Stage]:
        """Return the sweep's stages, without the base."""
        found = []
        for event, erased in self.rows("SELECT event, erased FROM stages ORDER BY position"):
            found.append((str(event), self._erased(erased)))

        return found

    def done(self) -> set[Erased]:
        """Return the sets that are finished."""
        return {self._erased(erased) for (erased,) in self.rows("SELECT erased FROM sets")}

    def thumbnails(self) -> Iterator[tuple[Erased, int, bytes]]:
        """Yield the small pictures, with their set and case."""
        for erased, number, webp in self.rows("SELECT erased, case_number, webp FROM thumbnails"):
            if not isinstance(webp, bytes):
                raise self._damaged(webp)
            yield self._erased(erased), number, webp

    def begin(self, settings: Mapping[str, object], suite: Suite, stages: Sequence[Stage]) -> None:
        """Begin a new sweep, or go on with the one that is there.

        Its settings must be these; its stages may become more.

        Raises:
            DatabaseError: if it is another sweep.
        """
        given = json.loads(json.dumps(dict(settings)))
        self._require_same(given, suite)

        cases = [_case_row(case) for case in suite.cases]
        listed = [(i, event, json.dumps(erased)) for i, (event, erased) in enumerate(stages)]
        values = [(key, json.dumps(value)) for key, value in given.items()]
        with self.database.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", values)
            connection.executemany(
                "INSERT OR IGNORE INTO cases VALUES (?, ?, ?, ?, ?, ?, ?)", cases
            )
            # The sets that are finished stay, whatever the stages are now.
            connection.execute("DELETE FROM stages")
            connection.executemany("INSERT INTO stages VALUES (?, ?, ?)", listed)

    def _require_same(self, given: Mapping[str, object], suite: Suite) -> None:
        there = self.settings()
        wrong = {}
        for key, value in there.items():
            if value != given.get(key):
                wrong[key] = (value, given.get(key))
        if wrong:
            raise DatabaseError(
                f"{self.path} holds a sweep with other settings: {differences(wrong)}; give those "
                "settings, or another file"
            )

        stored = self.cases()
        if stored and stored != tuple(suite.cases[place] for place in case_order(suite)):
            raise DatabaseError(
                f"{self.path} holds a sweep of another suite than {suite.name!r} is now: give "
                "another file"
            )

    def add(
        self,
        suite: Suite,
        erased: Erased,
        observations: Observations,
        reference: Gaussian | None = None,
    ) -> None:
        """Add one set's observations; the base's own, with which all are compared, come first.

        Args:
            reference: real pictures to compare with, too.
        """
        comparison = self.comparison(reference)
        if comparison is None:
            comparison = Comparison.with_base(suite, observations, reference)
        outcome, key = comparison.outcome(suite, erased, observations), json.dumps(erased)

        distances = (outcome.frechet_distance, outcome.reference_distance)
        pictures = [(key, *_picture_row(number, one)) for number, one in outcome.pictures.items()]
        attacked = []
        for verdict in observations.attacked:
            own = (verdict.attack, verdict.concept, verdict.number)
            attacked.append((key, *own, json.dumps(verdict.as_json())))
        small = [(key, number, data) for number, data in observations.thumbnails.items()]
        with self.database.transaction() as connection:
            connection.execute("INSERT INTO sets VALUES (?, ?, ?)", (key, *distances))
            connection.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", pictures)
            connection.executemany("INSERT INTO thumbnails VALUES (?, ?, ?)", small)
            connection.executemany("INSERT INTO attacked VALUES (?, ?, ?, ?, ?)", attacked)
            if not erased:
                _write_features(connection, suite, observations)

    def comparison(self, reference: Gaussian | None = None) -> Comparison | None:
        """Return what sets are compared with; ``None`` before the base's pictures are there."""
        # Kept: with every set, the base's features would be read and fitted anew.
        if self._comparison is None and () in self.done():
            self._comparison = Comparison(*map(self.features, COLUMNS))
        if self._comparison is not None:
            self._comparison.reference = reference

        return self._comparison

    def features(self, column: str = "features") -> np.ndarray | None:
        """Return ``(n, f)`` of the base's own pictures, in the order of the case numbers."""
        found = []
        for (blob,) in self.rows(f"SELECT {column} FROM cases ORDER BY case_number"):
            if blob is None:
                return None
            found.append(np.frombuffer(blob, np.float32))

        return np.stack(found) if found else None

    def outcome(self, erased: Erased) -> Outcome:
        """Return one finished set's pictures and distances."""
        key = json.dumps(erased)
        ((*distances,),) = self.rows(
            "SELECT frechet_distance, reference_distance FROM sets WHERE erased = ?", key
        ) or [(None, None)]

        pictures = {}
        for number, seen, distance, counts, measures in self.rows(
            "SELECT case_number, seen, distance, counts, measures FROM pictures WHERE erased = ? "
            "ORDER BY case_number",
            key,
        ):
            pictures[number] = Picture(
                self._column(seen, str),
                self._number(distance),
                self._column(counts, int),
                self._column(measures, (int, float)),
            )

        return Outcome(pictures, *map(self._number, distances))

    def attacked(self, erased: Erased) -> list[Attacked]:
        """Return what attacks on one finished set came to."""
        found = []
        for (verdict,) in self.rows(
            "SELECT verdict FROM attacked WHERE erased = ? ORDER BY concept, attack, case_number",
            json.dumps(erased),
        ):
            try:
                found.append(Attacked.from_json(self._decoded(verdict, dict)))
            except (TypeError, KeyError) as error:
                raise self._damaged(verdict) from error

        return found

    def _erased(self, text: str) -> Erased:
        return tuple(map(str, self._decoded(text, list)))

    def _decoded(self, text: object, kind: type = object):
        try:
            value = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged(text) from error
        if not isinstance(value, kind):
            raise self._damaged(text)

        return value

    def _column(self, text: object, kinds: type | tuple[type, ...]) -> dict:
        found = self._decoded(text, dict)
        if not all(isinstance(value, kinds) for value in found.values()):
            raise self._damaged(text)

        return found

    def _number(self, value: object) -> float | None:
        if value is not None and not isinstance(value, float):
            raise self._damaged(value)

        return value

    def _damaged(self, text: object) -> DatabaseError:
        return DatabaseError(
            f"{self.path} is damaged: {plain(text)[:80]!r} is not what a sweep writes; give "
            "another file"
        )


def differences(
    wrong: Mapping[str, tuple[object, object]], first: str = "there", second: str = "given"
) -> str:
    """Describe settings that differ: of nested ones, only what differs in them.

    Args:
        wrong: by key both values.
        first, second: what these are called.
    """
    parts = []
    for key, (a, b) in wrong.items():
        if isinstance(a, dict) and isinstance(b, dict):
            inner = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
            pairs = [(f"{key}.{name}", a.get(name), b.get(name)) for name in inner]
        else:
            pairs = [(key, a, b)]
        parts += [f"{name} ({first}: {_short(x)}, {second}: {_short(y)})" for name, x, y in pairs]

    return "; ".join(parts)


def _short(value: object) -> str:
    text = plain(repr(value))

    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _case_row(case: Case) -> tuple:
    by_kind = (json.dumps(dict(own), sort_keys=True) for own in (case.labels, case.without))

    return case.number, case.prompt, case.seed, *by_kind, None, None


def _picture_row(number: int, picture: Picture) -> tuple:
    return (
        number,
        json.dumps(picture.seen),
        picture.distance,
        json.dumps(picture.counts),
        json.dumps(picture.measures),
    )


def _write_features(
    connection: sqlite3.Connection, suite: Suite, observations: Observations
) -> None:
    order = case_order(suite)
    for column in COLUMNS:
        features = getattr(observations, column)
        if features is None:
            continue

        values = [(features[place].tobytes(), suite.cases[place].number) for place in order]
        connection.executemany(f"UPDATE cases SET {column} = ? WHERE case_number = ?", values)
