"""A sweep's results: one SQLite file that a kill cannot hurt."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from multierase.evaluation.evaluator import Look
from multierase.evaluation.metrics import Gaussian, feature_distances, frechet_distance
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Suite

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
    case_number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, evaluation_seed INTEGER NOT NULL, labels TEXT NOT NULL,
    features BLOB, frechet_features BLOB);
CREATE TABLE IF NOT EXISTS moments (position INTEGER PRIMARY KEY, event TEXT NOT NULL, erased TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sets (erased TEXT PRIMARY KEY, frechet_distance REAL, reference_distance REAL);
CREATE TABLE IF NOT EXISTS pictures (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, seen TEXT NOT NULL, distance REAL,
    counts TEXT NOT NULL, measures TEXT NOT NULL, PRIMARY KEY (erased, case_number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thumbnails (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, webp BLOB NOT NULL, PRIMARY KEY (erased, case_number));
"""


class Database:
    """A sweep's results: one SQLite file, in which every set of concepts is one transaction.

    Raises:
        ValueError: for a file that is none, cannot be written, or holds another sweep.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        # Of the base, read and made once: every set is set against them.
        self._features: dict[str, np.ndarray] = {}
        self._gaussians: dict[str, Gaussian] = {}
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise ValueError(f"{self.path} cannot be a sweep's database: {error}") from error

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the body, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def rows(self, query: str, *values: object) -> list[tuple]:
        return self._connection.execute(query, values).fetchall()

    def settings(self) -> dict:
        return {key: json.loads(value) for key, value in self.rows("SELECT key, value FROM settings")}

    def begin(self, settings: Mapping[str, object], suite: Suite, moments: Sequence[tuple[str, Erased]]) -> None:
        """A new sweep, or the one that is there: its settings must be these. Moments may become more."""
        there = self.settings()
        given = json.loads(json.dumps(dict(settings)))
        wrong = {key: (there[key], given.get(key)) for key in there if there[key] != given.get(key)}
        if wrong:
            raise ValueError(
                f"{self.path} holds a sweep with other settings (there, given): {wrong}; give those, or another file"
            )
        cases = [(c.number, c.prompt, c.seed, json.dumps(dict(c.labels), sort_keys=True)) for c in suite.cases]
        stored = self.rows("SELECT case_number, prompt, evaluation_seed, labels FROM cases")
        if stored and sorted(stored) != sorted(cases):
            raise ValueError(
                f"{self.path} holds a sweep of another suite than {suite.name!r} is now: give another file"
            )
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO settings VALUES (?, ?)", [(k, json.dumps(v)) for k, v in given.items()]
            )
            connection.executemany("INSERT OR IGNORE INTO cases VALUES (?, ?, ?, ?, NULL, NULL)", cases)
            connection.execute("DELETE FROM moments")
            connection.executemany(
                "INSERT INTO moments VALUES (?, ?, ?)",
                [(i, event, json.dumps(erased)) for i, (event, erased) in enumerate(moments)],
            )

    def done(self) -> set[Erased]:
        return {tuple(json.loads(erased)) for (erased,) in self.rows("SELECT erased FROM sets")}

    def features(self, column: Literal["features", "frechet_features"] = "features") -> np.ndarray | None:
        """``(n, f)`` of the base's own pictures, in the order of the case numbers; ``None`` before they are made, and
        where the judge has none."""
        if column not in self._features:
            blobs = [blob for (blob,) in self.rows(f"SELECT {column} FROM cases ORDER BY case_number")]
            if None in blobs:
                return None
            self._features[column] = np.stack([np.frombuffer(blob, np.float32) for blob in blobs])
        return self._features[column]

    def add(self, suite: Suite, erased: Erased, look: Look, reference: Gaussian | None = None) -> None:
        """One set's pictures; the base's own, where none is erased, are what the others are set against; and real
        ones, ``reference``, where given."""
        order = sorted(range(len(suite.cases)), key=lambda index: suite.cases[index].number)
        numbers, key = [suite.cases[i].number for i in order], json.dumps(erased)
        distances: list[float | None] = [None] * len(order)
        if erased and look.features is not None:
            distances = feature_distances(look.features[order], self.features()).round(6).tolist()
        rows = [
            (key, number, _of_picture(look.seen, i), distance, _of_picture(look.counts, i),
             _of_picture(look.measures, i))
            for i, number, distance in zip(order, numbers, distances, strict=True)
        ]  # fmt: skip
        with self.transaction() as connection:
            connection.execute("INSERT INTO sets VALUES (?, ?, ?)", (key, *self._frechet(erased, look, reference)))
            connection.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.executemany(
                "INSERT INTO thumbnails VALUES (?, ?, ?)", [(key, n, data) for n, data in look.thumbnails.items()]
            )
            for column in () if erased else ("features", "frechet_features"):
                if (features := getattr(look, column)) is not None:
                    connection.executemany(
                        f"UPDATE cases SET {column} = ? WHERE case_number = ?",
                        [(features[i].tobytes(), number) for i, number in zip(order, numbers, strict=True)],
                    )

    def _frechet(self, erased: Erased, look: Look, reference: Gaussian | None) -> tuple[float | None, float | None]:
        """To the base's pictures, and to real ones."""
        column = "features" if look.frechet_features is None else "frechet_features"
        features = getattr(look, column)
        if features is None or not (erased or reference):
            return None, None
        here = Gaussian.of(features)
        if erased and column not in self._gaussians:
            self._gaussians[column] = Gaussian.of(self.features(column))
        distances = (self._gaussians[column] if erased else None, reference)
        return tuple(None if there is None else round(frechet_distance(here, there), 6) for there in distances)


def _of_picture(columns: Mapping[str, Sequence], index: int) -> str:
    return json.dumps({name: column[index] for name, column in columns.items()})
