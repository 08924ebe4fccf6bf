"""Tables of ``peers.py``: what each row does to sets of each size, with intervals; who is ahead."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from seeing import STUDIO, SUBJECT, Seen
from studios import FAMILIES

from multierase.evaluation.statistics import Share

RESAMPLES = 2000
COLUMNS = ("remaining", "kept", "siblings", "subjects", "H")
"""``remaining``: 0 is best. The others are divided by the base's; 1 is best. ``H``: the harmonic
mean of ``1 - remaining``, kept and subjects, each at most 1."""
COSTS = ("evaluations", "seconds", "composing", "bytes")
IN_SHORT = {"remaining": 1, "kept": 0, "subjects": 0, "H": 1}  # with digits, of percents

# Places of the counts of one studio's pictures in one case: of all but the pictures themselves what
# is seen, and behind it what it is divided by.
REMAINING, KEPT, SUBJECTS, SIBLINGS, PICTURES, COUNTS = 0, 2, 4, 6, 8, 9
PLACES = {"remaining": REMAINING, "kept": KEPT, "siblings": SIBLINGS, "subjects": SUBJECTS}
ENOUGH = 8  # studios in cases; of fewer a bootstrap says nothing

Judged = dict[str, dict[str, Mapping[str, Any]]]
"""By row, by case what was seen, and whether restoring was exact."""
Cells = dict[str, dict[str, dict[str, Any]]]
"""By row, by number of erased studios."""


def table(judged: Judged, bases: Mapping[str, Seen]) -> Cells:
    """Return what was measured, with intervals of 95 %.

    They come from a bootstrap over what shares an increment and a set: the pictures of one studio
    in one case. Where that cannot vary, as where nothing remains, Wilson's interval is wider, and
    is taken: of the pictures, and of what stays of those that the base has right.
    """
    cells: Cells = {}
    for row, cases in judged.items():
        for size, units in _by_size(cases, bases).items():
            counts = np.array(list(units.values()))
            found = _with_intervals(counts, measures(_drawn(counts, size)))
            found["sets"] = len({case for case, _ in units})
            found["pictures"] = int(counts[:, PICTURES].sum())
            found["restored"] = _restored({case: cases[case] for case, _ in units})
            cells.setdefault(row, {})[str(size)] = found

    return cells


def measures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of summed counts ``(..., 9)``; not a number where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            column: counts[..., place] / counts[..., place + 1] for column, place in PLACES.items()
        }
        kept, subjects = np.minimum(found["kept"], 1), np.minimum(found["subjects"], 1)
        parts = np.stack([1 - found["remaining"], kept, subjects])
        found["H"] = (~np.isnan(parts)).sum(0) / np.nansum(1 / parts, axis=0)

    return found


def _by_size(
    cases: Mapping[str, Mapping[str, Any]], bases: Mapping[str, Seen]
) -> dict[int, dict[tuple[str, str], list[int]]]:
    """Return by size, by case and studio the counts that ``measures`` reads."""
    found: dict[int, dict[tuple[str, str], list[int]]] = {}
    for case, judged in cases.items():
        erased = set(case.split("/")[-1].split("+"))
        units = found.setdefault(len(erased), {})
        for picture, seen in judged["seen"].items():
            studio, before = picture.split("|")[1], bases[case][picture]
            unit = units.setdefault((case, studio), [0] * COUNTS)
            unit[PICTURES] += 1
            unit[SUBJECTS] += seen[SUBJECT]
            unit[SUBJECTS + 1] += before[SUBJECT]
            if studio in erased:
                unit[REMAINING] += seen[STUDIO]
                unit[REMAINING + 1] += 1
                continue

            sibling = any(studio in family and erased & set(family) for family in FAMILIES)
            for place in (KEPT, SIBLINGS) if sibling else (KEPT,):
                unit[place] += seen[STUDIO]
                unit[place + 1] += before[STUDIO]

    return dict(sorted(found.items()))


def _drawn(counts: np.ndarray, seed: int) -> np.ndarray:
    """Return the sums ``(r, 9)`` of units that are drawn with replacement, as often as all."""
    rng = np.random.default_rng(seed)  # the same for every row
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)

    return weights @ counts


def _with_intervals(counts: np.ndarray, drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    total = counts.sum(0)
    found = {}
    for column, value in measures(total).items():
        if np.isnan(value):
            continue
        ends = _ends(drawn[column])
        if column in PLACES:
            seen, of = (int(total[PLACES[column] + step]) for step in (0, 1))
            ends = _widened(ends, Share(min(seen, of), of).interval())
        found[column] = {"value": round(float(value), 4), "low": ends[0], "high": ends[1]}

    return found


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])

    return round(float(low), 4), round(float(high), 4)


def _widened(ends: tuple[float, float], others: tuple[float, float]) -> tuple[float, float]:
    return round(min(ends[0], others[0]), 4), round(max(ends[1], others[1]), 4)


def _restored(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"exact": all(one["exact"] for one in cases.values())}
    subtracted = [one["subtracted"] for one in cases.values() if "subtracted" in one]
    # A later round may take a set again, whose solve is then remembered.
    first = [one for case, one in cases.items() if case.split("/")[1] == "0"]
    composing = [one["composing"] for one in first if "composing" in one]
    for name, values in (("subtracted", subtracted), ("composing", composing)):
        if values:
            found[name] = round(statistics.median(values), 4)

    return found


def ahead(judged: Judged, bases: Mapping[str, Seen], ours: str) -> dict[str, dict[str, list]]:
    """Return by size and column the rows that are ahead of ours by more than chance; all in ``H``.

    The interval is of the difference, better above 0, over the cases that both have.
    """
    found: dict[str, dict[str, list]] = {}
    for row, cases in judged.items():
        shared = [case for case in cases if case in judged.get(ours, {})]
        if row == ours or not shared:
            continue

        theirs = _by_size({case: cases[case] for case in shared}, bases)
        own = _by_size({case: judged[ours][case] for case in shared}, bases)
        for size, units in theirs.items():
            here = np.array([own[size][unit] for unit in units])
            there = np.array(list(units.values()))
            for column, entry in _differences(here, there, size).items():
                columns = found.setdefault(str(size), {})
                columns.setdefault(column, []).append({"row": row, **entry})

    return found


def _differences(own: np.ndarray, theirs: np.ndarray, size: int) -> dict[str, dict[str, float]]:
    """Return the columns in which counts of the same units are ahead, and by how much."""
    ours, drawn_ours = measures(own.sum(0)), measures(_drawn(own, size))
    others, drawn_others = measures(theirs.sum(0)), measures(_drawn(theirs, size))

    found = {}
    for column in COLUMNS:
        sign = -1 if column == "remaining" else 1
        value = sign * float(others[column] - ours[column])
        if np.isnan(value):
            continue
        with np.errstate(invalid="ignore"):
            low, high = _ends(sign * (drawn_others[column] - drawn_ours[column]))
        enough = column in PLACES and (own[:, PLACES[column] + 1] > 0).sum() >= ENOUGH
        if (enough and low > 0) or (column == "H" and value > 0):
            found[column] = {"by": round(value, 4), "low": low, "high": high}
    return found


def costs_of(made: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what a concept takes, the mean of the seeds."""
    keys = ("evaluations", "seconds", "bytes")

    return {key: round(statistics.mean(one[key] for one in made), 3) for key in keys}


