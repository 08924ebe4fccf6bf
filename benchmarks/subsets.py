"""Any set of studios erased: what remains of them, and what is kept, over all 511 subsets?

    python benchmarks/subsets.py --out benchmarks/results/subsets.json

Nine studios, nine increments trained apart, put together in several ways; and UCE's closed form,
solved anew for every subset, as the outside reference. For every subset the judge looks at pictures
of erased and of kept studios, with (a) the templates that the erasures were trained on and (b)
templates that are in no list, of training or of keeping, of the base or of erasures: those of
``CANDIDATES`` on which the base itself is right about 95 % of studios and of subjects (measured
first, and in the results). A subset's prompts are drawn by its number, the same for every method,
and compared with the base's own pictures of these very prompts and seeds.

``--per_size`` takes some subsets of each size by chance. Prints a table on stderr and one JSON
object on stdout; resumable, and to be shared between processes with ``--shard``. Increments are
kept in ``--work``; ``--train`` makes them and nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from drawing import FULL, QUICK, Drawn, Erased, Extent, drawn, subsets
from harness import Results, begin, parser, rounded
from projecting import Projecting
from seeing import STUDIO, Observer, Seen, every, kept_share, share
from studios import TRAININGS, library_of, with_keep_list
from subset_tables import siblings, summarise

from multierase import Composer, Model, SamplingSettings
from multierase.emoji import STUDIOS
from multierase.evaluation.erasers import UCE, Eraser

UNDERSTOOD = 0.95  # of studios, and of subjects, by the base
# By method: which increments, and how they are put together.
METHODS = {
    "decoupled, sum": ("decoupled", "sum"),
    "decoupled, joint": ("decoupled", "joint"),
    "decoupled, keep loss, joint": ("decoupled, keep loss", "joint"),
    "decoupled, half the rate, joint": ("decoupled, half the rate", "joint"),
    "decoupled, frozen, sum": ("decoupled, frozen", "sum"),
    "decoupled, frozen, joint": ("decoupled, frozen", "joint"),
    "decoupled, project": ("decoupled", "project"),
    "ESD-x, sum": ("ESD-x", "sum"),
    "ESD-x-strict, sum": ("ESD-x-strict", "sum"),
    "ESD-x-strict, joint": ("ESD-x-strict", "joint"),
    "SepME, sum": ("SepME", "sum"),
    "ESD in SepME's null space, sum": ("ESD in SepME's null space", "sum"),
    "correlation, decoupled, sum": ("correlation, decoupled", "sum"),
    "UCE": (None, None),
}


def eraser_of(model: Model, method: str, work: Path, *, quick: bool) -> Eraser:
    """Return what erases by a method."""
    training, solve = METHODS[method]
    if training is None:
        return UCE(model, [STUDIOS])

    library, keep = with_keep_list(model, training, work, quick=quick)
    if solve == "project":
        return Projecting(model, library, keep=keep)

    return Composer(model, library, solve=solve, keep=keep)


class Subsets:
    """The benchmark's subsets, templates and results."""

    def __init__(self, arguments: argparse.Namespace, model: Model):
        self.arguments, self.model = arguments, model
        self.extent: Extent = QUICK if arguments.quick else FULL
        self.sampling = SamplingSettings(inference_steps=arguments.inference_steps)
        self.results = Results(arguments.out, arguments.shard)
        self.observer = Observer(model, self.sampling)
        self.chosen = subsets(arguments.per_size, self.extent)

        extent = self.extent
        asked = every(extent.candidates + extent.listed, extent.subjects)
        self.reference = self.results.get("base", lambda: self.see(asked))
        self.shares = {}
        for template in extent.candidates:
            self.shares[template] = share(self.reference, every([template], extent.subjects))
        understood = [t for t in extent.candidates if min(self.shares[t]) >= UNDERSTOOD]
        self.groups = {"listed": extent.listed, "unlisted": understood}

    def see(self, pictures: Sequence, *where, first_seed: int = 0) -> Seen:
        """Ask the judge; a subject's seed is its place among the benchmark's."""
        return self.observer.see(
            pictures, *where, subjects=self.extent.subjects, first_seed=first_seed
        )

    def drawn(self, erased: Erased, templates: Sequence[str], pictures: int | None = None) -> Drawn:
        """Draw a subset's pictures."""
        return drawn(erased, self.chosen[erased], templates, self.extent, pictures)

    def measure(self, method: str) -> None:
        """Judge this process's subsets by one method."""
        arguments = self.arguments
        eraser = eraser_of(self.model, method, arguments.work, quick=arguments.quick)
        for erased in arguments.shard.of(list(self.chosen)):
            wanted = []
            for templates in self.groups.values():
                sides = self.drawn(erased, templates)
                wanted += [*sides.erased, *sides.kept]

            key = f"{method}/{'+'.join(erased)}"
            self.results.get(key, lambda w=wanted, e=erased: self.see(w, eraser, e))
        print(method, file=sys.stderr, flush=True)

    def table_of(self, method: str) -> dict[str, dict]:
        """Return by group of templates what a method reaches on the subsets that are measured."""
        rows = {}
        for erased in self.chosen:
            seen = self.results.done.get(f"{method}/{'+'.join(erased)}")
            if seen is not None:
                rows[erased] = seen
        if not rows:
            return {}

        table = {}
        for group, templates in self.groups.items():
            sides = {erased: self.drawn(erased, templates) for erased in rows}
            table[group] = summarise(rows, sides, self.reference)
            table[group]["siblings"] = siblings(rows, sides, self.reference)
        if method in self.arguments.again:
            for group, found in self.judge_again(method, rows).items():
                table[group]["again"] = found
        return table

    def judge_again(self, method: str, rows: Mapping[Erased, Seen]) -> dict[str, dict[str, dict]]:
        """Look again at the subsets that missed the targets for single ones.

        The targets are 10 % remaining and 90 % kept. More pictures of other noise tell which of
        them are so, and which had ten unlucky pictures.
        """
        arguments = self.arguments
        eraser = eraser_of(self.model, method, arguments.work, quick=arguments.quick)
        found: dict[str, dict[str, dict]] = {group: {} for group in self.groups}
        for (group, templates), erased in itertools.product(self.groups.items(), rows):
            sides = self.drawn(erased, templates)
            remaining = share(rows[erased], sides.erased)[STUDIO]
            kept = kept_share(rows[erased], self.reference, sides.kept) if sides.kept else 1
            if remaining <= 0.1 and kept >= 0.9:
                continue

            cell = self._again(method, eraser, group, erased)
            found[group]["+".join(erased)] = rounded({"erased": remaining, "kept": kept, **cell})
        return found

    def _again(self, method: str, eraser: Eraser, group: str, erased: Erased) -> dict[str, float]:
        more = self.drawn(erased, self.groups[group], self.extent.more_pictures)
        wanted, name = [*more.erased, *more.kept], "+".join(erased)
        seed = 1000 + 100 * self.chosen[erased]

        before = self.results.get(
            f"again/base/{group}/{name}", lambda: self.see(wanted, first_seed=seed)
        )
        now = self.results.get(
            f"again/{method}/{group}/{name}",
            lambda: self.see(wanted, eraser, erased, first_seed=seed),
        )
        cell = {"erased_again": share(now, more.erased)[STUDIO]}
        if more.kept:
            cell["kept_again"] = kept_share(now, before, more.kept)
        return cell

    def report(self) -> dict:
        """Return the whole benchmark's results."""
        table = {}
        for method in self.arguments.methods:
            found = self.table_of(method)
            if found:
                table[method] = found
        for method, group in itertools.product(table, self.groups):
            for size, cell in table[method][group].items():
                print(f"{method:32s} {group:9s} {size!s:8s}", cell, file=sys.stderr)

        return {
            "benchmark": "subsets",
            "per_size": self.arguments.per_size,
            "sampling": asdict(self.sampling),
            "subjects": self.extent.subjects,
            "base_on_candidates": {
                template: [round(value, 3) for value in shares]
                for template, shares in self.shares.items()
            },
            "templates": self.groups,
            "trainings": {name: asdict(training) for name, training in TRAININGS.items()},
            "table": table,
        }


def train(arguments: argparse.Namespace, model: Model) -> None:
    """Make this process's increments."""
    trainings = dict.fromkeys(METHODS[method][0] for method in arguments.methods)
    for training in trainings:
        if training is not None:
            studios = arguments.shard.of(STUDIOS)
            library_of(model, training, arguments.work, studios, quick=arguments.quick)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--work", type=Path, default=Path("build/subsets"), help="folder of the increments"
    )
    options.add_argument(
        "--per_size", type=int, default=0, help="subsets of each size; 0 for all of them"
    )
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--inference_steps", type=int, default=10)
    options.add_argument("--train", action="store_true", help="make the increments, then end")
    options.add_argument(
        "--again", nargs="*", choices=METHODS, default=[], help="look at the worst subsets again"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been measured; measure no more"
    )
    arguments = options.parse_args()
    model = begin(arguments)
    if arguments.train:
        train(arguments, model)
        return

    benchmark = Subsets(arguments, model)
    for method in [] if arguments.report else arguments.methods:
        benchmark.measure(method)
    if arguments.shard.is_whole:
        benchmark.results.finish(benchmark.report(), keep=arguments.report)


if __name__ == "__main__":
    main()
