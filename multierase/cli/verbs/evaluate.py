"""The verbs that judge: ``evaluate``, ``sweep`` and ``report``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from multierase.cli.console import counted, next_step, percent, print_table, say
from multierase.cli.requests import announce, experiment_fields, experiment_of
from multierase.errors import UsageError
from multierase.evaluation.concept_sets import concept_sets

if TYPE_CHECKING:
    from multierase.evaluation.store import Store

MOST_ROWS = 40  # of a sweep, in the table; the database and --json have all
NEEDED = 3  # columns that a table keeps however narrow: what it is, remaining, kept


def run_evaluate(arguments: Namespace) -> dict:
    """Judge the base, and one set of concepts erased by each method."""
    announce(f"loading {arguments.base}")
    from multierase.evaluation.evaluate import by_method, evaluate
    from multierase.evaluation.report.rows import as_json

    experiments = by_method(experiment_fields(arguments), arguments.method)
    evaluation = evaluate(experiments, arguments.erase, database=arguments.database, progress=True)

    return {**evaluation.report(), "base": as_json(evaluation.rows["base"])}


def print_evaluate(report: dict) -> None:
    from multierase.evaluation.report.rows import TITLES, shown, tables_of

    methods = list(report.get("methods", {"": report}).values())
    erased = methods[0]["erased_concepts"]
    rows = {"base": report["base"]}
    if erased:
        rows |= {method["method"]: method for method in methods}

    title = f"erased: {' + '.join(erased) or 'nothing'}; {methods[0]['judge']}"
    cells = [(name, *shown(row)) for name, row in rows.items()]
    print_table(title, ("method", *TITLES), cells, needed=NEEDED)
    for title, columns, table in tables_of(rows):
        print_table(title, columns, table)


def run_sweep(arguments: Namespace) -> dict:
    """Judge many sets of concepts into a database; what is in it already is not done again."""
    announce(f"loading {arguments.base}")
    from multierase.evaluation.predictions import sweep_by_predictions
    from multierase.evaluation.report.rows import Rows, as_json, made
    from multierase.evaluation.sweep import all_concepts, sweep
    from multierase.executors.choice import executor_of

    experiment = experiment_of(arguments)
    concepts = arguments.concepts or all_concepts(experiment, arguments.sets)
    which = {name: arguments[name] for name in ("count", "seed", "listed", "events")}
    stages = concept_sets(arguments.sets, concepts, **which)
    executor = executor_of(
        kind=arguments.executor,
        workers=arguments.workers,
        address=arguments.address,
        gpus_per_worker=arguments.gpus_per_worker,
    )

    do: Callable[..., Store] = sweep
    if arguments.by == "predictions":
        do = partial(sweep_by_predictions, sentences=arguments.sentences)
    with do(experiment, stages, arguments.database, executor=executor, progress=True) as store:
        rows = as_json(Rows(store).rows())
        return {"database": arguments.database, "rows": rows, **made(store)}


def print_sweep(report: dict) -> None:
    from multierase.evaluation.report.rows import TITLES, name_of, shown

    rows = report["rows"]
    # A stage of an order is named by its event: two stages may have the same concepts erased.
    attacks = list(dict.fromkeys(name for row in rows for name in row["attacks"]))
    cells = []
    for row in rows[:MOST_ROWS]:
        found = [row["attacks"].get(name, {}).get("broken", {}).get("value") for name in attacks]
        cells.append((row["event"] or name_of(row), *map(percent, found), *shown(row)))
    shown_of_all = f", the first {MOST_ROWS}" if len(rows) > MOST_ROWS else ""
    print_table(
        f"{counted(len(rows), 'set')}{shown_of_all}; {report['judge']}",
        ("erased", *(f"under {name}" for name in attacks), *TITLES),
        cells,
        needed=NEEDED + len(attacks),
    )
    say(f"wrote {report['database']}: {counted(len(rows), 'set')}")
    next_step("report", report["database"], "--out", "report")


def run_report(arguments: Namespace) -> dict:
    """Write the page and the tables of one or several databases."""
    if not arguments.databases:
        raise UsageError("name at least one database: multierase report sweep.db --out report")

    announce(f"reading {' and '.join(arguments.databases)}")
    from multierase.evaluation.report.files import write_report

    written = write_report(arguments.databases, arguments.out, parquet=arguments.parquet)
    databases = {str(path): made for path, made in written.databases.items()}

    return {"files": [str(path) for path in written.files], "databases": databases}


def print_report(report: dict) -> None:
    say(f"wrote {', '.join(report['files'])}")
    say(f"next: open {report['files'][0]} in a browser")
