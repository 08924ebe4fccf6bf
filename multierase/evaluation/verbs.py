"""The verbs that judge: ``evaluate``, ``sweep`` and ``report``."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from jsonargparse import Namespace

from multierase.console import listed_in, print_table, stderr
from multierase.evaluation.baselines import Method
from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Subject
from multierase.evaluation.executors import BaseOnce, Executor, Processes, RayCluster
from multierase.evaluation.page import write_report
from multierase.evaluation.plans import Sets, plan
from multierase.evaluation.report import Results
from multierase.evaluation.sweep import ingredients, sweep
from multierase.library import Library
from multierase.settings import UsageError

SHOWN = ("erased", "kept", "kept_relative", "restored", "cross_domain")
MADE = ("method", "judge", "distance_by", "frechet_by", "measured_by", "reference", "suite", "sampling", "version")


def _subject(arguments: Namespace, method: Method) -> Subject:
    return Subject(
        method=method,
        peer=arguments.peer if method == "peer" else None,
        **{
            name: arguments[name]
            for name in (
                "library", "suite", "base", "base_config", "device", "dtype", "solve", "keep_weight", "inference_steps",
                "guidance_scale", "batch_size", "thumbnails", "prompts", "judge", "clip", "lpips", "fid", "reference",
            )
        },
        keep=tuple(listed_in(arguments.keep_file)),
    )  # fmt: skip


def _executor(arguments: Namespace) -> Executor:
    if arguments.executor == "ray":
        return RayCluster(arguments.address, arguments.workers, arguments.gpus_per_worker)
    if arguments.address is not None:
        raise UsageError("--address is a Ray cluster's: give --executor ray too")
    return Processes(arguments.workers)


def _finite(value):
    """As JSON can say it: what is not known is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(row: dict) -> list[object]:
    def text(value):
        if isinstance(value, dict):
            known = value["count"] > 0
            return (
                f"{value['value']:.1%} [{value['low']:.0%}, {value['high']:.0%}] of {value['count']}" if known else "-"
            )
        return "-" if value is None or (isinstance(value, float) and math.isnan(value)) else value

    return [" + ".join(row["erased_concepts"]) or "base", *(text(row[column]) for column in SHOWN)]


def run_evaluate(arguments: Namespace) -> dict:
    erased = tuple(sorted(set(arguments.erase)))
    methods = [*dict.fromkeys(arguments.method), *["peer"] * (arguments.peer is not None)] or ["increments"]
    if arguments.database and len(methods) > 1:
        raise UsageError(f"a database is of one method, given {methods}: evaluate them one by one")
    subjects = {method: _subject(arguments, method) for method in methods}
    for subject in subjects.values():  # all of them, before the first makes pictures
        ingredients(subject, subject.load_suite(), {erased} if erased else set())
    moments, executor, reports, found = [("", erased)] if erased else [], BaseOnce(Processes(1)), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for method, subject in subjects.items():
            path = arguments.database or Path(folder) / f"{method}.db"
            database = sweep(subject, moments, path, executor=executor, progress=True)
            results = Results(database)
            row, made = results.row(erased), _made(database)
            reports[method] = {**_finite(row), "by_concept": results.by_concept(erased), **made}
            found |= {"base": results.row(()), **({made["method"]: row} if erased else {})}
            database.close()
    report = reports[methods[0]] if len(methods) == 1 else {"methods": reports}
    if not arguments.json:
        rows = [(name, *_shown(row)[1:]) for name, row in found.items()]
        print_table(f"off: {' + '.join(erased) or 'nothing'}; {made['judge']}", ("method", *SHOWN), rows)
        _print_found(found)
    return report


def _print_found(found: dict[str, dict]) -> None:
    """What was counted and measured by each method, beside the base's."""
    for key, title in (("counts", "found in all pictures"), ("measures", "means")):
        if names := list(dict.fromkeys(name for row in found.values() for name in row[key])):
            table = [(name, *(row[key].get(name, "-") for row in found.values())) for name in names]
            print_table(title, ("", *found), table)


def _made(database: Database) -> dict:
    settings = database.settings()
    return {key: settings.get(key) for key in MADE}


def _all_concepts(subject: Subject, sets: Sets) -> list[str]:
    if subject.library is not None:
        return list(Library(subject.library))
    classes = subject.load_suite().classes()
    if sets not in ("list", "order"):
        raise UsageError(f"which --concepts, without a library? suite {subject.suite!r} asks for {classes}")
    return [label for labels in classes.values() for label in labels]


def run_sweep(arguments: Namespace) -> dict:
    subject = _subject(arguments, arguments.method if arguments.peer is None else "peer")
    concepts = arguments.concepts or _all_concepts(subject, arguments.sets)
    options = {name: arguments[name] for name in ("count", "seed", "listed", "events")}
    moments = plan(arguments.sets, concepts, **options)
    database = sweep(subject, moments, arguments.database, executor=_executor(arguments), progress=True)
    rows = Results(database).rows()
    if not arguments.json:
        print_table(f"{len(rows)} sets", ("off", *SHOWN), [_shown(row) for row in rows[:40]])
    stderr.print(f"wrote {arguments.database}: {len(rows)} sets", markup=False)
    report = {"database": arguments.database, "rows": _finite(rows), **_made(database)}
    database.close()
    return report


def run_report(arguments: Namespace) -> dict:
    for path in arguments.databases:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no database {path}: `multierase sweep` makes one")
    databases = [Database(path) for path in arguments.databases]
    files = write_report(databases, Path(arguments.out), parquet=arguments.parquet)
    stderr.print(f"wrote {', '.join(map(str, files))}", markup=False)
    made = {str(database.path): {"sets": len(database.done()), **_made(database)} for database in databases}
    return {"files": list(map(str, files)), "databases": made}
