"""A sweep as people look at it: one static HTML page, and its table as CSV and LaTeX; its pictures as Parquet."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

import jinja2

from multierase.evaluation.database import Database
from multierase.evaluation.metrics import Share
from multierase.evaluation.plans import Erased
from multierase.evaluation.report import SHARES, Results
from multierase.library import replacing

SHEETS = 24  # sets whose pictures are shown
COMPARED = (  # what one table's databases have in common
    "base", "dtype", "suite", "judge", "distance_by", "frechet_by", "measured_by", "reference", "sampling", "cases",
)  # fmt: skip
CASE = "case_number, prompt, evaluation_seed, labels"
PICTURES = "pictures.parquet"
WIDTH, HEIGHT, MARGIN = 520, 260, 36  # of the curves


def write_report(databases: Sequence[Database], folder: Path, *, parquet: bool = False) -> list[Path]:
    """``index.html``, which needs no server and no network, ``table.csv`` and ``table.tex`` into ``folder``; of several
    databases, such as of several methods, in one table.

    Args:
        parquet: write ``pictures.parquet`` too: every picture's verdict. Needs pyarrow (``multierase[parquet]``).

    Raises:
        ValueError: for a database in which no set is done, databases that cannot be compared, or without pyarrow.
    """
    if parquet:
        _pyarrow()
    _require_comparable(databases)
    parts = {label: Results(database) for label, database in _labelled(databases).items()}
    rows = {label: results.rows() for label, results in parts.items()}
    for label, results in parts.items():
        if not rows[label]:
            path = results.database.path
            raise ValueError(f"{path} holds no set that is done: run `multierase sweep` with it again")
    sizes = {label: by_size(found) for label, found in rows.items()}
    shown = [
        {
            "label": label, "by": results.database.settings(),
            "settings": json.dumps(results.database.settings(), indent=1, sort_keys=True),
            "sizes": sizes[label], "curves": _curves(sizes[label]), "heatmap": _heatmap(results, rows[label]),
            "sheets": _sheets(results), "rows": rows[label],
        }
        for label, results in parts.items()
    ]  # fmt: skip
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("multierase") / "assets" / "report.html").read_text("utf-8"))
    page = template.render(
        name=", ".join(database.path.name for database in databases), parts=shown, measures=measured(sizes.values())
    )
    folder.mkdir(parents=True, exist_ok=True)
    table = as_csv([{"method": label, **row} for label, found in rows.items() for row in found])
    files = {"index.html": page, "table.csv": table, "table.tex": as_latex(sizes)}
    for name, text in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if parquet:
        with replacing(folder / PICTURES) as temporary:
            write_pictures(parts, temporary)
    return [folder / name for name in [*files, *[PICTURES] * parquet]]


def _require_comparable(databases: Sequence[Database]) -> None:
    first, *others = databases
    for other in others:
        here, there = ({**d.settings(), "cases": d.rows(f"SELECT {CASE} FROM cases")} for d in (first, other))
        wrong = [key for key in COMPARED if here.get(key) != there.get(key)]
        if wrong:
            differing = {key: (here.get(key), there.get(key)) for key in wrong if key != "cases"}
            raise ValueError(
                f"{first.path} and {other.path} cannot stand in one table: they differ in {wrong} {differing or ''}; "
                "make both with the same base, suite, judge, measures and sampling"
            )


def _labelled(databases: Sequence[Database]) -> dict[str, Database]:
    """By method; with the file's name where a method comes twice."""
    methods = [database.settings().get("method", database.path.stem) for database in databases]
    return {
        method if methods.count(method) == 1 else f"{method} ({database.path})": database
        for method, database in zip(methods, databases, strict=True)
    }


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow: pip install 'multierase[parquet]'") from error
    return pyarrow


def write_pictures(parts: Mapping[str, Results], path: Path) -> None:
    """Every picture of every set as a row of a Parquet file: ``method``, ``erased`` (a list), the case's number, prompt
    and seed, for each kind of label what was asked and, as ``<kind>_seen``, what the judge saw, the distance, how many
    were counted, as ``counts_<name>``, and what was measured."""
    pyarrow, found = _pyarrow(), []
    for method, results in parts.items():
        database = results.database
        cases = {number: (prompt, seed) for number, prompt, seed, _ in database.rows(f"SELECT {CASE} FROM cases")}
        columns = [name for (name,) in database.rows("SELECT name FROM pragma_table_info('pictures')")]
        for values in database.rows("SELECT * FROM pictures ORDER BY erased, case_number"):
            row = dict(zip(columns, values, strict=True))
            number, seen = row.pop("case_number"), json.loads(row.pop("seen"))
            kinds = {}
            for kind in seen:
                kinds |= {kind: results.labels[number].get(kind), f"{kind}_seen": seen[kind]}
            counts = {f"counts_{name}": count for name, count in json.loads(row.pop("counts")).items()}
            row |= counts | json.loads(row.pop("measures"))
            prompt, seed = cases[number]
            case = {"case_number": number, "prompt": prompt, "evaluation_seed": seed}
            found.append({"method": method, "erased": json.loads(row.pop("erased")), **case, **kinds, **row})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)


