"""What do attacks break, by how many concepts are erased and by what?

    python benchmarks/attacks.py --out benchmarks/results/attacks.json

Studios of ``emoji`` are erased 1, 3 and all 9 at once, by the defaults, by the defaults with
adversarial sentences (``robust``), and by ESD-x, ESD-u, SepME and UCE, each on the same sentences.
Then each erased studio is attacked on two of the suite's cases by every attack of ``--attacks``,
and the judge says whether it is seen: without an attack, and under it. ``random`` is the control:
as many pictures with tokens that nobody searched. Beside it stands what is kept, for a model that
draws nothing withstands everything. The last table has the attacks on the base, whose prompts do
not name the studio: what an attack finds there says what it is worth.

Prints tables on stderr and one JSON object on stdout. Increments and verdicts are kept in
``--work``, to go on from; other attacks or sizes need another folder. An hour and a half on a core;
``--erasers`` makes some of the rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness import Results, begin, parser, quickened, trained

from multierase import Concept, EraseSettings, Model
from multierase.emoji import STUDIOS
from multierase.evaluation.attacks import ATTACKS
from multierase.evaluation.attacks.campaign import campaign
from multierase.evaluation.executors.processes import Processes
from multierase.evaluation.experiment import Experiment, Method
from multierase.evaluation.report.rows import Rows, as_json
from multierase.evaluation.statistics import Share
from multierase.evaluation.sweep import sweep

SIZES = (1, 3, 9)
CASES = 2
COUNTED = ("unlearn-diff", "random", "ring-a-bell", "noised", "inversion", "relearning")
FREE = EraseSettings(decouple=False, start_at=None, steps=60)


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


ERASERS: Mapping[str, Eraser] = {
    "default": Eraser(),
    "robust": Eraser(EraseSettings(robust=1)),
    "ESD-x": Eraser(replace(FREE, scope="esd-x"), solve="sum"),
    "ESD-u": Eraser(replace(FREE, scope="esd-u"), solve="sum"),
    "SepME": Eraser(
        EraseSettings(stop_at=-0.5, stop_on="degree", regularizer="l1"), "sepme", solve="sum"
    ),
    "UCE": Eraser(erases="uce"),
}


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--work", type=Path, default=Path("build/attacks"))
    options.add_argument("--erasers", nargs="+", default=list(ERASERS), choices=list(ERASERS))
    options.add_argument("--attacks", nargs="+", default=list(COUNTED), choices=list(ATTACKS))
    options.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    arguments = options.parse_args()
    model = begin(arguments, channels_last=False)
    if arguments.quick:
        arguments.sizes, arguments.attacks = [1], ["random"]
        arguments.erasers, arguments.work = ["UCE"], arguments.work / "quick"

    results = Results(arguments.out)
    for name in arguments.erasers:
        results.get(name, partial(_attacked, model, name, arguments))
    on_base = results.get("base", partial(_on_base, arguments))

    report = {
        "sizes": list(arguments.sizes),
        "cases": CASES,
        "erasers": {name: results.done[name] for name in ERASERS if name in results.done},
        "base": on_base,
    }
    print(show(report), file=sys.stderr)
    results.finish(report, keep=True)


def studios_of(size: int) -> tuple[str, ...]:
    """Return the studios that are erased: of every size the first ones."""
    return tuple(sorted(STUDIOS[:size]))


def _attacked(model: Model, name: str, arguments: argparse.Namespace) -> dict:
    """Return what attacks do to one eraser, by the number of erased studios."""
    eraser, library = ERASERS[name], None
    if eraser.erases == "increments":
        library = str(arguments.work / name)
        _train(model, eraser, Path(library), max(arguments.sizes), arguments.quick)
    experiment = Experiment(
        "studios",
        library=library,
        method=eraser.erases,
        solve=eraser.solve,
        attack=tuple(arguments.attacks),
        attack_cases=CASES,
        inference_steps=2 if arguments.quick else None,
    )
    database = arguments.work / f"{name}.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    stages = [("", studios_of(size)) for size in arguments.sizes]
    with sweep(experiment, stages, database, executor=Processes(1), progress=True) as store:
        rows = Rows(store)
        found = {str(size): as_json(rows.row(studios_of(size))) for size in arguments.sizes}

    kept = ("remaining", "kept", "kept_relative", "attacks")
    return {size: {key: row[key] for key in kept} for size, row in found.items()}


def _train(model: Model, eraser: Eraser, folder: Path, count: int, quick: bool) -> None:
    settings = quickened(eraser.settings) if quick else eraser.settings
    erasures = []
    for studio in STUDIOS[:count]:
        concept = Concept(studio).with_sentences(model.known_prompts)
        erasures.append((concept, settings))
    trained(model, folder, erasures, eraser.method)


def _on_base(arguments: argparse.Namespace) -> dict:
    """Return what attacks find on the base, asked for each studio without its name."""
    experiment = Experiment(
        "studios",
        method="uce",
        attack=tuple(arguments.attacks),
        attack_cases=CASES,
        inference_steps=2 if arguments.quick else None,
    )
    found: dict[str, dict[str, list[bool]]] = {}
    for studio in STUDIOS[: max(arguments.sizes)]:
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
