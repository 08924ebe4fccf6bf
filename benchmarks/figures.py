"""The pictures of the documentation, from the committed results; its tables on stdout.

    python benchmarks/figures.py --out docs

In the results ``erased`` is the share of an erased concept that remains: 0 is best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
GROUPS = ("listed", "unlisted")
TITLES = {
    "erased": "remaining (0 is best)",
    "kept": "kept, of the base's",
    "kept_subjects": "subjects kept, of the base's",
    "kept_studios": "studios kept, of the base's",
    "harmonic_mean": "harmonic mean",
}
COST_TITLES = {"erased": "remaining", "kept": "others kept", "its_subject": "its own subjects"}
COST_WORST = {"erased": "max", "kept": "min", "its_subject": "min"}

Table = Mapping[str, dict]


def lines(cells: Table, columns: Sequence[str], sizes: Sequence[str]) -> Figure:
    """Draw a line for each method, from the mean over subsets to the worst.

    A row for each group of templates, a column for each of ``columns``.
    """
    groups = list(next(iter(cells.values())))
    figure = Figure(figsize=(4.6 * len(columns), 3.4 * len(groups)))
    axes = figure.subplots(len(groups), len(columns), sharex=True)
    for row, group in zip(axes, groups, strict=True):
        for axis, column in zip(row, columns, strict=True):
            for number, (method, table) in enumerate(cells.items()):
                _line(axis, f"C{number}", method, table[group], column, sizes)
            axis.set_ylim(-0.03, 1.06)
            axis.grid(alpha=0.3)
            axis.set_title(f"{group} templates, {TITLES[column]}", fontsize=10)

    for axis in axes[-1]:
        axis.set_xlabel("concepts erased")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=9)
    figure.tight_layout(rect=(0, 0.02 + 0.035 * -(-len(labels) // 3), 1, 1))
    return figure


def _line(axis, colour: str, method: str, table: Table, column: str, sizes: Sequence[str]) -> None:
    listed = [size for size in sizes if column in table.get(size, {})]
    numbers = [int(size) for size in listed]
    values = [table[size][column] for size in listed]
    axis.plot(numbers, values, marker="o", markersize=3, color=colour, label=method)

    worst = [table[size].get(f"{column}_worst") for size in listed]
    if None not in worst:
        axis.fill_between(numbers, values, worst, color=colour, alpha=0.08)


def cost(table: Table) -> Figure:
    """Draw what remains and what is kept against evaluations of the U-Net.

    A line for each schedule, from the least to the most of its runs.
    """
    schedules: dict[str, list[dict]] = {}
    for method, cell in table.items():
        schedules.setdefault(method.rpartition(", ")[0], []).append(cell)
    for cells in schedules.values():
        cells.sort(key=lambda cell: cell["unet_evaluations"]["mean"])

    figure = Figure(figsize=(13, 3.6))
    axes = figure.subplots(1, len(COST_TITLES))
    for axis, (column, title) in zip(axes, COST_TITLES.items(), strict=True):
        for schedule, cells in schedules.items():
            spent = [cell["unet_evaluations"]["mean"] for cell in cells]
            means = [cell[column]["mean"] for cell in cells]
            spread = []
            for end in ("min", "max"):
                spread.append([abs(cell[column][end] - cell[column]["mean"]) for cell in cells])
            axis.errorbar(spent, means, spread, marker="o", markersize=4, capsize=3, label=schedule)
        axis.set_xscale("log")
        axis.set_xlabel("U-Net evaluations")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03, 1.06)
        axis.grid(alpha=0.3)

    axes[-1].legend(fontsize=9)
    figure.tight_layout()
    return figure


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def print_table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table in Markdown."""
    titles = list(titles)
    print("| " + " | ".join(titles) + " |")
    print("|" + "---|" * len(titles))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def cost_table(table: Table) -> None:
    rows = []
    for method, cell in table.items():
        evaluations = f"{cell['unet_evaluations']['mean']:,.0f}"
        row = [method, f"{cell['learning_rate']:g}", evaluations]
        for column, worst in COST_WORST.items():
            row.append(f"{percent(cell[column]['mean'])} ({percent(cell[column][worst])})")
        rows.append(row)

    shares = [f"{title} (worst)" for title in COST_TITLES.values()]
    print_table(["schedule", "rate", "U-Net evaluations", *shares], rows)


