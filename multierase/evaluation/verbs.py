"""The verbs that judge: ``evaluate``, ``sweep`` and ``report``."""

from __future__ import annotations

import csv
import io
import math
import tempfile
from pathlib import Path

from jsonargparse import Namespace

from multierase.console import listed_in, print_table, stderr
from multierase.evaluation.report import COLUMNS, Results
from multierase.evaluation.sweep import Database, Subject, plan, sweep
from multierase.library import Library, replacing


def _subject(arguments: Namespace) -> Subject:
    return Subject(
        **{
            name: arguments[name]
            for name in (
                "library", "suite", "base", "base_config", "device", "dtype", "solve", "keep_weight", "inference_steps",
                "guidance_scale", "batch_size",
            )
        },
        keep=tuple(listed_in(arguments.keep_file)),
    )  # fmt: skip


def _flat(row: dict) -> dict:
    """A share as its value, beside its interval's ends and its count."""
    found = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= {key: value["value"], **{f"{key}_{part}": value[part] for part in ("low", "high", "count")}}
        else:
            found[key] = " + ".join(value) if isinstance(value, list) else value
    return found


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
    erased = tuple(sorted(arguments.erase))
    Library(arguments.library).require(list(erased))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.database or Path(folder) / "evaluation.db"
        database = sweep(_subject(arguments), [("", erased)] if erased else [], path, progress=True)
        results = Results(database)
        report = {**_finite(results.row(erased)), "by_concept": results.by_concept(erased), **_made(database)}
        rows = [results.row(off) for off in dict.fromkeys([(), erased])]
        database.close()
    if not arguments.json:
        print_table(report["judge"], ("off", *COLUMNS[1:6]), [_shown(row) for row in rows])
    return report


def _made(database: Database) -> dict:
    settings = database.settings()
    return {key: settings[key] for key in ("judge", "suite", "sampling", "version")}


def run_sweep(arguments: Namespace) -> dict:
    concepts = arguments.concepts or list(Library(arguments.library))
    options = {name: arguments[name] for name in ("count", "seed", "listed", "events")}
    moments = plan(arguments.sets, concepts, **options)
    database = sweep(_subject(arguments), moments, arguments.database, workers=arguments.workers, progress=True)
    rows = Results(database).rows()
    if not arguments.json:
        print_table(f"{len(rows)} sets", ("off", *COLUMNS[1:6]), [_shown(row) for row in rows[:40]])
    stderr.print(f"wrote {arguments.database}: {len(rows)} sets", markup=False)
    database.close()
    return {"database": arguments.database, "rows": _finite(rows), **_made(Database(arguments.database))}


def run_report(arguments: Namespace) -> dict:
    if not Path(arguments.database).is_file():
        raise FileNotFoundError(f"no database {arguments.database}: `multierase sweep` makes one")
    database, folder = Database(arguments.database), Path(arguments.out)
    rows = [_flat(row) for row in Results(database).rows()]
    if not rows:
        raise ValueError(f"{arguments.database} holds no set that is done: run `multierase sweep` with it again")
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "table.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    stderr.print(f"wrote {folder / 'table.csv'}: {len(rows)} sets", markup=False)
    return {"table": str(folder / "table.csv"), "sets": len(rows), **_made(database)}