def relative(costs: dict[str, dict[str, float]], cells: Cells, ours: str) -> dict[str, list[str]]:
    """Make seconds relative to ours, add those of composing, and return by cost who takes less."""
    for row, cost in costs.items():
        seconds = [cell["restored"].get("composing", 0.0) for cell in cells[row].values()]
        cost["composing"] = statistics.mean(seconds)

    own = dict(costs.get(ours, {}))
    for cost in costs.values():
        for key in ("seconds", "composing"):
            cost[key] = round(cost[key] / own[key], 3) if own.get(key) else 0.0

    cheaper: dict[str, list[str]] = {}
    for row, cost in costs.items():
        for key in COSTS:
            if own and cost[key] < costs[ours][key]:
                cheaper.setdefault(key, []).append(row)
    return cheaper


def show(report: Mapping[str, Any]) -> None:
    """Print on stderr where peers are ahead, the table in Markdown, and in short."""
    for line in (*lines(report), "", *in_short(report)):
        print(line, file=sys.stderr)


def in_short(report: Mapping[str, Any]) -> list[str]:
    """Return the table as the documentation has it: without intervals, the best H first."""
    table = report["table"]
    sizes = sorted({size for row in table.values() for size in row}, key=int)
    heads = ["increments: composed by", *IN_SHORT]
    said = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def of(row: str, column: str) -> list[float | None]:
        found = [table[row].get(size, {}).get(column) for size in sizes]
        return [None if entry is None else 100 * entry["value"] for entry in found]

    def best(row: str) -> float:
        return -statistics.fmean(value for value in of(row, "H") if value is not None)

    for row in sorted(table, key=best):
        cells = []
        for column, digits in IN_SHORT.items():
            values = ("–" if v is None else f"{v:.{digits}f}" for v in of(row, column))
            cells.append(" / ".join(values))
        name = f"**{row}**" if row == report["ours"] else row
        said.append(f"| {' | '.join([name, *cells])} |")

    return said


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return where peers are ahead, and the table in Markdown."""
    said = []
    for size, columns in sorted(report["ahead"].items(), key=lambda item: int(item[0])):
        for column in reversed(COLUMNS):  # H first
            for entry in sorted(columns.get(column, []), key=lambda one: -one["by"]):
                by = f"{entry['by']:.1%} ({entry['low']:.1%} to {entry['high']:.1%})"
                said.append(f"- {size} erased, {column}: {entry['row']} is ahead by {by}")
    for cost, rows in report["cheaper"].items():
        said.append(f"- {cost}: {len(rows)} rows take less than ours: {'; '.join(rows)}")

    sizes = sorted({size for row in report["table"].values() for size in row}, key=int)
    columns = [f"{column}, {' / '.join(sizes)}" for column in COLUMNS]
    heads = ["increments: composed by", *columns, "restored", *COSTS, "knobs"]
    said += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, cells in report["table"].items():
        shown = [_cell(cells, column, sizes) for column in COLUMNS]
        cost = report["costs"].get(row, {})
        spent = [f"{cost[key]:g}" if key in cost else "" for key in (*COSTS, "knobs")]
        said.append(f"| {' | '.join([row, *shown, _bits(cells), *spent])} |")

    return said


def _cell(cells: Mapping[str, Mapping[str, Any]], column: str, sizes: Sequence[str]) -> str:
    """Return a column's values with their intervals, in percent, by size."""
    shown = []
    for size in sizes:
        entry = cells.get(size, {}).get(column)
        if entry is None:
            shown.append("–")
            continue
        value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
        shown.append(f"{value:.1f} ({low:.0f}–{high:.0f})")

    return " / ".join(shown)


def _bits(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Say whether restoring was exact, and what subtracting gives back."""
    restored = [cell["restored"] for cell in cells.values()]
    shares = [one["subtracted"] for one in restored if "subtracted" in one]
    said = "bit for bit" if all(one["exact"] for one in restored) else "not exact"

    return f"{said}; subtracted {statistics.mean(shares):.0%}" if shares else said
