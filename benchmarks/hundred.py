"""A hundred typefaces erased at once, each by its own increment: what remains, and what is kept?

    python benchmarks/hundred.py --out benchmarks/results/hundred.json

All 120 typefaces of the base `type` are erased, each on its own, with two seeds, and any set of
them is composed: 1, 2, 5, 10, 20, 50, 75 and 100, ten sets by chance of each size and seed. Rows:
the joint solve; the same increments summed, and merged by TIES and by MACE's fusion; UCE, SPEED and
OCE solved anew for the set; ideas for large sets (``large_sets.py``). What remains of up to twelve
of the erased, what up to twelve of the others keep of the base's own share, and whether their glyph
is right, on sentences of the base's list and on ones that are in none; what a restored typeface
gives again; beside it the certificate. All rows of a set see the same pictures, and say how far
they are ahead of the joint solve on the same sets (H). And how many directions the names have in
the base's text, and how far concepts are from their own effect.

Increments and judged sets are kept in ``--work``, to go on from; to be shared between processes
with ``--shard``, with ``--report`` gathered. Prints a table on stderr and one JSON object on
stdout.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Results, harmonic_mean, mean_and_extremes, parser, quickened, rounded
from large_sets import IDEAS, Refined
from merging import Anew, Merged
from typefaces import FORMS, GLYPH, Observer, Picture, about, load_type, of_base, share

from multierase import Composer, EraseSettings, Workspace
from multierase.evaluation.erasers import Eraser

SIZES = (1, 2, 5, 10, 20, 50, 75, 100)
JOINT = "joint"
MERGED, ANEW = ("sum", "TIES", "MACE's fusion"), ("uce", "speed", "oce")
ROWS = (JOINT, *MERGED, *ANEW, *IDEAS)
LOOKED_AT = 12  # erased typefaces of a set, and others
PICTURES = 2  # of each, in either group of sentences
CERTIFIED = 2  # sets of each size and seed
CARRIED = (0.9, 0.99)  # shares of the names' variance


@dataclass(frozen=True)
class Case:
    """A set of erased typefaces: the number-th of its size."""

    seed: int
    size: int
    number: int

    def __str__(self):
        return f"{self.seed}/{self.size}/{self.number}"


class Hundred:
    """The benchmark: its typefaces, increments, sets and pictures."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.quick = arguments, arguments.quick
        self.work = arguments.work / "quick" if self.quick else arguments.work
        self.observer = Observer(load_type(arguments.threads))
        self.model = self.observer.model
        self.sizes = (1, 2) if self.quick else arguments.sizes
        self.seeds = arguments.seeds[: 1 if self.quick else None]
        self.erasable = sorted(self.observer.typefaces)[: max(self.sizes) if self.quick else None]
        self.results = Results(self.work / "judged.json", arguments.shard)
        self.pristine = self.weights()

    def cases(self) -> list[Case]:
        """Return the sets, the small ones first."""
        numbers = range(1 if self.quick else self.arguments.sets)
        every = itertools.product(self.sizes, self.seeds, numbers)

        return [Case(seed, size, number) for size, seed, number in every]

    def erased(self, case: Case) -> list[str]:
        """Return a set's typefaces."""
        chance = random.Random(f"{case.size}/{case.number}/{case.seed}")

        return sorted(chance.sample(self.erasable, case.size))

    def pictures(self, case: Case) -> tuple[list[str], list[str], dict[str, list[Picture]]]:
        """Return the erased typefaces that are looked at, the others, and their pictures."""
        erased, chance = self.erased(case), random.Random(f"looked at/{case}")
        others = [name for name in self.observer.typefaces if name not in erased]
        most = 2 if self.quick else LOOKED_AT
        gone = chance.sample(erased, min(most, len(erased)))
        kept = chance.sample(others, min(most, len(others)))

        each = 1 if self.quick else PICTURES
        return gone, kept, self.observer.pictures([*gone, *kept], each)

    def workspace(self, seed: int) -> Workspace:
        """Return the workspace of one seed's increments."""
        return Workspace(self.work / f"seed-{seed}", self.model, create=True)

    def train(self, seed: int) -> dict[str, Any]:
        """Erase every typeface, each as its own run gives it; return what one takes."""
        workspace, settings = self.workspace(seed), EraseSettings(seed=seed)
        missing = [name for name in self.erasable if name not in workspace.library]
        if missing:
            workspace.train(
                *missing,
                settings=quickened(settings) if self.quick else settings,
                beside=self.erasable,
                resume=True,
                progress=True,
            )

        made = [header.provenance for header in workspace.library.headers().values()]
        sizes = [workspace.library.path(one.concept).stat().st_size for one in made]
        return {
            "refused": [name for name in self.erasable if name not in workspace.library],
            "evaluations": mean_and_extremes([one.cost.evaluations for one in made]),
            "steps": mean_and_extremes([one.stop.steps for one in made]),
            "seconds": mean_and_extremes([one.cost.seconds for one in made], 2),
            "bytes": mean_and_extremes(sizes, 0),
        }

    def eraser(self, row: str, workspace: Workspace) -> Eraser:
        """Return what composes a row's sets."""
        if row == JOINT:
            return workspace.composer
        if row in IDEAS:
            return Refined(workspace, row, quick=self.quick)
        if row in ANEW:
            return Anew(self.model, row)

        increments = {name: workspace.library[name] for name in workspace.library}
        keep = workspace.keep_list
        assert keep is not None  # the base brings one
        return Merged(self.model, increments, row, keep=keep)

    def base(self) -> dict[str, list[bool]]:
        """Look at all typefaces, with nothing erased."""
        every = self.observer.pictures(self.observer.typefaces, 1 if self.quick else PICTURES)

        return self.observer.see([*itertools.chain(*every.values())])

    def capacity(self) -> dict[str, Any]:
        """Return how much room the base's text has, and how much of it sets take.

        By stream the directions that carry so much of the variance of all names' mean tokens; by
        size how far concepts of the first set are from their own effect, as a share of it, and how
        long it takes to compose by the clock, with nothing read before.
        """
        directions: dict[str, dict[str, int]] = {}
        for stream in self.model.streams:
            names = self.observer.typefaces
            means = [self.model.tokens([name], stream).double().mean(0) for name in names]
            rows = torch.stack(means)
            variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
            carried = variances.cumsum(0) / variances.sum()
            directions[stream] = {str(of): int((carried < of).sum()) + 1 for of in CARRIED}

        deviations, seconds = {}, {}
        for size in self.sizes:
            erased = self.erased(Case(self.seeds[0], size, 0))
            began = time.perf_counter()
            composer = self.workspace(self.seeds[0]).composer
            with composer.erasing(*erased):
                seconds[str(size)] = time.perf_counter() - began
                deviations[str(size)] = statistics.mean(composer.deviations().values())
            composer.close()

        return {
            "directions": directions,
            "deviations": rounded(deviations),
            "seconds": rounded(seconds),
            "threads": torch.get_num_threads(),
        }

    def measure(self, row: str, seed: int) -> None:
        """Judge what is missing of a row's sets, with the increments of one seed."""
        cases = [case for case in self.cases() if case.seed == seed]
        missing = [case for case in cases if f"{row}/{case}" not in self.results.done]
        workspace = self.workspace(seed)
        eraser = self.eraser(row, workspace) if missing else None
        for case in missing:
            key = f"{row}/{case}"
            self.results.get(key, lambda c=case: self.judge(row, c, eraser, workspace))
            print(key, file=sys.stderr, flush=True)

        if isinstance(eraser, Composer):
            eraser.close()  # another row's increments come next

    def judge(self, row: str, case: Case, eraser: Eraser, workspace: Workspace) -> dict[str, Any]:
        """Compose one set and look at it; of the joint solve, restore one typeface, and all."""
        erased = self.erased(case)
        _, _, pictures = self.pictures(case)
        asked = [*itertools.chain(*pictures.values())]
        began = time.process_time()
        with eraser.erasing(*erased):
            found: dict[str, Any] = {"composing": round(time.process_time() - began, 3)}
            found["seen"] = self.observer.see(asked)
            if isinstance(eraser, Composer) and len(erased) > 1:
                one = random.Random(f"restored/{case}").choice(erased)
                eraser.restore(one)
                again = self.observer.pictures([one], 1 if self.quick else PICTURES)
                found["restored"] = one
                found["seen_again"] = self.observer.see([*itertools.chain(*again.values())])

        now = self.weights()
        found["exact"] = all(torch.equal(now[name], own) for name, own in self.pristine.items())
        if row == JOINT and case.number < CERTIFIED:
            found["certificate"] = _numbers(workspace.certify(*erased))
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights as they are now."""
        return {name: own.detach().clone() for name, own in self.model.parameters().items()}

    def report(self) -> dict[str, Any]:
        """Return the table, of each row and size over all sets that have been judged."""
        done, base = self.results.done, self.results.done["base"]
        table: dict[str, dict[str, dict]] = {}
        for row, size in itertools.product(self.arguments.rows, self.sizes):
            cells = []
            for case in self.cases():
                found = done.get(f"{row}/{case}")
                if found is None or case.size != size:
                    continue
                cell = self.cell(case, found, base)
                jointly = done.get(f"{JOINT}/{case}")
                if row != JOINT and jointly is not None:
                    cell |= _ahead(cell, self.cell(case, jointly, base))
                cells.append(cell)
            if cells:
                table.setdefault(row, {})[str(size)] = _over(cells)
                print(f"{row:14s} {size:4d}", _shown(table[row][str(size)]), file=sys.stderr)

        return {
            "benchmark": "hundred",
            "base": _of_base_itself(base),
            "typefaces": len(self.observer.typefaces),
            "forms": FORMS,
            "sampling": asdict(self.observer.sampling),
            "settings": asdict(EraseSettings()),
            "capacity": done["capacity"],
            "trained": {str(seed): done[f"trained/{seed}"] for seed in self.seeds},
            "table": table,
        }

    def cell(self, case: Case, found: Mapping[str, Any], base: Mapping) -> dict[str, Any]:
        """Return what one set gives in one row."""
        gone, kept, pictures = self.pictures(case)
        seen, cell = found["seen"], {}
        for group, own in pictures.items():
            remaining = share(seen, about(own, gone))
            stays = of_base(seen, base, about(own, kept))
            cell |= {
                f"remaining_{group}": remaining,
                f"kept_{group}": stays,
                f"glyphs_{group}": of_base(seen, base, own, GLYPH),
                f"h_{group}": harmonic_mean(remaining, stays),
            }
        cell["composing"], cell["exact"] = found["composing"], float(found["exact"])
        if "restored" in found:
            again = self.observer.pictures([found["restored"]], 1 if self.quick else PICTURES)
            listed = [*itertools.chain(*again.values())]
            cell["restored"] = share(found["seen_again"], listed)
            cell["restored_base"] = share(base, listed)

        return cell | found.get("certificate", {})


def _ahead(cell: Mapping[str, float], of: Mapping[str, float]) -> dict[str, float]:
    """Return by group of sentences how much higher H is than another row's of the same set."""
    return {f"ahead_{group}": cell[f"h_{group}"] - of[f"h_{group}"] for group in FORMS}


