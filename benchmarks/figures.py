"""The pictures of the documentation, from the committed results.

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


if __name__ == "__main__":
    main()
