"""Do the default settings erase on bases that nobody tuned them to?

    python benchmarks/any_base.py --bases emoji FOLDER ... --out benchmarks/results/any_base.json

For each base, and for 1, 3, 6 and 8 erased studios: what remains of them, what the others and the
subjects keep, what a restored studio gives again, and what an erasure costs. By the defaults, by
the same with the ninth studio as a sibling, without their start, and with as many steps as unseen
sentences ask for, by the defaults before them, by the authors' own settings, and by UCE. The
judge looks at sentences that the base was taught. ``emoji`` is taken without its list of prompts,
as any other base, and once more with it. A studio that is refused counts as erased, and remains.
Certificates are compared with the judge: of erased studios the degree with what remains, of the
others how far they moved with what the judge lost of them.

A base is the folder of a diffusers pipeline with a ``names.json``, as ``scripts/build_base/zoo.py``
writes it, or with a judge of its own. Prints a table on stderr and one JSON object on stdout.
Increments and judged sets are kept in ``--work``, to go on from: another version, or another number
of studios, needs another folder. To be shared between processes with ``--shard``; a last call with
``--report`` gathers what they have measured, beside the bases that are in ``--out`` already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from bases.base import Base
from bases.tables import base_row, by_seed, certificates, show, table
from harness import Results, parser, quickened, rounded
from seeing import Picture, every

from multierase import EraseSettings, Model, SamplingSettings, Workspace
from multierase.composer import Solve
from multierase.emoji import fill
from multierase.generate import generate
from multierase.separation import fitting

ROUNDS = fitting.ROUNDS
NOISE = 1000  # so many seeds further for each noise

Erased = tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A way to erase.

    Args:
        solve: how increments are put together; by default as the workspace decides.
        own_list: with the prompts and kinds that the base's folder lists.
        siblings: the studios that are not erased at all are given as siblings.
        evenly: whether the joint solve weighs the erased concepts anew, so that none is given up.
        seeded: whether another seed gives another increment.
    """

    settings: EraseSettings
    method: str = "esd"
    solve: Solve | None = None
    own_list: bool = False
    siblings: bool = False
    evenly: bool = True
    seeded: bool = True

    @property
    def certified(self) -> bool:
        """Whether its certificates ask unseen sentences, as those of a kind do."""
        return self.settings.kind != "none"


