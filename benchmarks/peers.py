"""Beside the newest peers: is any set of studios erased better by others, and at what cost?

    python benchmarks/peers.py --out benchmarks/results/peers.json

For 2, 6 and all 9 erased studios and several seeds: what remains of them, what the others, their
siblings and the subjects keep, and whether restoring gives the weights bit for bit. The same
increments are composed in every way of ``merging.py``: ours, and ESD-x-strict's with its authors'
settings, and as in ``subsets.py`` on the sentences that ours have; those of every other method of
the package summed, by the joint solve, and, where there is a closed form, by one edit that is
solved anew for the set. Also what a concept costs: evaluations of the U-Net, seconds of one thread
relative to our default's, bytes; and how many numbers are chosen anew for every set.

Every row is judged on the same pictures, with templates that erasures were trained on and that are
in no list. ``--sets`` more sets of each size, and more pictures of all nine, are added to what has
been judged; ``--all_sets`` judges all 511, for rows that are named. Increments and verdicts are
kept in ``--work``, to go on from: another version needs another folder. To be shared between
processes with ``--shard``; a last call with ``--report`` gathers them. Prints a table on stderr,
which says first where a peer is ahead, and one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from drawing import Erased, Extent, drawn, subsets
from harness import Results, begin, parser, quickened
from merging import WAYS, Anew, Merged
from peer_tables import Judged, ahead, costs_of, relative, show, table
from seeing import Observer, Picture, Seen
from studios import CANDIDATES, TAUGHT, TRAININGS, Training

from multierase import (
    Composer,
    Concept,
    EraseSettings,
    KeepList,
    Model,
    SamplingSettings,
    Workspace,
)
from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS
from multierase.evaluation.erasers import Eraser
from multierase.methods import METHODS

OURS, AUTHORS, SENTENCES = "esd, the defaults", "ESD-x-strict", "ESD-x-strict, sentences"
JOINT, ANEW = "joint", "solved anew"
SIZES = (2, 6, len(STUDIOS))
# Those on which the base itself is right about 95 % of studios and subjects, by subsets.py.
UNLISTED = tuple(CANDIDATES[place] for place in (0, 1, 2, 4, 5, 6, 7))
TEMPLATES = (*STUDIO_AND_SUBJECT, *UNLISTED)
# The authors' later code: the bare name, one latent a step, each from a trajectory of 50 points,
# and no end but the 200th step; its factor of 2 is the paper's η of 1. The rate is CUIG's.
AS_PUBLISHED = EraseSettings(
    kind="none",
    known=False,
    scope="esd-x-strict",
    schedule="frozen",
    eta=1.0,
    start_at=1.0,
    steps=200,
    batch_size=1,
    free_learning_rate=2e-4,
    stop_at=None,
    sampler_steps=50,
    decouple=False,
)


def makings() -> dict[str, Training]:
    """Return how increments are made: ours, ESD's, and every other method of the package."""
    others = {name: Training(EraseSettings(), method=name) for name in METHODS if name != "esd"}
    # In the null space of the other studios' names, with its own stop.
    others["sepme"] = TRAININGS["SepME"]

    return {
        OURS: Training(EraseSettings()),
        AUTHORS: Training(AS_PUBLISHED),
        SENTENCES: TRAININGS["ESD-x-strict"],
        **others,
    }


MAKINGS = makings()


@dataclass(frozen=True)
class Row:
    """Increments, and a way to put them together.

    Args:
        making: a name in ``MAKINGS``.
        way: a name in ``WAYS``, ``joint``, or ``solved anew`` without any increment.
    """

    making: str
    way: str

    def __str__(self):
        return f"{self.making}: {self.way}"

    @property
    def knobs(self) -> int:
        """How many numbers are chosen anew for each set."""
        return WAYS[self.way].knobs if self.way in WAYS else 0


def rows_of(making: str) -> list[Row]:
    """Return the ways in which these increments are composed."""
    if making in (OURS, AUTHORS, SENTENCES):
        return [Row(making, way) for way in (JOINT, *WAYS)]

    # As their authors do it, and as the package does.
    own = () if METHODS[making].trains else (ANEW,)
    own += ("MACE's fusion",) if making == "mace" else ()
    return [Row(making, way) for way in (*own, "sum", JOINT)]


ROWS = [row for making in MAKINGS for row in rows_of(making)]


@dataclass(frozen=True)
class Case:
    """A set to judge.

    Args:
        seed: of the erasures.
        round: another one takes another set, and other pictures.
    """

    seed: int
    round: int
    erased: Erased

    def __str__(self):
        return f"{self.seed}/{self.round}/{'+'.join(self.erased)}"

    def pictures(self, extent: Extent) -> list[Picture]:
        """Draw its pictures: the same for every row."""
        place = NUMBERS[self.erased] + 1000 * self.round + 100_000 * self.seed
        sides = drawn(self.erased, place, TEMPLATES, extent)

        return [*sides.erased, *sides.kept]