def by_size(rows: list[dict]) -> dict[int, dict]:
    """All pictures of the sets of one size together: the shares with their intervals; of the measures the means."""
    sizes: dict[int, dict] = {}
    for row in {tuple(row["erased_concepts"]): row for row in rows}.values():
        cell = sizes.setdefault(row["size"], {"sets": 0, "shares": {}, "measures": {}})
        cell["sets"] += 1
        for name, mean in row["measures"].items():
            cell["measures"].setdefault(name, []).append(mean)
        for name in SHARES:
            before = cell["shares"].get(name, Share(0, 0))
            cell["shares"][name] = Share(before.right + row[name]["right"], before.count + row[name]["count"])
    return {
        size: {
            "sets": cell["sets"],
            "measures": {name: statistics.fmean(means) for name, means in cell["measures"].items()},
            **{name: share.as_dict() for name, share in cell["shares"].items()},
        }
        for size, cell in sorted(sizes.items())
    }


def as_csv(rows: list[dict]) -> str:
    """A row for each set; of a share its value, the ends of its interval and its count."""
    text, flat = io.StringIO(), [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()


def _flat(row: dict) -> dict:
    found = {}
    for key, value in row.items():
        if key == "measures":
            found |= value
        elif key in ("counts", "base_counts"):
            found |= {f"{key}_{name}": count for name, count in value.items()}
        elif isinstance(value, dict):
            found |= {key: value["value"], **{f"{key}_{part}": value[part] for part in ("low", "high", "count")}}
        else:
            found[key] = " + ".join(value) if isinstance(value, list) else value
    return found


def as_latex(methods: Mapping[str, dict[int, dict]]) -> str:
    """The table by method and number of erased concepts, for a paper with ``booktabs``."""

    def cell(share: dict) -> str:
        if not share["count"]:
            return "--"
        return rf"{100 * share['value']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"

    measures = measured(methods.values())
    lines = [
        " & ".join(
            [_escaped(method), str(size), str(cells["sets"]),
             *(cell(cells[n]) for n in SHARES),
             *(f"{cells['measures'][n]:.3f}" if n in cells["measures"] else "--" for n in measures)]
        )
        + r" \\"
        for method, sizes in methods.items()
        for size, cells in sizes.items()
    ]  # fmt: skip
    head = ["method", "erased", "sets", r"still seen, \%", r"kept, \%", r"restored, \%", r"other domain, \%", *measures]
    head = " & ".join(name.replace("_", " ") for name in head) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * (6 + len(measures))}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def measured(methods: Iterable[Mapping[int, dict]]) -> list[str]:
    """Every measure that any size has: the base has none of what is erased."""
    return list(dict.fromkeys(name for sizes in methods for cells in sizes.values() for name in cells["measures"]))


def _curves(sizes: dict[int, dict]) -> dict:
    """Points of the lines and bands as SVG takes them."""
    most = max(sizes) or 1

    def x(size: int) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * size / most, 1)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value, 1)

    lines = {}
    for name in SHARES:
        shown = {size: cells[name] for size, cells in sizes.items() if cells[name]["count"]}
        band = [(x(s), y(c["high"])) for s, c in shown.items()] + [
            (x(s), y(c["low"])) for s, c in reversed(shown.items())
        ]
        points = [(x(size), y(cell["value"])) for size, cell in shown.items()]
        text = {key: " ".join(f"{a},{b}" for a, b in found) for key, found in (("line", points), ("band", band))}
        lines[name] = {**text, "points": points}
    ticks = {"x": [(size, x(size)) for size in sizes], "y": [(f"{v}%", y(v / 100)) for v in (0, 25, 50, 75, 100)]}
    return {"lines": lines, "ticks": ticks, "width": WIDTH, "height": HEIGHT, "margin": MARGIN}


def _heatmap(results: Results, rows: list[dict]) -> dict:
    """A row for each set, a column for each class that any set erases, or whose domain one does."""
    sets: dict[Erased, str] = {tuple(row["erased_concepts"]): row["event"] for row in rows}
    domains = results.domains([name for erased in sets for name in erased])
    columns = list(
        dict.fromkeys(label for labels in results.labels.values() for k, label in labels.items() if k in domains)
    )
    found = []
    for erased in sets:
        shares = results.by_concept(erased)
        gone = {name.lower() for name in erased}
        found.append(
            {
                "name": " + ".join(erased) or "base",
                "cells": [{**shares[column], "off": column.lower() in gone} for column in columns],
            }
        )
    return {"columns": columns, "rows": found}


def _sheets(results: Results) -> dict:
    """Small pictures at equal seeds: the base, then moments in their order, or sets spread over the sizes."""
    stored: dict[Erased, dict[int, str]] = {}
    for erased, number, webp in results.database.rows("SELECT erased, case_number, webp FROM thumbnails"):
        data = "data:image/webp;base64," + base64.b64encode(webp).decode()
        stored.setdefault(tuple(json.loads(erased)), {})[number] = data
    moments = [("base", ()), *((event or f"{' + '.join(erased)} off", erased) for event, erased in results.moments)]
    listed = [(name, erased) for name, erased in moments if erased in stored]
    every = max(1, -(-len(listed) // SHEETS))
    listed = listed[:1] + listed[1::every]
    numbers = sorted({number for _, erased in listed for number in stored[erased]})
    prompts = dict(results.database.rows("SELECT case_number, prompt FROM cases"))
    return {
        "prompts": [prompts[number] for number in numbers],
        "rows": [(name, [stored[erased].get(number) for number in numbers]) for name, erased in listed],
    }
