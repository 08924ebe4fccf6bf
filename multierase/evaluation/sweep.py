"""Sweeps: many sets of erased concepts, each judged on a suite, into one database that a kill cannot hurt."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import multierase
from multierase.base import Base, load_base
from multierase.composer import Composer, Solve, wants_keep_list
from multierase.concepts import TaggedPrompt
from multierase.evaluation.metrics import feature_distances, frechet_distance
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Suite, load_suite
from multierase.generate import SamplingSettings, generate, to_picture
from multierase.library import Library

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
    case_number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, evaluation_seed INTEGER NOT NULL, labels TEXT NOT NULL,
    features BLOB);
CREATE TABLE IF NOT EXISTS moments (position INTEGER PRIMARY KEY, event TEXT NOT NULL, erased TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sets (erased TEXT PRIMARY KEY, frechet_distance REAL);
CREATE TABLE IF NOT EXISTS pictures (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, seen TEXT NOT NULL, distance REAL,
    PRIMARY KEY (erased, case_number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thumbnails (
    erased TEXT NOT NULL, case_number INTEGER NOT NULL, webp BLOB NOT NULL, PRIMARY KEY (erased, case_number));
"""
THUMBNAIL = 128  # pixels at most


@dataclass(frozen=True)
class Subject:
    """What is evaluated, in words that another process can load.

    Args:
        base, base_config, device, dtype: as ``load_base`` takes them.
        library: folder of the increments.
        suite: a shipped suite's name, or a YAML file.
        solve, keep_weight: as ``Composer`` takes them.
        keep: prompts to keep, beside the base's own.
        inference_steps, guidance_scale: in place of the suite's.
        batch_size: pictures at a time.
        thumbnails: cases, of different classes, whose pictures are kept, small, to look at.
    """

    library: str
    suite: str
    base: str = "emoji"
    base_config: str | None = None
    device: str | None = None
    dtype: str = "float32"
    solve: Solve | None = None
    keep_weight: float = 3.0
    keep: tuple[TaggedPrompt, ...] = ()
    inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 64
    thumbnails: int = 9

    def sampling(self, suite: Suite) -> SamplingSettings:
        given = {"inference_steps": self.inference_steps, "guidance_scale": self.guidance_scale}
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingSettings(**{**asdict(suite.sampling), **chosen, "batch_size": self.batch_size})


@dataclass(frozen=True)
class Look:
    """What was seen of one set: by kind of label a class for each case; ``(n, f)`` features; small pictures by case."""

    seen: dict[str, list[str]]
    features: np.ndarray
    thumbnails: dict[int, bytes]


@dataclass
class Evaluator:
    """One process's share of the work: a base, a composer and a judge."""

    subject: Subject
    base: Base = field(init=False)

    def __post_init__(self):
        subject = self.subject
        self.suite = load_suite(subject.suite)
        self.judge = self.suite.load_judge()
        self.sampling = subject.sampling(self.suite)
        self.base = load_base(subject.base, device=subject.device, dtype=subject.dtype, config=subject.base_config)
        library = Library(subject.library)
        listed = [*self.base.known_prompts, *subject.keep]
        wanted = wants_keep_list(subject.solve, bool(listed))
        keep = library.keep_list(self.base.text, listed) if wanted else None
        self.composer = Composer(
            self.base.unet, library, solve=subject.solve, keep=keep, keep_weight=subject.keep_weight
        )

    def look(self, erased: Erased) -> Look:
        """What the judge sees in every case's picture with these concepts off."""
        cases = self.suite.cases
        with self.composer.erased(*erased):
            images = generate(self.base, [c.prompt for c in cases], [c.seed for c in cases], self.sampling)
        verdict = self.judge(images)
        shown = {cases[i].number: _thumbnail(images[i]) for i in self._shown()}
        return Look(verdict.seen, verdict.features.numpy().astype(np.float32), shown)

    def _shown(self) -> list[int]:
        """Places of the cases to show: the first of each class of the first kind of label."""
        first = {}
        for place, case in enumerate(self.suite.cases):
            first.setdefault(next(iter(case.labels.values()), ""), place)
        return list(first.values())[: self.subject.thumbnails]


