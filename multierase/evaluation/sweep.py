"""Sweeps: many sets of erased concepts, each judged on a suite, into one database that a kill cannot hurt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

import multierase
from multierase.evaluation.baselines import peer_digest
from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Subject, reference_digest, reference_of
from multierase.evaluation.executors import Executor, Processes, judged
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Suite
from multierase.library import Library


def sweep(
    subject: Subject,
    moments: Sequence[tuple[str, Erased]],
    path: str | Path,
    *,
    executor: Executor | None = None,
    progress: bool = False,
) -> Database:
    """Judge the base and every set of ``moments`` on the suite, into the database at ``path``.

    What is in it already is not done again, so the same call goes on after a kill. The rows are the same whatever was
    interrupted, and whatever the executor: by default ``Processes()``, one a core.

    Raises:
        ValueError, FileNotFoundError, KeyError: for anything wrong with suite, library or database, before any picture.
    """
    eyes = subject.eyes()
    suite = eyes.suite
    made_from = ingredients(subject, suite, {erased for _, erased in moments if erased})
    reference = None if subject.reference is None else reference_of(subject.reference, eyes)
    database = Database(path)
    settings = {
        "base": subject.base, "dtype": subject.dtype, "solve": subject.solve, "keep_weight": subject.keep_weight,
        "keep": [[prompt.prompt, sorted(prompt.concepts)] for prompt in subject.keep], "suite": suite.name,
        "sampling": {key: value for key, value in asdict(subject.sampling(suite)).items() if key != "batch_size"},
        **eyes.settings(), "reference": subject.reference and reference_digest(subject.reference),
        "version": multierase.__version__,
        "method": subject.method if subject.peer is None else f"peer {Path(subject.peer).name}", **made_from,
    }  # fmt: skip
    database.begin(settings, suite, moments)
    wanted = list(dict.fromkeys([(), *(erased for _, erased in moments)]))
    done = database.done()
    left = [erased for erased in wanted if erased not in done]
    with tqdm(total=len(wanted), initial=len(wanted) - len(left), desc="sets", disable=not progress) as bar:
        for erased, look in judged(executor or Processes(), subject, left):
            database.add(suite, erased, look, reference)
            bar.update()
    return database


def ingredients(subject: Subject, suite: Suite, sets: set[Erased]) -> dict[str, object]:
    """What the erasures of these sets are made from, with digests; raises as ``sweep`` does where they cannot be."""
    names = sorted({name for erased in sets for name in erased})
    if subject.method == "increments":
        library = Library(subject.library)
        library.require(names)
        suite.require_asked(names)
        # The other increments of the library count too: a joint solve keeps what they are about.
        return {"increments": {name: info["sha256"] for name, info in library.infos().items()}}
    suite.require_asked(names, every=True)
    if subject.peer is None:
        return {}
    if len(sets) > 1:
        raise ValueError(f"a peer's model has one set of concepts off, given {len(sets)} sets: give the one, by a list")
    return {"peer": peer_digest(subject.peer)}