def compress_table(table: Table) -> None:
    rows = []
    for cut, cell in table.items():
        at_sd = f"{cell['sd_rank']}, {cell['sd_bytes'] / 1e6:.2f}"
        means = [f"{cell[group]['harmonic_mean']:.3f}" for group in GROUPS]
        rows.append([cut, f"{cell['rank']:.0f}", f"{cell['bytes'] / 1e3:.0f}", at_sd, *means])

    titles = ["cut", "rank", "kB", "at SD 1.4: rank, MB", "H listed", "H unlisted"]
    print_table(titles, rows)


def subsets_table(table: Table) -> None:
    rows = []
    for method, groups in table.items():
        for group, cells in groups.items():
            whole = cells["all"]
            row = [method, group, whole["subsets"]]
            for column in ("erased", "kept"):
                row.append(f"{percent(whole[column])} ({percent(whole[column + '_worst'])})")

            listed = [cells[str(size)] for size in range(1, 9) if str(size) in cells]
            least = min(cell["harmonic_mean"] for cell in listed)
            rows.append([*row, percent(whole["kept_subjects"]), f"{least:.3f}"])

    print_table(
        [
            "method",
            "templates",
            "subsets",
            "remaining (worst)",
            "kept (worst)",
            "its subjects",
            "H, least of sizes 1-8",
        ],
        rows,
    )


def siblings_table(table: Table) -> None:
    """Print what studios keep with a sibling erased, and in brackets with none."""
    rows = []
    for studio in next(iter(table.values()))["listed"]["siblings"]:
        row = [studio]
        for groups in table.values():
            found = [groups[group]["siblings"][studio] for group in GROUPS]
            erased = " / ".join(percent(cell["sibling off"]) for cell in found)
            none = " / ".join(percent(cell["no sibling off"]) for cell in found)
            row.append(f"{erased} ({none})")
        rows.append(row)

    print_table(["", *table], rows)


def capacity_table(table: Table) -> None:
    counts = list(next(iter(table.values()))["listed"])
    rows = []
    for solve, groups in table.items():
        for group, cells in groups.items():
            found = [cells[count] for count in counts]
            shares = [f"{percent(cell['erased'])} / {percent(cell['kept'])}" for cell in found]
            rows.append([solve, group, *shares])

    print_table(["solve", "templates", *(f"{count} erased" for count in counts)], rows)


def solve_table(table: Table) -> None:
    columns = []
    for group, sizes in next(iter(table.values())).items():
        columns += [(group, size) for size in sizes]

    rows = []
    for variant, groups in table.items():
        row = [variant]
        for group, size in columns:
            cell = groups[group][size]
            degree, change = cell["erased_degree"]["mean"], cell["kept_change"]["mean"]
            row.append(f"{degree:+.2f} / {change:.2f}")
        rows.append(row)

    print_table(["", *(f"{group}, {size} erased" for group, size in columns)], rows)


def families_table(table: Table) -> None:
    rows = []
    for variant, groups in table.items():
        row = [variant]
        for column in ("erased", "kept"):
            row.append(" / ".join(percent(cell[column]) for cell in groups.values()))

        least = min(groups.values(), key=lambda cell: cell["kept_least"])
        named = least["least"].replace(" off", " erased")
        where = f", {named}" if least["kept_least"] < 0.9 else ""
        rows.append([*row, percent(least["kept_least"]) + where])

    print_table(["", "remaining", "siblings kept", "the least kept subject of a sibling"], rows)


def table_of(benchmark: str) -> Table:
    """Return the table of a committed result."""
    return json.loads((RESULTS / f"{benchmark}.json").read_text())["table"]


def draw(folder: Path, subsets: Table, capacity: Table, costs: Table) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["erased", "kept", "kept_subjects", "harmonic_mean"]
    sizes = [str(size) for size in range(1, 10)]
    lines(subsets, columns, sizes).savefig(folder / "subsets.png", dpi=80)

    columns = ["erased", "kept", "kept_studios", "harmonic_mean"]
    counts = list(next(iter(capacity.values()))["listed"])
    lines(capacity, columns, counts).savefig(folder / "capacity.png", dpi=80)

    cost(costs).savefig(folder / "cost.png", dpi=80)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    arguments = options.parse_args()

    subsets, capacity, costs = table_of("subsets"), table_of("capacity"), table_of("erase_cost")
    draw(arguments.out, subsets, capacity, costs)
    subsets_table(subsets)
    siblings_table(subsets)
    families_table(table_of("siblings"))
    capacity_table(capacity)
    cost_table(costs)
    compress_table(table_of("compress"))
    solve_table(table_of("solve_settings"))


if __name__ == "__main__":
    main()