NUMBERS = subsets(0)
FULL = Extent(pictures=12)
QUICK = Extent(subjects=TAUGHT[:2], pictures=2, sizes=(2, len(STUDIOS)))


class Peers:
    """The benchmark: its cases, increments and verdicts."""

    def __init__(self, arguments: argparse.Namespace, model: Model):
        self.arguments, self.model, self.quick = arguments, model, arguments.quick
        self.extent = QUICK if self.quick else FULL
        self.sizes = QUICK.sizes if self.quick else SIZES
        self.seeds = arguments.seeds[:1] if self.quick else arguments.seeds
        self.work = arguments.work / "quick" if self.quick else arguments.work
        self.sampling = SamplingSettings(inference_steps=2 if self.quick else 10)
        self.results = Results(self.work / "judged.json", arguments.shard)
        self.observer = Observer(model, self.sampling)
        self.keep = KeepList.of(model, model.known_prompts, STUDIOS)
        self.pristine = self.weights()

    def cases(self, seed: int) -> Iterator[Case]:
        """Yield the sets that are judged with one seed's increments."""
        if self.arguments.all_sets:
            if seed == self.seeds[0]:
                yield from (Case(seed, 0, erased) for erased in NUMBERS)
            return

        for size in self.sizes:
            chosen = [erased for erased in NUMBERS if len(erased) == size]
            random.Random(f"{size}/{seed}").shuffle(chosen)
            for turn in range(1 if self.quick else self.arguments.sets):
                yield Case(seed, turn, chosen[turn % len(chosen)])

    def rows(self, making: str) -> list[Row]:
        """Return the rows of these increments that are asked for."""
        return [row for row in rows_of(making) if str(row) in self.arguments.rows]

    def workspace(self, making: str, seed: int) -> Workspace:
        """Return the workspace of one seed's increments."""
        folder = self.work / f"{making.replace(', ', '-').replace(' ', '-')}-{seed}"

        return Workspace(folder, self.model, create=True)

    def make(self, making: str, seed: int) -> dict[str, Any]:
        """Erase every studio, apart; return what that took of each."""
        training, workspace = MAKINGS[making], self.workspace(making, seed)
        began = time.process_time()
        # What is kept exactly differs from studio to studio, so those cannot share a run.
        for group in [(studio,) for studio in STUDIOS] if training.keep_others else [STUDIOS]:
            missing = [studio for studio in group if studio not in workspace.library]
            if missing:
                self._train(workspace, training, missing, seed)

        made = list(workspace.library.headers().values())
        evaluations = [one.provenance.cost.evaluations for one in made]
        return {
            "refused": [studio for studio in STUDIOS if studio not in workspace.library],
            "evaluations": sum(evaluations) / max(len(made), 1),
            "seconds": round((time.process_time() - began) / len(STUDIOS), 3),
            "bytes": round(sum(one.path.stat().st_size for one in made) / max(len(made), 1)),
        }

    def _train(
        self, workspace: Workspace, training: Training, studios: Sequence[str], seed: int
    ) -> None:
        settings = replace(training.of(studios[0]), seed=seed)
        concepts: list[Concept | str] = [*studios]
        # Where nothing else is to be known of the base's list, the sentences are given.
        if settings.kind != "none" and not settings.known:
            known = self.model.known_prompts
            concepts = [Concept(studio).with_sentences(known) for studio in studios]
        workspace.train(
            *concepts,
            settings=quickened(settings) if self.quick else settings,
            method=training.method,
            resume=True,
            progress=True,
        )

    def eraser(self, row: Row, workspace: Workspace) -> Eraser:
        """Return what composes a row's sets."""
        if row.way == JOINT:
            return workspace.composer
        if row.way == ANEW:
            return Anew(self.model, MAKINGS[row.making].method)

        increments = {name: workspace.library[name] for name in workspace.library}
        return Merged(self.model, increments, row.way, keep=self.keep)

    def measure(self, making: str, seed: int) -> None:
        """Make what is missing of one seed's increments, and judge their sets in every way."""
        rows = self.rows(making)
        if not rows:
            return

        self.results.get(f"made/{making}/{seed}", lambda: self.make(making, seed))
        workspace = self.workspace(making, seed)
        for row in rows:
            cases = [case for case in self.cases(seed) if f"{row}/{case}" not in self.results.done]
            eraser = self.eraser(row, workspace) if cases else None
            for case in cases:
                self.results.get(f"base/{case}", lambda case=case: self.see(case))
                self.results.get(
                    f"{row}/{case}",
                    lambda case=case, eraser=eraser: self.judge(case, eraser, workspace),
                )
            print(f"{row}, seed {seed}", file=sys.stderr, flush=True)

    def see(self, case: Case, *where: Any) -> Seen:
        """Look at a case's pictures; every seed and round has its own noise."""
        noise = 10_000 * case.seed + 100 * case.round
        pictures = case.pictures(self.extent)

        return self.observer.see(pictures, *where, subjects=TAUGHT, first_seed=noise)

    def judge(self, case: Case, eraser: Eraser, workspace: Workspace) -> dict[str, Any]:
        """Compose a set, restore it, and judge it."""
        # A studio that was refused is left as it is, and counts as erased.
        there = [studio for studio in case.erased if studio in workspace.library]
        restored = self.restored(eraser, there)  # first: later its solve is remembered

        return {"seen": self.see(case, eraser, there), **restored}

    def restored(self, eraser: Eraser, erased: Sequence[str]) -> dict[str, Any]:
        """Check that restored weights are the bits that were never erased.

        ``exact``: after one studio of the set is restored, the weights are those of the others
        erased alone; and after all, the base's. ``subtracted``: the share of the base's numbers
        that come back if what was added is subtracted, as it is where no copy of the base is kept.
        """
        if not erased:
            return {"exact": True}

        one, *rest = random.Random("+".join(erased)).sample(erased, len(erased))
        with eraser.erasing(*rest):
            never = self.weights()
        began = time.process_time()
        with eraser.erasing(*erased):
            seconds = time.process_time() - began
            if isinstance(eraser, Composer):
                eraser.restore(one)
                now = self.weights()
        if not isinstance(eraser, Composer):
            with eraser.erasing(*rest):
                now = self.weights()

        exact = _same(now, never) and _same(self.weights(), self.pristine)
        found: dict[str, Any] = {"exact": exact, "composing": round(seconds, 4)}
        if isinstance(eraser, Merged):
            found["subtracted"] = self._subtracted(eraser, erased)
        return found

    def _subtracted(self, eraser: Merged, erased: Sequence[str]) -> float:
        same = count = 0
        for name, delta in eraser.deltas(erased).items():
            base = self.pristine[name]
            added = delta.reshape(base.shape)
            same += ((base + added) - added == base).sum().item()
            count += base.numel()

        return round(same / count, 4)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights as they are now."""
        return {name: own.detach().clone() for name, own in self.model.parameters().items()}

    def report(self) -> dict[str, Any]:
        """Return the whole benchmark's results."""
        judged: Judged = {}
        bases: dict[str, Seen] = {}
        rows = [row for row in ROWS if str(row) in self.arguments.rows]
        for seed, row in itertools.product(self.seeds, rows):
            for case in self.cases(seed):
                found = self.results.done.get(f"{row}/{case}")
                if found is not None:
                    bases[str(case)] = self.results.done[f"base/{case}"]
                    judged.setdefault(str(row), {})[str(case)] = found

        cells = table(judged, bases)
        costs = {}
        for row in rows:
            made = [self.results.done.get(f"made/{row.making}/{seed}") for seed in self.seeds]
            known = [one for one in made if one is not None]
            if str(row) in cells and known:
                costs[str(row)] = {**costs_of(known), "knobs": row.knobs}
                if row.way == ANEW:
                    costs[str(row)]["bytes"] = 0  # solved from the names

        ours = str(Row(OURS, JOINT))
        return {
            "benchmark": "peers",
            "ours": ours,
            "ahead": ahead(judged, bases, ours),
            "cheaper": relative(costs, cells, ours),
            "table": cells,
            "costs": costs,
            "seeds": self.seeds,
            "templates": TEMPLATES,
            "subjects": self.extent.subjects,
            "sampling": asdict(self.sampling),
            "makings": {name: asdict(training) for name, training in MAKINGS.items()},
            "ways": {name: {"about": way.about, "paper": way.paper} for name, way in WAYS.items()},
        }


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the erasures")
    options.add_argument("--sets", type=int, default=2, help="of each size, for each seed")
    options.add_argument("--all_sets", action="store_true", help="all 511, with the first seed")
    names = [str(row) for row in ROWS]
    options.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW")
    options.add_argument(
        "--work", type=Path, default=Path("build/peers"), help="folder to go on from"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been measured; measure no more"
    )
    arguments = options.parse_args()
    benchmark, shard = Peers(arguments, begin(arguments)), arguments.shard

    if not arguments.report:
        work = list(itertools.product(benchmark.seeds, MAKINGS))
        for seed, making in shard.of(work):
            benchmark.measure(making, seed)
    if shard.is_whole:
        report = benchmark.report()
        show(report)
        Results(arguments.out).finish(report)


if __name__ == "__main__":
    main()
