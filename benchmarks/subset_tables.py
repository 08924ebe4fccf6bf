"""Tables of subsets: remaining and kept by the number of erased studios."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping

from drawing import Drawn, Erased
from harness import harmonic_mean, rounded
from seeing import STUDIO, SUBJECT, Seen, kept_share, share
from studios import FAMILIES

from multierase.emoji import STUDIOS

COLUMNS = ("erased", "erased_subjects", "kept", "kept_subjects")
"""``erased``: share that remains, 0 is best. The others are divided by the base's; 1 is best."""

Rows = Mapping[Erased, Seen]
Sides = Mapping[Erased, Drawn]
Cell = dict[str, float]


def summarise(rows: Rows, sides: Sides, reference: Seen) -> dict[str | int, Cell]:
    """Return a table's cells by size, and over all subsets."""
    by_size: dict[int, list[Cell]] = {}
    for erased, seen in rows.items():
        cell = _of_subset(seen, sides[erased], reference)
        by_size.setdefault(len(erased), []).append(cell)

    table: dict[str | int, Cell] = {size: _joined(by_size[size]) for size in sorted(by_size)}
    table["all"] = _joined([cell for cells in by_size.values() for cell in cells])
    # A studio has while others are erased what it gets back when it is restored: the composer's
    # state is a set.
    kept = _kept_by_studio(rows, sides, reference)
    table["all"]["restored_least"] = round(min(kept.values()), 4)
    return table


def _of_subset(seen: Seen, sides: Drawn, reference: Seen) -> Cell:
    cell = {
        "erased": share(seen, sides.erased)[STUDIO],
        "erased_subjects": kept_share(seen, reference, sides.erased, SUBJECT),
    }
    if sides.kept:
        cell["kept"] = kept_share(seen, reference, sides.kept, STUDIO)
        cell["kept_subjects"] = kept_share(seen, reference, sides.kept, SUBJECT)

    return cell


def _joined(cells: list[Cell]) -> Cell:
    found: Cell = {"subsets": len(cells)}
    for column in COLUMNS:
        values = [cell[column] for cell in cells if column in cell]
        if values:
            found[column] = statistics.mean(values)
            found[f"{column}_worst"] = max(values) if column == "erased" else min(values)
    if "kept" in found:
        found["harmonic_mean"] = harmonic_mean(found["erased"], found["kept"])

    return rounded(found)


def _kept_by_studio(rows: Rows, sides: Sides, reference: Seen) -> dict[str, float]:
    kept = {}
    for studio in STUDIOS:
        share_of_base = _kept(rows, sides, reference, studio)
        if share_of_base is not None:
            kept[studio] = share_of_base

    return kept


def _kept(rows: Rows, sides: Sides, reference: Seen, studio: str) -> float | None:
    """Return what a studio keeps over these subsets; ``None`` if it is erased in all."""
    now, base = [], []
    for erased, seen in rows.items():
        for picture in sides[erased].kept:
            if picture.studio == studio:
                now.append(seen[str(picture)][STUDIO])
                base.append(reference[str(picture)][STUDIO])

    return statistics.mean(now) / statistics.mean(base) if now else None


def siblings(rows: Rows, sides: Sides, reference: Seen) -> dict[str, Cell]:
    """Return what each studio with siblings keeps while one of them is erased, and while none is.

    The keys of the results are older than the words: ``sibling off`` is "a sibling erased".
    """
    found: dict[str, Cell] = {}
    for studio in itertools.chain(*FAMILIES):
        (family,) = (family for family in FAMILIES if studio in family)
        beside: dict[str, dict[Erased, Seen]] = {"sibling off": {}, "no sibling off": {}}
        for erased, seen in rows.items():
            side = "sibling off" if set(erased) & set(family) else "no sibling off"
            beside[side][erased] = seen

        cell = {side: _kept(listed, sides, reference, studio) for side, listed in beside.items()}
        found[studio] = rounded({side: value for side, value in cell.items() if value is not None})
    return found