def _thumbnail(image: torch.Tensor) -> bytes:
    picture = to_picture(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return data.getvalue()


_EVALUATOR: Evaluator | None = None  # of a worker process


def _start_worker(subject: Subject) -> None:
    global _EVALUATOR
    torch.set_num_threads(1)
    _EVALUATOR = Evaluator(subject)


def _work(erased: Erased) -> Look:
    return _EVALUATOR.look(erased)


class Database:
    """A sweep's results: one SQLite file, in which every set of concepts is one transaction.

    Raises:
        ValueError: for a file that is none, cannot be written, or holds another sweep.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
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
            connection.executemany("INSERT OR IGNORE INTO cases VALUES (?, ?, ?, ?, NULL)", cases)
            connection.execute("DELETE FROM moments")
            connection.executemany(
                "INSERT INTO moments VALUES (?, ?, ?)",
                [(i, event, json.dumps(erased)) for i, (event, erased) in enumerate(moments)],
            )

    def done(self) -> set[Erased]:
        return {tuple(json.loads(erased)) for (erased,) in self.rows("SELECT erased FROM sets")}

    def features(self) -> np.ndarray | None:
        """``(n, f)`` of the base's own pictures, in the order of the case numbers; ``None`` before they are made."""
        blobs = [blob for (blob,) in self.rows("SELECT features FROM cases ORDER BY case_number")]
        return None if None in blobs else np.stack([np.frombuffer(blob, np.float32) for blob in blobs])

    def add(self, suite: Suite, erased: Erased, look: Look) -> None:
        """One set's pictures; the base's own, where none is erased, are what the others are set against."""
        features = look.features
        order = sorted(range(len(suite.cases)), key=lambda index: suite.cases[index].number)
        reference, key = self.features(), json.dumps(erased)
        distances, frechet = [None] * len(order), None
        if erased:
            distances = feature_distances(features[order], reference).round(6).tolist()
            frechet = round(frechet_distance(features, reference), 6)
        rows = [
            (key, suite.cases[i].number, json.dumps({kind: names[i] for kind, names in look.seen.items()}), distance)
            for i, distance in zip(order, distances, strict=True)
        ]
        with self.transaction() as connection:
            connection.execute("INSERT INTO sets VALUES (?, ?)", (key, frechet))
            connection.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?)", rows)
            connection.executemany(
                "INSERT INTO thumbnails VALUES (?, ?, ?)", [(key, n, data) for n, data in look.thumbnails.items()]
            )
            if not erased:
                connection.executemany(
                    "UPDATE cases SET features = ? WHERE case_number = ?",
                    [(features[i].tobytes(), suite.cases[i].number) for i in order],
                )


def sweep(
    subject: Subject,
    moments: Sequence[tuple[str, Erased]],
    path: str | Path,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> Database:
    """Judge the base and every set of ``moments`` on the suite, into the database at ``path``.

    What is in it already is not done again, so the same call goes on after a kill. The rows are the same whatever was
    interrupted, and whatever the number of ``workers``: processes of one thread each, because sums of floating-point
    numbers depend on the number of threads. One a core by default, and one where there is a GPU.

    Raises:
        ValueError, FileNotFoundError, KeyError: for anything wrong with suite, library or database, before any picture.
    """
    suite, library = load_suite(subject.suite), Library(subject.library)
    judge, sampling = suite.load_judge(), subject.sampling(suite)
    library.require(sorted({name for _, erased in moments for name in erased}))
    database = Database(path)
    settings = {
        "base": subject.base, "dtype": subject.dtype, "solve": subject.solve, "keep_weight": subject.keep_weight,
        "keep": [[prompt.prompt, sorted(prompt.concepts)] for prompt in subject.keep], "suite": suite.name,
        "sampling": {key: value for key, value in asdict(sampling).items() if key != "batch_size"},
        "judge": judge.name, "version": multierase.__version__,
        # The other increments of the library count too: a joint solve keeps what they are about.
        "increments": {name: info["sha256"] for name, info in library.infos().items()},
    }  # fmt: skip
    database.begin(settings, suite, moments)
    wanted = list(dict.fromkeys([(), *(erased for _, erased in moments)]))
    done = database.done()
    left = [erased for erased in wanted if erased not in done]
    with tqdm(total=len(wanted), initial=len(wanted) - len(left), desc="sets", disable=not progress) as bar:
        for erased, look in _judged(subject, left, workers):
            database.add(suite, erased, look)
            bar.update()
    return database


def _judged(subject: Subject, left: Sequence[Erased], workers: int | None) -> Iterator[tuple[Erased, Look]]:
    """Of every set as it is finished; the base first, for the others are set against it."""
    if not left:
        return
    if workers is None:
        workers = 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, len(left))
    if workers < 1:
        raise ValueError(f"{workers} workers: give 1 or more")
    if workers == 1:
        with _one_thread():
            evaluator = Evaluator(subject)
            for erased in left:
                yield erased, evaluator.look(erased)
        return
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (subject,)
    ) as pool:
        if () in left:
            yield (), pool.submit(_work, ()).result()
        running = {pool.submit(_work, erased): erased for erased in left if erased}
        try:
            for future in concurrent.futures.as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
