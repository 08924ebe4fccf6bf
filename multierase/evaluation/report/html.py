"""A sweep as people look at it: one static HTML page that needs no server and no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import markupsafe

from multierase.evaluation.concept_sets import Erased
from multierase.evaluation.report.rows import Rows, domains_of, name_of, predicted
from multierase.evaluation.report.tables import by_size, measured
from multierase.files import plain

TEMPLATE = resources.files("multierase") / "assets" / "report.html"
SHEETS = 24  # sets whose pictures are shown
MOST_LINES = 1000  # of the heat map
CURVES = ("remaining", "kept", "restored", "cross_domain")
WIDTH, HEIGHT = 520, 300  # of the chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 72, 16, 12, 52  # beside its curves


def render_page(name: str, parts: Mapping[str, Rows], rows: Mapping[str, list[dict]]) -> str:
    """Return the page.

    Args:
        name: its title.
        parts, rows: by method, a store's rows.
    """
    shown = []
    for label, part in parts.items():
        shown.append(_part(label, part, rows[label]))
    measures = measured(part["sizes"] for part in shown)
    attacks = measured((part["sizes"] for part in shown), "attacks")

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(
        name=name, parts=shown, measures=measures, attacks=attacks, chart=_frame()
    )


def _visible(value: object) -> object:
    """Spell out control characters in all text of the page."""
    text = isinstance(value, str) and not isinstance(value, markupsafe.Markup)

    return plain(value) if text else value


def _part(label: str, rows: Rows, found: list[dict]) -> dict:
    settings, sizes = rows.store.settings(), by_size(found)

    return {
        "label": label,
        "by": settings,
        "of": "unseen sentences" if predicted(settings) else "pictures",
        "predicted": predicted(settings),
        "settings": json.dumps(settings, indent=1, sort_keys=True),
        "sizes": sizes,
        "curves": curves(sizes),
        "heatmap": _heatmap(rows, found),
        "sheets": _sheets(rows),
        "rows": found,
        "names": [name_of(row) for row in found],
    }


def _frame() -> dict:
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "shares": [(f"{share} %", _y(share / 100)) for share in (0, 25, 50, 75, 100)],
    }


def _x(size: int, most: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * size / most, 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def curves(sizes: Mapping[int, Mapping]) -> dict:
    """Return the points of the chart's lines, and of the bands of their intervals."""
    most = max(sizes) or 1

    lines = {}
    for name in CURVES:
        known = {size: cells[name] for size, cells in sizes.items() if cells[name]["count"]}
        above = [(_x(size, most), _y(cell["high"])) for size, cell in known.items()]
        below = [(_x(size, most), _y(cell["low"])) for size, cell in known.items()]
        points = [(_x(size, most), _y(cell["value"])) for size, cell in known.items()]
        lines[name] = {
            "points": points,
            "line": _path(points),
            "band": _path([*above, *reversed(below)]),
        }

    return {"lines": lines, "sizes": [(size, _x(size, most)) for size in sizes]}


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _heatmap(rows: Rows, found: Sequence[Mapping]) -> dict:
    """Return a line for each set, a column for each class of a kind of which any is erased."""
    sets: list[Erased] = list(dict.fromkeys(tuple(row["erased_concepts"]) for row in found))
    every = -(-len(sets) // MOST_LINES)
    sets = sets[::every]
    domains = domains_of(rows.labels, [name for erased in sets for name in erased])

    columns: dict[str, None] = {}
    for labels in rows.labels.values():
        columns |= {label: None for kind, label in labels.items() if kind in domains}

    lines = []
    for erased in sets:
        shares, gone = rows.by_concept(erased), {name.lower() for name in erased}
        cells = [{**shares[column], "erased": column.lower() in gone} for column in columns]
        lines.append({"name": " + ".join(erased) or "base", "cells": cells})

    return {"columns": list(columns), "lines": lines, "every": every}


def _sheets(rows: Rows) -> dict:
    """Return small pictures at equal seeds: the base, then stages, or sets of all sizes."""
    stored: dict[Erased, dict[int, str]] = {}
    for erased, number, webp in rows.store.thumbnails():
        picture = "data:image/webp;base64," + base64.b64encode(webp).decode()
        stored.setdefault(erased, {})[number] = picture

    stages = [("base", ())]
    for event, erased in rows.stages:
        stages.append((event or f"{' + '.join(erased)} erased", erased))
    listed = [(name, stored[erased]) for name, erased in stages if erased in stored]
    # As many as can be looked at, spread evenly over all; the base always.
    every = max(1, -(-len(listed) // SHEETS))
    chosen = listed[:1] + listed[1::every]

    # Every line has the same cases; a set may lack a picture that others have.
    shown = {number for _, pictures in chosen for number in pictures}
    cases = [case for case in rows.cases if case.number in shown]
    lines = []
    for name, pictures in chosen:
        lines.append((name, [pictures.get(case.number) for case in cases]))

    return {"prompts": [case.prompt for case in cases], "lines": lines}
