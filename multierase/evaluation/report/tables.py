"""A sweep's numbers as tables: by the number of erased concepts, as CSV, LaTeX and Parquet."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from multierase.errors import MissingExtra
from multierase.evaluation.report.rows import SHARES, Rows, overall
from multierase.evaluation.statistics import Share
from multierase.files import plain

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that spreadsheets calculate
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
HEAD = (
    "method",
    "erased",
    "sets",
    "remaining, %",
    "kept, %",
    "of the base's, %",
    "harmonic mean",
    "restored, %",
    "cross domain, %",
    "beside the erased, %",
)


@dataclass
class _Cell:
    """All sets of one size."""

    sets: int = 0
    shares: dict[str, Share] = field(default_factory=lambda: dict.fromkeys(SHARES, Share(0, 0)))
    means: dict[str, list[float]] = field(default_factory=dict)
    attacks: dict[str, Share] = field(default_factory=dict)

    def add(self, row: Mapping) -> None:
        self.sets += 1
        for name in SHARES:
            self.shares[name] += Share(row[name]["right"], row[name]["count"])
        for name, mean in row["measures"].items():
            self.means.setdefault(name, []).append(mean)
        for name, found in row["attacks"].items():
            broken = Share(found["broken"]["right"], found["broken"]["count"])
            self.attacks[name] = self.attacks.get(name, Share(0, 0)) + broken

    def as_dict(self) -> dict:
        kept, base = self.shares["kept"], self.shares["kept_by_base"]
        relative = kept.value / base.value if base.right else float("nan")

        return {
            "sets": self.sets,
            "measures": {name: statistics.fmean(means) for name, means in self.means.items()},
            "attacks": {name: share.as_dict() for name, share in self.attacks.items()},
            **{name: share.as_dict() for name, share in self.shares.items()},
            "kept_relative": relative,
            "harmonic_mean": overall(self.shares["remaining"], kept, relative),
        }


def by_size(rows: Sequence[Mapping]) -> dict[int, dict]:
    """Return the numbers by how many concepts are erased: of all pictures of these sets together.

    Measures are means over the sets.
    """
    # A set that comes twice in an order counts once.
    sets = {tuple(row["erased_concepts"]): row for row in rows}

    cells: dict[int, _Cell] = {}
    for row in sets.values():
        cells.setdefault(row["size"], _Cell()).add(row)

    return {size: cell.as_dict() for size, cell in sorted(cells.items())}


def measured(methods: Iterable[Mapping[int, Mapping]], what: str = "measures") -> list[str]:
    """Return every measure of any size: the base has none of what is erased.

    Args:
        what: or ``attacks``.
    """
    names: dict[str, None] = {}
    for sizes in methods:
        for cells in sizes.values():
            names |= dict.fromkeys(cells[what])

    return list(names)


def as_csv(rows: Sequence[Mapping]) -> str:
    """Return a row for each set; of a share its value, the ends of its interval and its count."""
    text, flat = io.StringIO(), [_flat(row) for row in rows]
    columns = dict.fromkeys(column for row in flat for column in row)

    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping) -> dict:
    found = {}
    for key, value in row.items():
        if key == "measures":
            found |= value
        elif key == "attacks":
            for attack, shares in value.items():
                found |= {f"{attack}_{name}": share["value"] for name, share in shares.items()}
        elif key in ("counts", "base_counts"):
            found |= {f"{key}_{name}": count for name, count in value.items()}
        elif isinstance(value, Mapping):
            found[key] = value["value"]
            found |= {f"{key}_{part}": value[part] for part in ("low", "high", "count")}
        else:
            found[key] = " + ".join(value) if isinstance(value, list) else value

    return {_text(key): _text(value) for key, value in found.items()}


def _text(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula; numbers stay."""
    if not isinstance(cell, str):
        return cell
    shown = plain(cell)

    return f"'{shown}" if cell.startswith(FORMULA) else shown


def as_latex(methods: Mapping[str, Mapping[int, Mapping]]) -> str:
    """Return the table by method and number of erased concepts, for a paper with ``booktabs``."""
    measures, attacks = measured(methods.values()), measured(methods.values(), "attacks")
    lines = []
    for method, sizes in methods.items():
        for size, cells in sizes.items():
            shown = _latex_cells(cells, measures, attacks)
            lines.append(_line([method, size, cells["sets"], *shown]))

    more = [f"under {name}, %" for name in attacks] + [name.replace("_", " ") for name in measures]
    head = _line([*HEAD, *more])
    columns = "l" + "r" * (len(HEAD) - 1 + len(more))
    begin = rf"\begin{{tabular}}{{{columns}}}"
    parts = [begin, r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts)


def _latex_cells(cells: Mapping, measures: Sequence[str], attacks: Sequence[str]) -> list[str]:
    def share(found: Mapping | None) -> str:
        if not found or not found["count"]:
            return "--"
        return f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"

    def number(value: float | None, factor: float, digits: int) -> str:
        known = value is not None and value == value  # nan is not equal to itself
        return f"{factor * value:.{digits}f}" if known else "--"

    return [
        share(cells["remaining"]),
        share(cells["kept"]),
        number(cells["kept_relative"], 100, 1),
        number(cells["harmonic_mean"], 1, 3),
        share(cells["restored"]),
        share(cells["cross_domain"]),
        share(cells["beside"]),
        *(share(cells["attacks"].get(name)) for name in attacks),
        *(number(cells["measures"].get(name), 1, 3) for name in measures),
    ]


def _line(cells: Sequence[object]) -> str:
    return " & ".join(escaped(str(cell)) for cell in cells) + r" \\"


def escaped(text: str) -> str:
    """Return text as LaTeX prints it, whatever is in it."""
    line = plain(text).replace("\n", " ")

    return re.sub(r"[\\~^&%$#_{}]", lambda found: LATEX[found[0]], line)


def require_parquet() -> ModuleType:
    """Return pyarrow.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("Parquet needs pyarrow: pip install 'multierase[parquet]'") from error

    return pyarrow


def write_pictures(parts: Mapping[str, Rows], path: Path) -> None:
    """Write every picture of every set as a row of a Parquet file.

    The columns are ``method``, ``erased`` (a list), the case's number, prompt and seed, for each
    kind of label what was asked and, as ``<kind>_seen``, what the judge saw, the distance, how many
    were counted, as ``counts_<name>``, and what was measured.
    """
    found = []
    for method, rows in parts.items():
        for erased in sorted(rows.store.done()):
            pictures = rows.outcome(erased).pictures
            for case in rows.cases:
                own = {"method": method, "erased": list(erased)}
                found.append(own | _picture(case, pictures[case.number]))

    pyarrow = require_parquet()
    # By itself it takes the first picture's columns alone.
    columns = list(dict.fromkeys(name for row in found for name in row))
    table = {name: [row.get(name) for row in found] for name in columns}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def _picture(case, picture) -> dict:
    row = {
        "case_number": case.number,
        "prompt": case.prompt,
        "evaluation_seed": case.seed,
    }
    for kind, seen in picture.seen.items():
        row |= {kind: case.labels.get(kind), f"{kind}_seen": seen}
    row["distance"] = picture.distance
    row |= {f"counts_{name}": count for name, count in picture.counts.items()}

    return row | picture.measures
