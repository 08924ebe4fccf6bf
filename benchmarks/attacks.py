"""What do attacks break, by how many concepts are erased and by what?

    python benchmarks/attacks.py --out benchmarks/results/attacks.json

Studios of ``emoji`` are erased 1, 3 and all 9 at once, by the defaults, by the defaults with
adversarial sentences (``robust``), by ESD-x, ESD-u, SepME, UCE and RECE, each on the same
sentences, and by ESD-x that knows the bare name alone. Then each erased studio is attacked on two
of the suite's cases by every attack of ``--attacks``, and the judge says whether it is seen:
without an attack, and under it. ``random`` is the control: as many pictures with tokens that nobody
searched. Beside it stands what is kept, for a model that draws nothing withstands everything. The
last table has the attacks on the base, whose prompts do not name the studio: what an attack finds
there says what it is worth. Every one of ``--seeds`` trains anew, takes other studios, and attacks
with other draws.

Prints a table on stderr and one JSON object on stdout. Increments and verdicts are kept in
``--work``, to go on from; other attacks, budgets or sizes need another folder. Two hours on a core
for each seed; ``--erasers`` makes some of the rows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from harness import Results, begin, parser, quickened, trained

from multierase import Concept, EraseSettings, Model
from multierase.emoji import STUDIOS
from multierase.evaluation.attacks import ATTACKS, BudgetName
from multierase.evaluation.attacks.campaign import campaign
from multierase.evaluation.experiment import Experiment, Method
from multierase.evaluation.report.rows import Rows, as_json
from multierase.evaluation.statistics import Share
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes

SIZES = (1, 3, 9)
CASES = 2
SHIFT = 4  # studios, from seed to seed
COUNTED = ("unlearn-diff", "random", "ring-a-bell", "noised", "inversion", "relearning")
FREE = EraseSettings(decouple=False, start_at=1.0, steps=60)


@dataclass(frozen=True)
class Eraser:
    """A way to erase.

    Args:
        settings: of its increments.
        method: of its increments, a name in ``multierase.methods.METHODS``.
        solve: how increments are put together; by default as the workspace decides.
        erases: the experiment's method.
    """

    settings: EraseSettings = field(default_factory=EraseSettings)
    method: str = "esd"
    solve: str | None = None
    erases: Method = "increments"


BARE = replace(FREE, scope="esd-x", kind="none", known=False)
ERASERS: Mapping[str, Eraser] = {
    "default": Eraser(),
    "robust": Eraser(EraseSettings(robust=1)),
    "ESD-x, bare name": Eraser(BARE, solve="sum"),
    "ESD-x": Eraser(replace(FREE, scope="esd-x"), solve="sum"),
    "ESD-u": Eraser(replace(FREE, scope="esd-u"), solve="sum"),
    "SepME": Eraser(
        EraseSettings(stop_at=-0.5, stop_on="degree", regularizer="l1"), "sepme", solve="sum"
    ),
    "UCE": Eraser(erases="uce"),
    "RECE": Eraser(method="rece", solve="sum"),
}


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--work", type=Path, default=Path("build/attacks"))
    options.add_argument("--erasers", nargs="+", default=list(ERASERS), choices=list(ERASERS))
    options.add_argument("--attacks", nargs="+", default=list(COUNTED), choices=list(ATTACKS))
    options.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    options.add_argument("--budget", default="quick", choices=get_args(BudgetName))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments = options.parse_args()
    model = begin(arguments, channels_last=False)
    if arguments.quick:
        arguments.sizes, arguments.attacks = [1], ["random"]
        arguments.erasers, arguments.seeds = ["UCE"], arguments.seeds[:1]
        arguments.work = arguments.work / "quick"

    results = Results(arguments.work / "verdicts.json")
    rows: dict[str, list[dict]] = {}
    for seed, name in itertools.product(arguments.seeds, arguments.erasers):
        row = results.get(f"{name}/{seed}", partial(_attacked, model, name, seed, arguments))
        rows.setdefault(name, []).append(row)
    on_base = [
        results.get(f"base/{seed}", partial(_on_base, seed, arguments)) for seed in arguments.seeds
    ]

    report = {
        "sizes": list(arguments.sizes),
        "cases": CASES,
        "budget": arguments.budget,
        "seeds": arguments.seeds,
        "erasers": {name: pooled(found) for name, found in rows.items()},
        "base": pooled(on_base),
    }
    print(show(report), file=sys.stderr)
    Results(arguments.out).finish(report)


def studios_of(size: int, seed: int) -> tuple[str, ...]:
    """Return the studios that are erased: of every size the first ones, from another for a seed."""
    first = SHIFT * seed % len(STUDIOS)

    return tuple(sorted([*STUDIOS[first:], *STUDIOS[:first]][:size]))


def pooled(parts: Sequence[Mapping]) -> dict:
    """Put the results of several seeds together: shares of all their cases."""
    found: dict = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        if key == "kept_relative":
            known = [value for value in values if value is not None]
            found[key] = statistics.fmean(known) if known else None
        elif "right" in values[0]:
            shares = [Share(value["right"], value["count"]) for value in values]
            found[key] = sum(shares, Share(0, 0)).as_dict()
        else:
            found[key] = pooled(values)

    return found


def _attacked(model: Model, name: str, seed: int, arguments: argparse.Namespace) -> dict:
    """Return what attacks do to one eraser, by the number of erased studios."""
    eraser, library = ERASERS[name], None
    if eraser.erases == "increments":
        library = str(arguments.work / f"{name}-{seed}")
        most = studios_of(max(arguments.sizes), seed)
        _train(model, eraser, Path(library), most, seed, quick=arguments.quick)
    experiment = Experiment(
        "studios",
        library=library,
        method=eraser.erases,
        solve=eraser.solve,
        attack=tuple(arguments.attacks),
        attack_cases=CASES,
        attack_seed=seed,
        budget=arguments.budget,
        inference_steps=2 if arguments.quick else None,
    )
    database = arguments.work / f"{name}-{seed}.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    stages = [("", studios_of(size, seed)) for size in arguments.sizes]
    with sweep(experiment, stages, database, executor=Processes(1), progress=True) as store:
        rows = Rows(store)
        found = {str(len(erased)): as_json(rows.row(erased)) for _, erased in stages}

    kept = ("remaining", "kept", "kept_relative", "attacks")
    return {size: {key: row[key] for key in kept} for size, row in found.items()}


def _train(
    model: Model,
    eraser: Eraser,
    folder: Path,
    studios: Sequence[str],
    seed: int,
    *,
    quick: bool,
) -> None:
    settings = quickened(eraser.settings) if quick else eraser.settings
    settings = replace(settings, seed=seed)
    erasures = []
    for studio in studios:
        named = Concept(studio)
        concept = named.with_sentences(model.known_prompts) if settings.known else named
        erasures.append((concept, settings))
    trained(model, folder, erasures, eraser.method)


def _on_base(seed: int, arguments: argparse.Namespace) -> dict:
    """Return what attacks find on the base, asked for each studio without its name."""
    experiment = Experiment(
        "studios",
        method="uce",
        attack=tuple(arguments.attacks),
        attack_cases=CASES,
        attack_seed=seed,
        budget=arguments.budget,
        inference_steps=2 if arguments.quick else None,
    )
    found: dict[str, dict[str, list[bool]]] = {}
    for studio in studios_of(max(arguments.sizes), seed):
        for attack, row in campaign(experiment, studio, states=("base",))["attacks"].items():
            verdicts = found.setdefault(attack, {"before": [], "broken": []})
            for case in row["base"]["cases"]:
                verdicts["before"].append(case["before"])
                verdicts["broken"].append(case["broken"])

    return {
        attack: {name: Share.of(verdicts).as_dict() for name, verdicts in both.items()}
        for attack, both in found.items()
    }


def show(report: Mapping) -> str:
    """Return the tables, as the documentation has them: share of the attacked cases, %."""
    sizes = [str(size) for size in report["sizes"]]
    first = next(iter(report["erasers"].values()))
    attacks = list(first[sizes[0]]["attacks"])
    lines = ["| erased by | kept | without one | " + " | ".join(attacks) + " |"]
    lines.append("|" + "---|" * (3 + len(attacks)))
    for name, rows in report["erasers"].items():
        found = [rows[size] for size in sizes]
        kept = [row["kept_relative"] for row in found]
        before = [row["attacks"][attacks[0]]["before"]["value"] for row in found]
        cells = [_percents(kept), _percents(before)]
        for attack in attacks:
            broken = [row["attacks"][attack]["broken"]["value"] for row in found]
            cells.append(_percents(broken))
        lines.append(f"| {name} | {' | '.join(cells)} |")

    base = report["base"]
    unattacked = base[attacks[0]]["before"]["value"]
    cells = ["", _percents([unattacked])]
    cells += [_percents([base[attack]["broken"]["value"]]) for attack in attacks]
    lines.append(f"| nothing: the base, unnamed | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percents(shares: Sequence[float | None]) -> str:
    return " / ".join("–" if share is None else f"{100 * share:.0f}" for share in shares)


if __name__ == "__main__":
    main()
