"""The pictures of the documentation, from the committed results; its tables on stdout.

python benchmarks/figures.py --out docs
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def lines(cells: dict[str, dict], columns: list[str], sizes: list[str]) -> Figure:
    """A row for each group of templates, a column for each of ``columns``; a line for each method, from the mean over
    subsets to the worst."""
    groups = list(next(iter(cells.values())))
    figure = Figure(figsize=(4.6 * len(columns), 3.4 * len(groups)))
    axes = figure.subplots(len(groups), len(columns), sharex=True)
    for row, group in zip(axes, groups, strict=True):
        for axis, column in zip(row, columns, strict=True):
            for colour, (method, table) in enumerate(cells.items()):
                listed = [size for size in sizes if column in table[group].get(size, {})]
                numbers = list(map(int, listed))
                values = [table[group][size][column] for size in listed]
                axis.plot(numbers, values, marker="o", markersize=3, color=f"C{colour}", label=method)
                worst = [table[group][size].get(f"{column}_worst") for size in listed]
                if None not in worst:
                    axis.fill_between(numbers, values, worst, color=f"C{colour}", alpha=0.08)
            axis.set_ylim(-0.03, 1.06)
            axis.grid(alpha=0.3)
            axis.set_title(f"{group} templates, {column.replace('_', ' ')}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("concepts erased")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=9)
    figure.tight_layout(rect=(0, 0.02 + 0.035 * -(-len(labels) // 3), 1, 1))
    return figure


COST_WORST = {"erased": "max", "kept": "min", "its_subject": "min"}
COST_COLUMNS = {"erased": "still in its hand", "kept": "others kept", "its_subject": "its own subjects"}


def cost(table: dict[str, dict]) -> Figure:
    """What is erased and kept against U-Net evaluations: a line for each schedule, from the least to the most of its
    runs."""
    figure = Figure(figsize=(13, 3.6))
    schedules: dict[str, list[dict]] = {}
    for method, cell in table.items():
        schedules.setdefault(method.rpartition(", ")[0], []).append(cell)
    for axis, (column, title) in zip(figure.subplots(1, len(COST_COLUMNS)), COST_COLUMNS.items(), strict=True):
        for schedule, cells in schedules.items():
            cells = sorted(cells, key=lambda cell: cell["unet_evaluations"]["mean"])
            spent = [cell["unet_evaluations"]["mean"] for cell in cells]
            means = [cell[column]["mean"] for cell in cells]
            spread = [[abs(cell[column][end] - cell[column]["mean"]) for cell in cells] for end in ("min", "max")]
            axis.errorbar(spent, means, spread, marker="o", markersize=4, capsize=3, label=schedule)
        axis.set_xscale("log")
        axis.set_xlabel("U-Net evaluations")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03, 1.06)
        axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    figure.tight_layout()
    return figure


def cost_table(table: dict[str, dict]) -> None:
    print("| schedule | rate | U-Net evaluations | still in its hand | others kept | its own subjects |")
    print("|---|---|---|---|---|---|")
    for method, cell in table.items():
        shares = (f"{percent(cell[c]['mean'])} ({percent(cell[c][w])})" for c, w in COST_WORST.items())
        row = [method, f"{cell['learning_rate']:g}", f"{cell['unet_evaluations']['mean']:,.0f}", *shares]
        print("| " + " | ".join(row) + " |")


def compress_table(table: dict[str, dict]) -> None:
    print("| cut | rank | kB | at SD 1.4: rank, MB | H listed | H unlisted |")
    print("|---|---|---|---|---|---|")
    for cut, cell in table.items():
        sizes = f"{cell['bytes'] / 1e3:.0f} | {cell['sd_rank']}, {cell['sd_bytes'] / 1e6:.2f}"
        means = (f"{cell[group]['harmonic_mean']:.3f}" for group in ("listed", "unlisted"))
        print(f"| {cut} | {cell['rank']:.0f} | {sizes} | " + " | ".join(means) + " |")


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def subsets_table(table: dict[str, dict]) -> None:
    print("| method | templates | subsets | erased (worst) | kept (worst) | its subjects | H, least of sizes 1-8 |")
    print("|---|---|---|---|---|---|---|")
    for method, groups in table.items():
        for group, cells in groups.items():
            whole = cells["all"]
            least = min(cells[str(size)]["harmonic_mean"] for size in range(1, 9) if str(size) in cells)
            pairs = (f"{percent(whole[c])} ({percent(whole[c + '_worst'])})" for c in ("erased", "kept"))
            row = [method, group, whole["subsets"], *pairs, percent(whole["kept_subjects"]), f"{least:.3f}"]
            print("| " + " | ".join(map(str, row)) + " |")


def siblings_table(table: dict[str, dict]) -> None:
    print("| |" + "".join(f" {method} |" for method in table))
    print("|---|" + "---|" * len(table))
    for studio in next(iter(table.values()))["listed"]["siblings"]:
        cells = []
        for groups in table.values():
            found = [groups[group]["siblings"][studio] for group in ("listed", "unlisted")]
            off, none = (" / ".join(percent(f[side]) for f in found) for side in ("sibling off", "no sibling off"))
            cells.append(f"{off} ({none})")
        print(f"| {studio} | " + " | ".join(cells) + " |")


def capacity_table(table: dict[str, dict]) -> None:
    counts = list(next(iter(table.values()))["listed"])
    print("| solve | templates |" + "".join(f" {count} off |" for count in counts))
    print("|---|---|" + "---|" * len(counts))
    for solve, groups in table.items():
        for group, cells in groups.items():
            values = (f" {percent(cells[c]['erased'])} / {percent(cells[c]['kept'])} |" for c in counts)
            print(f"| {solve} | {group} |" + "".join(values))


def solve_table(table: dict[str, dict]) -> None:
    columns = [(group, size) for group, sizes in next(iter(table.values())).items() for size in sizes]
    print("| |" + "".join(f" {group}, {size} off |" for group, size in columns))
    print("|---|" + "---|" * len(columns))
    for variant, groups in table.items():
        cells = [groups[group][size] for group, size in columns]
        values = (f" {cell['erased_degree']['mean']:+.2f} / {cell['kept_change']['mean']:.2f} |" for cell in cells)
        print(f"| {variant} |" + "".join(values))


def families_table(table: dict[str, dict]) -> None:
    print("| | erased | siblings kept | the least kept subject of a sibling |")
    print("|---|---|---|---|")
    for variant, groups in table.items():
        cells = [" / ".join(percent(groups[group][column]) for group in groups) for column in ("erased", "kept")]
        least = min(groups.values(), key=lambda cell: cell["kept_least"])
        worst = f"{percent(least['kept_least'])}" + (f", {least['least']}" if least["kept_least"] < 0.9 else "")
        print(f"| {variant} | " + " | ".join([*cells, worst]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    args = parser.parse_args()
    subsets = json.loads((RESULTS / "subsets.json").read_text())["table"]
    columns = ["erased", "kept", "kept_subjects", "harmonic_mean"]
    lines(subsets, columns, [str(size) for size in range(1, 10)]).savefig(args.out / "subsets.png", dpi=80)
    capacity = json.loads((RESULTS / "capacity.json").read_text())["table"]
    counts = list(next(iter(capacity.values()))["listed"])
    lines(capacity, ["erased", "kept", "kept_studios", "harmonic_mean"], counts).savefig(
        args.out / "capacity.png", dpi=80
    )
    subsets_table(subsets)
    siblings_table(subsets)
    families_table(json.loads((RESULTS / "siblings.json").read_text())["table"])
    capacity_table(capacity)
    costs = json.loads((RESULTS / "erase_cost.json").read_text())["table"]
    cost(costs).savefig(args.out / "cost.png", dpi=80)
    cost_table(costs)
    compress_table(json.loads((RESULTS / "compress.json").read_text())["table"])
    solve_table(json.loads((RESULTS / "solve_settings.json").read_text())["table"])


if __name__ == "__main__":
    main()
