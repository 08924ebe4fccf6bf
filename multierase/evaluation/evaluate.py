"""Judging one set of erased concepts, by one method or by several beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from multierase.errors import UsageError
from multierase.evaluation.concept_sets import Erased, require_once
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments, load_instruments
from multierase.evaluation.observations import Observations
from multierase.evaluation.reference import load_reference
from multierase.evaluation.report.rows import Rows, as_json, by_concept, made_with, row_of
from multierase.evaluation.suites import suite_of
from multierase.evaluation.sweep import ingredients, method_name, settings_of, sweep
from multierase.executors.executor import one_thread
from multierase.executors.processes import Processes


@dataclass
class Evaluation:
    """One set of erased concepts, judged.

    ``rows``: the base's row, and by method one each. ``by_concept``: by method, for each class the
    share of its cases in which it is seen. ``made_with``: by method what its numbers are made with.
    """

    rows: dict[str, dict] = field(default_factory=dict)
    by_concept: dict[str, dict] = field(default_factory=dict)
    made_with: dict[str, dict] = field(default_factory=dict)

    @property
    def made(self) -> dict:
        """What all methods' numbers are made with."""
        return next(iter(self.made_with.values()))

    def report(self) -> dict:
        """Return everything as JSON can say it: one method's object, or those of several."""
        methods = {}
        for method, settings in self.made_with.items():
            row = as_json(self.rows.get(method, self.rows["base"]))
            methods[method] = {**row, "by_concept": as_json(self.by_concept[method]), **settings}

        return next(iter(methods.values())) if len(methods) == 1 else {"methods": methods}


def by_method(fields: Mapping[str, object], methods: Sequence[str]) -> dict[str, Experiment]:
    """Return an experiment for each method; our increments if there is none, nor a peer.

    Args:
        fields: of ``Experiment``, without the method. A ``peer`` is one more method.

    Raises:
        UsageError: for an unknown method.
    """
    peer = fields.get("peer")
    wanted = [*methods, *["peer"] * (peer is not None)] or ["increments"]

    experiments = {}
    for method in dict.fromkeys(wanted):
        own = {**fields, "method": method, "peer": peer if method == "peer" else None}
        experiments[method] = Experiment(**own)

    return experiments


def evaluate(
    experiments: Mapping[str, Experiment],
    erased: Sequence[str],
    *,
    database: str | Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge the base, and the base with ``erased`` erased by each method.

    Model, suite and judge are loaded once. All is checked before the first picture.

    Args:
        experiments: by method; they differ in their method alone.
        erased: the concepts; none of them judges the base alone.
        database: keeps every picture's verdict; of one method only.

    Raises:
        UsageError: for a concept given twice, or a database for several methods.
        MultieraseError, FileNotFoundError: as ``sweep`` does.
    """
    require_once(erased)
    concepts = tuple(sorted(erased))
    if database is not None and len(experiments) > 1:
        raise UsageError(
            f"a database is of one method, given {list(experiments)}: evaluate them one by one"
        )

    first = next(iter(experiments.values()))
    suite = suite_of(first)
    for experiment in experiments.values():
        ingredients(experiment, suite, [concepts])

    # In one thread, as in a sweep: with more, the last bits of all numbers would differ.
    with one_thread():
        instruments = load_instruments(first, suite)
        if database is not None:
            return _stored(first, concepts, database, instruments, progress)
        return _observed(experiments, concepts, instruments, progress)


def _stored(
    experiment: Experiment,
    erased: Erased,
    database: str | Path,
    instruments: Instruments,
    progress: bool,
) -> Evaluation:
    found, method = Evaluation(), method_name(experiment)
    stages = [("", erased)] if erased else []
    with sweep(
        experiment,
        stages,
        database,
        executor=Processes(1),
        instruments=instruments,
        progress=progress,
    ) as store:
        rows = Rows(store)
        found.rows = {"base": rows.row(())} | ({method: rows.row(erased)} if erased else {})
        found.by_concept[method] = rows.by_concept(erased)
        found.made_with[method] = made_with(store.settings())

    return found


def _observed(
    experiments: Mapping[str, Experiment],
    erased: Erased,
    instruments: Instruments,
    progress: bool,
) -> Evaluation:
    suite, path = instruments.suite, next(iter(experiments.values())).reference
    reference = load_reference(path, instruments) if path else None
    found, model = Evaluation(), None
    base: Observations | None = None

    for experiment in tqdm(experiments.values(), desc="methods", disable=not progress):
        evaluator = Evaluator(experiment, model=model, instruments=instruments)
        model, method = evaluator.model, method_name(experiment)
        if base is None:
            base = evaluator.observe(())
            found.rows["base"] = row_of(suite, (), base, base, reference)
        observations = evaluator.observe(erased) if erased else base
        evaluator.close()  # the next method works on the same model

        if erased:
            found.rows[method] = row_of(suite, erased, observations, base, reference)
        found.by_concept[method] = by_concept(suite, observations)
        found.made_with[method] = made_with(settings_of(experiment, instruments))

    return found
