"""What was measured on several bases, as tables.

``judged`` has by base: ``base``, what is seen in its own pictures, ``unasked``, how often each
studio is seen where none is named, and ``arms``: by arm and seed what the training took, and the
row of every set. Shares are by studio: ``studios`` of its pictures in which it is seen,
``subjects`` of those in which the subject is.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness import rounded
from scipy.stats import spearmanr

Shares = Mapping[str, float]
Row = Mapping[str, Any]
"""Of one set: the ``erased``, shares, those of a ``restored`` studio, whether restoring all was
``exact``, and numbers of the ``certificate``."""
Judged = Mapping[str, Mapping[str, Any]]


def base_row(here: Mapping[str, Any]) -> dict[str, float]:
    """Return how well a base itself draws what it is asked for."""
    studios, subjects = here["base"]["studios"].values(), here["base"]["subjects"].values()

    return rounded(
        {
            "studios": statistics.mean(studios),
            "worst_studio": min(studios),
            "subjects": statistics.mean(subjects),
        }
    )


def table(here: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, dict[str, dict]]:
    """Return by arm and number of erased studios what was measured on one base."""
    found: dict[str, dict[str, dict]] = {}
    base = here["base"]["studios"]
    for arm, cells in here["arms"].items():
        erased = {studio for row in rows_of(cells) for studio in row["erased"]}
        costs: list[int] = []
        for cell in cells.values():
            costs += cell["trained"]["evaluations"].values()
        for size in sizes:
            rows = [row for row in rows_of(cells) if len(row["erased"]) == size]
            if rows:
                cell = summary(rows, here["base"])
                cell["unasked"] = statistics.mean(
                    here["unasked"][studio] for row in rows for studio in row["erased"]
                )
                cell["evaluations"] = statistics.mean(costs) if costs else 0
                parts = [(row["studios"], base, base.keys() - erased) for row in rows]
                never = relative(parts)
                if never is not None:
                    cell["never_erased"] = never
                found.setdefault(arm, {})[str(size)] = rounded(cell)

    return found


def by_seed(here: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, dict[str, dict]]:
    """Return by arm and seed of the training the same of that seed alone."""
    found: dict[str, dict[str, dict]] = {}
    for arm, cells in here["arms"].items():
        for seed, cell in cells.items():
            alone = {**here, "arms": {arm: {seed: cell}}}
            found.setdefault(arm, {})[seed] = table(alone, sizes)[arm]

    return found


def rows_of(cells: Mapping[str, Mapping]) -> Iterator[Row]:
    """Yield the rows of every seed."""
    for cell in cells.values():
        yield from cell["sets"]


def summary(rows: Sequence[Row], base: Mapping[str, Shares]) -> dict[str, float]:
    """Return what sets of one size give; what stays, as a share of the base's own."""
    remaining, kept, subjects, restored = [], [], [], []
    for row in rows:
        erased, others = row["erased"], base["studios"].keys() - set(row["erased"])
        remaining += [row["studios"][studio] for studio in erased]
        kept.append((row["studios"], base["studios"], others))
        subjects.append((row["subjects"], base["subjects"], base["subjects"].keys()))
        if "restored" in row:
            restored.append((row["restored"], base["studios"], row["restored"].keys()))
        elif row["exact"]:
            # To restore the only one is to restore all.
            restored.append((base["studios"], base["studios"], erased))

    found = {"remaining": statistics.mean(remaining), "remaining_worst": max(remaining)}
    columns = {"kept": kept, "subjects": subjects, "restored": restored}
    for name, parts in columns.items():
        share = relative(parts)
        if share is not None:
            found[name] = share
    return {**found, "exact": statistics.mean(row["exact"] for row in rows), "sets": len(rows)}


def relative(parts: Sequence[tuple[Shares, Shares, Collection[str]]]) -> float | None:
    """Return the named studios' shares now, divided by the base's; ``None`` where that has none."""
    now, before = 0.0, 0.0
    for shares, base, studios in parts:
        now += sum(shares[studio] for studio in studios)
        before += sum(base[studio] for studio in studios)

    return now / before if before else None


def certificates(judged: Judged) -> dict[str, dict[str, dict]]:
    """Compare what certificates say of each studio of each set with what the judge saw.

    The rank correlation is Spearman's: of the erased between the degree and what remains, of the
    others between how far they moved and what the judge lost of them, and that of both together.
    Once over studios, and once over the means of sets.
    """
    pairs: dict[str, dict[str, list]] = {}
    for name, here in judged.items():
        for arm, cells in here["arms"].items():
            for side, pair in _pairs(rows_of(cells), here["base"]["studios"]):
                for key in (f"{name}, {arm}", f"all bases, {arm}"):
                    pairs.setdefault(key, {}).setdefault(side, []).append(pair)

    found: dict[str, dict[str, dict]] = {}
    for key, sides in sorted(pairs.items()):
        for side, listed in sides.items():
            found.setdefault(key, {})[side] = {"pairs": len(listed), "spearman": spearman(listed)}
    return found


def _pairs(rows: Iterator[Row], base: Shares) -> Iterator[tuple[str, tuple[float, float]]]:
    for row in rows:
        sides: dict[str, list[tuple[float, float]]] = {}
        for studio, said in row.get("certificate", {}).get("concepts", {}).items():
            seen = row["studios"][studio]
            lost = said["moved"], base[studio] - seen
            pair = (said["degree"], seen) if said["erased"] else lost
            sides.setdefault("erased" if said["erased"] else "kept", []).append(pair)
            yield "both", lost

        for side, pairs in sides.items():
            yield from ((side, pair) for pair in pairs)
            said_of_all, seen_of_all = zip(*pairs, strict=True)
            yield f"{side}, sets", (statistics.mean(said_of_all), statistics.mean(seen_of_all))


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the rank correlation; ``None`` where one side is always the same."""
    columns = list(zip(*pairs, strict=True))
    if any(len(set(column)) < 2 for column in columns):
        return None

    return round(float(spearmanr(*columns).statistic), 4)


def show(report: Mapping[str, Any]) -> None:
    """Print the tables on stderr."""
    for name, base in report["bases"].items():
        _line(f"{name}, itself", base)
        for arm, sizes in report["table"][name].items():
            for size, row in sizes.items():
                _line(f"{name}, {arm}, {size} erased", row)
            for seed, cell in report["judged"][name]["arms"][arm].items():
                if cell["trained"]["refused"]:
                    refused = ", ".join(cell["trained"]["refused"])
                    print(f"{name}, {arm}, seed {seed} refused {refused}", file=sys.stderr)

    for key, sides in report["certificate"].items():
        print(f"certificate against judge, {key}: {json.dumps(sides)}", file=sys.stderr)


def _line(about: str, cell: Mapping[str, float]) -> None:
    numbers = []
    for name, value in cell.items():
        numbers.append(f"{name} {value:.0f}" if value > 9 else f"{name} {value:.3f}")
    print(f"{about:40s}" + "  ".join(numbers), file=sys.stderr)
