"""A sweep as people look at it: one static HTML page, and its table as CSV and LaTeX."""

from __future__ import annotations

import base64
import csv
import io
import json
import statistics
from importlib import resources
from pathlib import Path

import jinja2

from multierase.evaluation.database import Database
from multierase.evaluation.metrics import Share
from multierase.evaluation.plans import Erased
from multierase.evaluation.report import Results
from multierase.library import replacing

SHEETS = 24  # sets whose pictures are shown
WIDTH, HEIGHT, MARGIN = 520, 260, 36  # of the curves


def write_report(database: Database, folder: Path) -> list[Path]:
    """``index.html``, which needs no server and no network, ``table.csv`` and ``table.tex`` into ``folder``.

    Raises:
        ValueError: for a database in which no set is done.
    """
    results = Results(database)
    rows = results.rows()
    if not rows:
        raise ValueError(f"{database.path} holds no set that is done: run `multierase sweep` with it again")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("multierase") / "assets" / "report.html").read_text("utf-8"))
    sizes = by_size(rows)
    page = template.render(
        name=database.path.name, settings=json.dumps(database.settings(), indent=1, sort_keys=True), sizes=sizes,
        measures=measured(sizes), by={key: database.settings().get(key) for key in ("distance_by", "frechet_by")},
        curves=_curves(sizes), heatmap=_heatmap(results, rows), sheets=_sheets(results), rows=rows,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    files = {"index.html": page, "table.csv": as_csv(rows), "table.tex": as_latex(sizes)}
    for name, text in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def by_size(rows: list[dict]) -> dict[int, dict]:
    """All pictures of the sets of one size together: the shares with their intervals; of the measures the means."""
    sizes: dict[int, dict] = {}
    for row in {tuple(row["erased_concepts"]): row for row in rows}.values():
        cell = sizes.setdefault(row["size"], {"sets": 0, "shares": {}, "measures": {}})
        cell["sets"] += 1
        for name, mean in row["measures"].items():
            cell["measures"].setdefault(name, []).append(mean)
        for name in ("erased", "kept", "cross_domain"):
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


def as_latex(sizes: dict[int, dict]) -> str:
    """The table by the number of erased concepts, for a paper with ``booktabs``."""

    def cell(share: dict) -> str:
        if not share["count"]:
            return "--"
        return rf"{100 * share['value']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"

    measures = measured(sizes)
    lines = [
        " & ".join(
            [str(size), str(cells["sets"]), *(cell(cells[n]) for n in ("erased", "kept", "cross_domain")),
             *(f"{cells['measures'][n]:.3f}" if n in cells["measures"] else "--" for n in measures)]
        )
        + r" \\"
        for size, cells in sizes.items()
    ]  # fmt: skip
    head = ["erased", "sets", r"still seen, \%", r"kept, \%", r"other domain, \%", *measures]
    head = " & ".join(name.replace("_", " ") for name in head) + r" \\"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'r' * (5 + len(measures))}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def measured(sizes: dict[int, dict]) -> list[str]:
    """Every measure that any size has: the base has none of what is erased."""
    return list(dict.fromkeys(name for cells in sizes.values() for name in cells["measures"]))


def _curves(sizes: dict[int, dict]) -> dict:
    """Points of the lines and bands as SVG takes them."""
    most = max(sizes) or 1

    def x(size: int) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * size / most, 1)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value, 1)

    lines = {}
    for name in ("erased", "kept", "cross_domain"):
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
