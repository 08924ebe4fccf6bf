"""The verbs that judge: ``evaluate``, ``sweep`` and ``report``."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from jsonargparse import Namespace

from multierase.console import listed_in, print_table, stderr
from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Subject
from multierase.evaluation.page import write_report
from multierase.evaluation.plans import plan
from multierase.evaluation.report import COLUMNS, Results
from multierase.evaluation.sweep import sweep
from multierase.library import Library

MADE = ("judge", "distance_by", "frechet_by", "measured_by", "reference", "suite", "sampling", "version")


def _subject(arguments: Namespace) -> Subject:
    return Subject(
        **{
            name: arguments[name]
            for name in (
                "library", "suite", "base", "base_config", "device", "dtype", "solve", "keep_weight", "inference_steps",
                "guidance_scale", "batch_size", "thumbnails", "prompts", "judge", "clip", "lpips", "fid", "reference",
            )
        },
        keep=tuple(listed_in(arguments.keep_file)),
    )  # fmt: skip


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

    return [" + ".join(row["erased_concepts"]) or "base", *(text(row[column]) for column in COLUMNS[1:6])]


def run_evaluate(arguments: Namespace) -> dict:
    erased = tuple(sorted(set(arguments.erase)))
    Library(arguments.library).require(list(erased))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.database or Path(folder) / "evaluation.db"
        database = sweep(_subject(arguments), [("", erased)] if erased else [], path, workers=1, progress=True)
        results = Results(database)
        report = {**_finite(results.row(erased)), "by_concept": results.by_concept(erased), **_made(database)}
        rows = [results.row(off) for off in dict.fromkeys([(), erased])]
        database.close()
    if not arguments.json:
        print_table(report["judge"], ("off", *COLUMNS[1:6]), [_shown(row) for row in rows])
        _print_found(rows)
    return report


def _print_found(rows: list[dict]) -> None:
    """What was counted and measured, beside the base's."""
    names = [" + ".join(row["erased_concepts"]) or "base" for row in rows]
    for key, title in (("counts", "found in all pictures"), ("measures", "means")):
        found = list(dict.fromkeys(name for row in rows for name in row[key]))
        if found:
            print_table(title, ("", *names), [(name, *(row[key].get(name, "-") for row in rows)) for name in found])


def _made(database: Database) -> dict:
    settings = database.settings()
    return {key: settings[key] for key in MADE}


def run_sweep(arguments: Namespace) -> dict:
    concepts = arguments.concepts or list(Library(arguments.library))
    options = {name: arguments[name] for name in ("count", "seed", "listed", "events")}
    moments = plan(arguments.sets, concepts, **options)
    database = sweep(_subject(arguments), moments, arguments.database, workers=arguments.workers, progress=True)
    rows = Results(database).rows()
    if not arguments.json:
        print_table(f"{len(rows)} sets", ("off", *COLUMNS[1:6]), [_shown(row) for row in rows[:40]])
    stderr.print(f"wrote {arguments.database}: {len(rows)} sets", markup=False)
    report = {"database": arguments.database, "rows": _finite(rows), **_made(database)}
    database.close()
    return report


def run_report(arguments: Namespace) -> dict:
    if not Path(arguments.database).is_file():
        raise FileNotFoundError(f"no database {arguments.database}: `multierase sweep` makes one")
    database = Database(arguments.database)
    files = write_report(database, Path(arguments.out))
    stderr.print(f"wrote {', '.join(map(str, files))}", markup=False)
    return {"files": list(map(str, files)), "sets": len(database.done()), **_made(database)}