def _of_base_itself(base: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Return the shares of typefaces and glyphs that are right with nothing erased."""
    typefaces, glyphs = zip(*base.values(), strict=True)

    return {"typeface": statistics.mean(typefaces), "glyph": statistics.mean(glyphs)}


def _numbers(certified: Mapping[str, Any]) -> dict[str, float]:
    """Return a set's certificate: the mean degree of the erased, and how far the rest moved."""
    concepts = certified["concepts"].values()
    found = {"degree": statistics.mean(one["degree"] for one in concepts if one["erased"])}
    others = [one["moved"] for one in concepts if not one["erased"]]
    if others:
        found["others_moved"] = statistics.mean(others)
    for side in ("kept", "general"):
        if side in certified:
            found[f"{side}_moved"] = certified[side]["moved"]

    return found


def _over(cells: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return means over sets, the H of the worst and of the best set, and how many there are."""
    found: dict[str, Any] = {"sets": len(cells)}
    for name in dict.fromkeys(itertools.chain(*cells)):
        values = [cell[name] for cell in cells if name in cell]
        found[name] = statistics.mean(values)
        if name.startswith("h_"):
            found[f"{name}_worst"], found[f"{name}_best"] = min(values), max(values)

    return rounded(found)


def _shown(cell: Mapping[str, float]) -> str:
    shown = ("remaining", "kept", "glyphs", "h")
    parts = []
    for name in shown:
        parts.append(f"{name} {cell[f'{name}_listed']:.3f} / {cell[f'{name}_unlisted']:.3f}")
    if "ahead_listed" in cell:
        parts.append(f"ahead {cell['ahead_listed']:+.3f} / {cell['ahead_unlisted']:+.3f}")
    if "restored" in cell:
        parts.append(f"restored {cell['restored']:.3f} of {cell['restored_base']:.3f}")

    return ", ".join([*parts, f"{cell['composing']:.2f} s", f"{cell['sets']} sets"])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the erasures")
    options.add_argument(
        "--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES), metavar="SIZE"
    )
    options.add_argument("--sets", type=int, default=10, help="of each size and seed")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    options.add_argument(
        "--work", type=Path, default=Path("build/hundred"), help="folder to go on from"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been judged; judge no more"
    )
    arguments = options.parse_args()
    benchmark = Hundred(arguments)
    results, shard = benchmark.results, arguments.shard

    if not arguments.report:
        results.get("base", benchmark.base)
        for seed in shard.of(benchmark.seeds):
            results.get(f"trained/{seed}", lambda s=seed: benchmark.train(s))
        if shard.index == 0:
            results.get("capacity", benchmark.capacity)
        for row, seed in shard.of(list(itertools.product(arguments.rows, benchmark.seeds))):
            benchmark.measure(row, seed)
    if shard.is_whole:
        Results(arguments.out).finish(benchmark.report())


if __name__ == "__main__":
    main()