BARE = EraseSettings(kind="none", known=False)
OLD = replace(
    BARE,
    scope="esd-x-strict",
    eta=3.0,
    steps=60,
    learning_rate=0.1,
    trajectories=16,
    prompts_per_point=1,
    start_at=1.0,
    stop_on="degree",
    stop_at=-1.0,
)
# The same without the closed form, and with the prompts of its trajectories alone: more steps, at a
# rate that suits such steps.
FROM_THE_BASE = EraseSettings(start_at=1.0, prompts_per_point=1, steps=70, learning_rate=0.2)
# As many steps as unseen sentences ask for, twice as many at the most.
UNTIL_UNSEEN = EraseSettings(stop_on="unseen", stop_at=0.0, steps=80)
# Steps and rate are those of subsets.py.
ESD = replace(
    BARE,
    scope="esd-x",
    schedule="frozen",
    eta=1.0,
    steps=240,
    free_learning_rate=3e-4,
    stop_at=None,
    decouple=False,
)
ARMS = {
    "new": Arm(EraseSettings()),
    "new, one weight": Arm(EraseSettings(), evenly=False),
    "new, own list": Arm(EraseSettings(), own_list=True),
    "new, siblings": Arm(EraseSettings(), siblings=True),
    "new, from the base": Arm(FROM_THE_BASE),
    "new, until unseen": Arm(UNTIL_UNSEEN),
    "old": Arm(OLD, solve="sum"),
    "esd": Arm(ESD, solve="sum"),
    "uce": Arm(BARE, method="uce", solve="sum", seeded=False),
}


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Args:
        forms: sentence forms, the base's first.
        stride: from one judged subject to the next.
        noises: pictures of each sentence, from different noise.
        sizes: of the sets.
        per_size: sets of each size by chance; of one studio, all.
    """

    forms: int = 2
    stride: int = 9
    noises: int = 2
    sizes: tuple[int, ...] = (1, 3, 6, 8)
    per_size: int = 2
    sampling: SamplingSettings = field(
        default_factory=lambda: SamplingSettings(inference_steps=12, guidance_scale=3.0)
    )


FULL = Extent()
QUICK = Extent(1, 40, 1, (1, 3), 1, SamplingSettings(inference_steps=2))


@dataclass(frozen=True)
class Cell:
    """One base, one arm, one seed of the training."""

    base: Base
    arm: str
    seed: int

    def results(self, work: Path) -> Results:
        """Return what its training took, and its judged sets."""
        return Results(self._path(work).with_suffix(".json"))

    def workspace(self, work: Path, model: Model) -> Workspace:
        """Return the workspace of its increments."""
        return Workspace(self._path(work), model, create=True, solve=ARMS[self.arm].solve)

    def _path(self, work: Path) -> Path:
        return work / self.base.name / f"{re.sub('[, ]+', '-', self.arm)}-{self.seed}"


class AnyBase:
    """The benchmark: its bases, sets and cells."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.quick = arguments, arguments.quick
        self.extent = QUICK if self.quick else FULL
        self.studios = min(3, arguments.studios) if self.quick else arguments.studios
        self.work = arguments.work / "quick" if self.quick else arguments.work
        self.bases = [Base.of(source) for source in arguments.bases]

    def cells(self) -> Iterator[Cell]:
        """Yield what is to be measured."""
        for base, name in itertools.product(self.bases, self.arguments.arms):
            arm, seeds = ARMS[name], self.arguments.seeds
            if arm.own_list and not base.listed:
                continue
            for seed in seeds if arm.seeded else seeds[:1]:
                yield Cell(base, name, seed)

    def erased_at_all(self, base: Base) -> list[str]:
        """Return the studios that are trained: at the same places of every base's list."""
        places = range(len(base.studios))
        chosen = random.Random(0).sample(places, min(self.studios, len(places)))
        studios = list(base.studios)

        return [studios[place] for place in sorted(chosen)]

    def sets(self, base: Base) -> list[Erased]:
        """Return the sets that are judged: the same places, too."""
        studios, chosen = self.erased_at_all(base), []
        for size in self.extent.sizes:
            sets = list(itertools.combinations(studios, size))
            if size > 1:
                sets = random.Random(size).sample(sets, min(self.extent.per_size, len(sets)))
            chosen += sets

        return chosen

    def measure_base(self, base: Base) -> None:
        """Judge a base as it stands."""
        results = self._results_of(base)
        model = base.load(own_list=True)
        results.get("base", lambda: self.look(base, model, list(base.studios)))
        results.get("unasked", lambda: self.unasked(base, model))

    def measure(self, cell: Cell) -> None:
        """Train what is missing of a cell, and judge its sets."""
        base, results = cell.base, cell.results(self.work)
        missing = [erased for erased in self.sets(base) if "+".join(erased) not in results.done]
        if not missing:
            return

        workspace = self.workspace_of(cell)
        results.get("trained", lambda: self.train(cell, workspace))
        for erased in missing:
            began, key = time.perf_counter(), "+".join(erased)
            results.get(key, lambda e=erased: self.judge(cell, workspace, e))
            about = f"{base.name}, {cell.arm}, seed {cell.seed}: {key}"
            print(f"{about}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def workspace_of(self, cell: Cell) -> Workspace:
        """Return the workspace of a cell, on its base; sets are solved as its arm says."""
        arm = ARMS[cell.arm]
        fitting.ROUNDS = ROUNDS if arm.evenly else 0

        return cell.workspace(self.work, cell.base.load(arm.own_list))

    def train(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """Erase each studio; return what it took, and which were refused."""
        arm, library, began = ARMS[cell.arm], workspace.library, time.perf_counter()
        settings = replace(arm.settings, seed=cell.seed)
        studios = self.erased_at_all(cell.base)
        if arm.siblings:
            others = tuple(studio for studio in cell.base.studios if studio not in studios)
            settings = replace(settings, siblings=others)
        missing = [studio for studio in studios if studio not in library]
        if missing:
            workspace.train(
                *missing,
                settings=quickened(settings) if self.quick else settings,
                method=arm.method,
                resume=True,
                progress=True,
            )

        made = [header.provenance for header in library.headers().values()]
        return {
            "refused": [studio for studio in studios if studio not in library],
            "evaluations": {one.concept: one.cost.evaluations for one in made},
            "steps": {one.concept: one.stop.steps for one in made if one.stop},
            "seconds": round(time.perf_counter() - began),
        }

    def judge(self, cell: Cell, workspace: Workspace, erased: Erased) -> dict[str, Any]:
        """Judge one set: erased, with one studio of it restored, and with all restored."""
        base, model, library = cell.base, workspace.model, workspace.library
        pristine = {name: weight.clone() for name, weight in model.parameters().items()}
        # A studio that was refused is left as it is, and counts as erased.
        there = [studio for studio in erased if studio in library]

        workspace.set(dict.fromkeys(there, 1.0))
        row = {"erased": erased, **self.look(base, model, list(base.studios))}
        if len(there) > 1:
            one = random.Random("+".join(erased)).choice(there)
            workspace.restore(one)
            row["restored"] = self.look(base, model, [one])["studios"]

        workspace.restore_all()
        now = model.parameters()
        row["exact"] = all(torch.equal(now[name], weight) for name, weight in pristine.items())

        return {**row, **self.certified(cell, workspace, erased)}

    def certified(self, cell: Cell, workspace: Workspace, erased: Erased) -> dict[str, Any]:
        """Return what the certificate says of one set, where there is one to ask."""
        if not len(workspace.library) or not ARMS[cell.arm].certified:
            return {}

        there = [studio for studio in erased if studio in workspace.library]
        return {"certificate": _numbers(workspace.certify(*there))}

    def certify(self, cell: Cell) -> None:
        """Ask the certificate of each judged set again, by the increments that were judged."""
        results, workspace = cell.results(self.work), None
        for erased in self.sets(cell.base):
            key = "+".join(erased)
            if key in results.done:
                workspace = workspace or self.workspace_of(cell)
                row = {**results.done[key], **self.certified(cell, workspace, erased)}
                results.put(key, row)
                about = f"{cell.base.name}, {cell.arm}, seed {cell.seed}: {key}"
                print(f"{about}, certified again", file=sys.stderr, flush=True)

    def look(self, base: Base, model: Model, studios: Sequence[str]) -> dict[str, dict]:
        """Make pictures of studios with the model as it is now, and return the judge's shares.

        A subject's seed is its place, whoever drew it, so that sets are compared by the same noise.
        """
        extent, subjects = self.extent, base.subjects[:: self.extent.stride]
        once = every(base.forms[: extent.forms], subjects, studios)
        pictures, seeds = once * extent.noises, []
        for number, picture in enumerate(pictures):
            seeds.append(NOISE * (number // len(once)) + subjects.index(picture.subject))

        prompts = [picture.prompt for picture in pictures]
        seen = base.judge(generate(model, prompts, seeds, extent.sampling)).seen
        drawn_by = [base.studios[picture.studio] for picture in pictures]
        return {
            "studios": _shares(pictures, seen["studio"], drawn_by),
            "subjects": _shares(pictures, seen["subject"], [one.subject for one in pictures]),
        }

    def unasked(self, base: Base, model: Model) -> dict[str, float]:
        """Return by studio the share of pictures without any studio in which the judge sees it."""
        extent, stride = self.extent, self.extent.stride if self.quick else 1
        prompts, seeds = [], []
        for place, noise in itertools.product(
            range(0, len(base.subjects), stride), range(extent.noises)
        ):
            prompts += fill((base.alone,), "", base.subjects[place])
            seeds.append(NOISE * noise + place)
        seen = base.judge(generate(model, prompts, seeds, extent.sampling)).seen["studio"]

        return {
            name: round(statistics.mean(one == studio for one in seen), 4)
            for name, studio in base.studios.items()
        }

    def gathered(self) -> dict[str, dict]:
        """Return by base what has been judged: these cells, and what was reported before."""
        judged: dict[str, dict] = {}
        if self.arguments.out.is_file() and not self.quick:
            judged = json.loads(self.arguments.out.read_text())["judged"]

        for base in self.bases:
            here = judged.setdefault(base.name, {"arms": {}})
            here.update(self._results_of(base).done, forms=base.forms[: self.extent.forms])
        for cell in self.cells():
            done = dict(cell.results(self.work).done)
            if "trained" in done:
                found = {"trained": done.pop("trained"), "sets": list(done.values())}
                judged[cell.base.name]["arms"].setdefault(cell.arm, {})[str(cell.seed)] = found

        return {name: here for name, here in judged.items() if "base" in here}

    def report(self) -> dict[str, Any]:
        """Return the whole benchmark's results."""
        judged = self.gathered()

        return {
            "benchmark": "any_base",
            "extent": asdict(self.extent),
            "arms": {name: asdict(arm) for name, arm in ARMS.items()},
            "bases": {name: base_row(here) for name, here in judged.items()},
            "table": {name: table(here, self.extent.sizes) for name, here in judged.items()},
            "by_seed": {name: by_seed(here, self.extent.sizes) for name, here in judged.items()},
            "certificate": certificates(judged),
            "judged": judged,
        }

    def _results_of(self, base: Base) -> Results:
        return Results(self.work / base.name / "base.json")


def _shares(
    pictures: Sequence[Picture], seen: Sequence[str], right: Sequence[str]
) -> dict[str, float]:
    """Return by studio the share of its pictures in which what is right is seen."""
    found: dict[str, list[bool]] = {}
    for picture, one, wanted in zip(pictures, seen, right, strict=True):
        found.setdefault(picture.studio, []).append(one == wanted)

    return {studio: round(statistics.mean(hits), 4) for studio, hits in found.items()}


def _numbers(certified: Mapping[str, Any]) -> dict[str, Any]:
    """Return a set's certificate without its sentences."""
    concepts = {}
    for concept, said in certified["concepts"].items():
        numbers = {key: said[key] for key in ("degree", "gone", "worst", "moved") if key in said}
        concepts[concept] = {"erased": said["erased"], **rounded(numbers)}
    sides = {side: certified[side]["moved"] for side in ("kept", "general") if side in certified}

    return {"concepts": concepts, **rounded(sides)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bases", nargs="+", default=["emoji"], help="emoji, or folders")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the trainings")
    options.add_argument("--studios", type=int, default=8, help="so many are erased at all")
    options.add_argument(
        "--work", type=Path, default=Path("build/any_base"), help="folder to go on from"
    )
    options.add_argument(
        "--certify", action="store_true", help="certify the sets that were judged again; no more"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been measured; measure no more"
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    benchmark, shard = AnyBase(arguments), arguments.shard

    if not arguments.report:
        for base in shard.of(benchmark.bases):
            benchmark.measure_base(base)
        for cell in shard.of(list(benchmark.cells())):
            benchmark.certify(cell) if arguments.certify else benchmark.measure(cell)
    if shard.is_whole:
        report = benchmark.report()
        show(report)
        Results(arguments.out).finish(report)


if __name__ == "__main__":
    main()
