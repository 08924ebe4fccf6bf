"""Sweeps: many sets of erased concepts, each judged on a suite, into one database that a kill cannot hurt."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

import multierase
from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Evaluator, Look, Subject, reference_digest, reference_of
from multierase.evaluation.plans import Erased
from multierase.library import Library

_EVALUATOR: Evaluator | None = None  # of a worker process


def _start_worker(subject: Subject) -> None:
    global _EVALUATOR
    torch.set_num_threads(1)
    _EVALUATOR = Evaluator(subject)


def _work(erased: Erased) -> Look:
    return _EVALUATOR.look(erased)


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
    eyes, library = subject.eyes(), Library(subject.library)
    suite, concepts = eyes.suite, sorted({name for _, erased in moments for name in erased})
    library.require(concepts)
    suite.require_asked(concepts)
    reference = None if subject.reference is None else reference_of(subject.reference, eyes)
    database = Database(path)
    settings = {
        "base": subject.base, "dtype": subject.dtype, "solve": subject.solve, "keep_weight": subject.keep_weight,
        "keep": [[prompt.prompt, sorted(prompt.concepts)] for prompt in subject.keep], "suite": suite.name,
        "sampling": {key: value for key, value in asdict(subject.sampling(suite)).items() if key != "batch_size"},
        **eyes.settings(), "reference": subject.reference and reference_digest(subject.reference),
        "version": multierase.__version__,
        # The other increments of the library count too: a joint solve keeps what they are about.
        "increments": {name: info["sha256"] for name, info in library.infos().items()},
    }  # fmt: skip
    database.begin(settings, suite, moments)
    wanted = list(dict.fromkeys([(), *(erased for _, erased in moments)]))
    done = database.done()
    left = [erased for erased in wanted if erased not in done]
    with tqdm(total=len(wanted), initial=len(wanted) - len(left), desc="sets", disable=not progress) as bar:
        for erased, look in _judged(subject, left, workers):
            database.add(suite, erased, look, reference)
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
