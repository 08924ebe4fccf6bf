"""How well do predictions without a picture say what pictures would?

    python benchmarks/predictions.py --out benchmarks/results/predictions.json

Random sets of the nine studios are swept twice: by pictures of the suite ``studios``, which the
judge looks at, and by the certificate's predictions. Four ways to erase are taken, so that there is
something to tell apart: the defaults, composed jointly and summed, and increments that were trained
for few steps from nothing, likewise.

Reported by way, and for all ways together: Spearman's rank correlation over sets, of what remains
and of what is kept; the same over sets and studios; and the share of pictures in which a studio is
seen, by the mean erasure degree that is predicted for it, which says from which degree on a
sentence counts as one that still draws its concept. ``--quick`` takes three sets.

The cost is given in evaluations of the U-Net for a set. With ``--all_sets`` also in seconds, for
all 511 sets and the base by two processes: the defaults' increments, with nothing loaded before.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import Results, begin, parser, quickened
from scipy.stats import spearmanr

from multierase import EraseSettings, Model, Workspace
from multierase.emoji import STUDIOS
from multierase.evaluation.concept_sets import Stage, concept_sets
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.predictions import KIND, sweep_by_predictions
from multierase.evaluation.report.rows import Rows
from multierase.evaluation.suites import load_suite
from multierase.evaluation.sweep import sweep
from multierase.executors.processes import Processes

SUITE = "studios"
BINS = (-9.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 9.0)  # of the mean degree


@dataclass(frozen=True)
class Way:
    """A way to erase: how increments are trained, and put together."""

    training: str
    solve: str


TRAININGS: Mapping[str, EraseSettings] = {
    "defaults": EraseSettings(),
    # Ends with much left: there is something to be ranked.
    "few steps": EraseSettings(start_at=1.0, steps=8, stop_at=None),
}
WAYS: Mapping[str, Way] = {
    "defaults, joint": Way("defaults", "joint"),
    "defaults, sum": Way("defaults", "sum"),
    "few steps, joint": Way("few steps", "joint"),
    "few steps, sum": Way("few steps", "sum"),
}


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--work", type=Path, default=Path("build/predictions"))
    options.add_argument("--sets", type=int, default=40, help="random ones, for each way")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the trainings")
    options.add_argument("--sentences", type=int, default=6, help="about each studio")
    options.add_argument("--all_sets", action="store_true", help="also time all 511 sets")
    arguments = options.parse_args()
    model = begin(arguments, channels_last=False)
    if arguments.quick:
        arguments.sets, arguments.seeds = 3, arguments.seeds[:1]
        arguments.work = arguments.work / "quick"

    results = Results(arguments.work / f"compared-{arguments.sentences}.json")
    found = {}
    for seed in arguments.seeds:
        for name, way in WAYS.items():
            key = f"{name}/{seed}"
            found[key] = results.get(key, partial(compared, model, way, seed, arguments))
    report = {
        "benchmark": "predictions",
        "sets": arguments.sets,
        "seeds": arguments.seeds,
        "sentences": arguments.sentences,
        "evaluations": next(iter(found.values()))["evaluations"],
        "ways": {name: agreement(_of_way(found, name)) for name in WAYS},
        "together": agreement([pair for way in found.values() for pair in way["sets"]]),
        "by_degree": by_degree([row for way in found.values() for row in way["studios"]]),
    }
    if arguments.all_sets:
        report["all_sets"] = results.get("all", partial(timed_all, arguments))

    print(show(report), file=sys.stderr)
    Results(arguments.out).finish(report)


def compared(model: Model, way: Way, seed: int, arguments: argparse.Namespace) -> dict:
    """Sweep the same sets by pictures and by predictions."""
    library = trained(model, way.training, seed, arguments)
    experiment = Experiment(
        SUITE,
        library=str(library),
        solve=way.solve,
        device="cpu",
        inference_steps=2 if arguments.quick else None,
    )
    stages = concept_sets("random", STUDIOS, count=arguments.sets, seed=seed)
    place = arguments.work / f"{way.training}-{way.solve}-{seed}".replace(" ", "-")
    seen = _rows(sweep, experiment, stages, place.with_name(f"{place.name}-pictures.db"))
    predicted = partial(sweep_by_predictions, sentences=arguments.sentences)
    own = place.with_name(f"{place.name}-{arguments.sentences}.db")
    said = _rows(predicted, experiment, stages, own)

    sets, studios = [], []
    for _, erased in stages:
        drawn, counted = seen.row(erased), said.row(erased)
        sets.append(
            {
                "remaining": [drawn["remaining"]["value"], _left(said, erased)],
                "kept": [_known(drawn["kept_relative"]), _stays(said, erased)],
                "counted": [counted["remaining"]["value"], counted["kept_relative"]],
            }
        )
        shares, base = seen.by_concept(erased), seen.by_concept(())
        for studio in STUDIOS:
            if base[studio]["right"]:
                share = shares[studio]["value"] / base[studio]["value"]
                studios.append([studio in erased, share, _degree(said, erased, studio)])
    seen.store.close()
    said.store.close()

    # A picture takes two evaluations a step, for its guidance.
    suite = load_suite(SUITE)
    return {
        "sets": sets,
        "studios": studios,
        "evaluations": {
            "pictures": 2 * suite.sampling.inference_steps * len(suite.cases),
            "predictions": len(said.cases),
        },
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def trained(model: Model, training: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Return the folder of all studios' increments; those already there are not trained again."""
    folder = arguments.work / f"lib-{training}-{seed}".replace(" ", "-")
    workspace = Workspace(folder, model, create=True)
    missing = [studio for studio in STUDIOS if studio not in workspace.library]
    settings = replace(TRAININGS[training], seed=seed)
    if missing:
        settings = quickened(settings) if arguments.quick else settings
        workspace.train(*missing, settings=settings, resume=True, progress=True)

    return folder


def _rows(do, experiment: Experiment, stages: Sequence[Stage], path: Path) -> Rows:
    path.parent.mkdir(parents=True, exist_ok=True)

    return Rows(do(experiment, stages, path, executor=Processes(1), progress=True))


def _measured(said: Rows, erased: Sequence[str], studios: Sequence[str], what: str) -> list[float]:
    pictures = said.outcome(tuple(erased)).pictures
    own = [case.number for case in said.cases if case.labels.get(KIND) in studios]

    return [pictures[number].measures[what] for number in own]


def _degree(said: Rows, erased: Sequence[str], studio: str) -> float:
    return statistics.fmean(_measured(said, erased, [studio], "degree"))


def _left(said: Rows, erased: Sequence[str]) -> float:
    return statistics.fmean(_measured(said, erased, erased, "degree"))


def _stays(said: Rows, erased: Sequence[str]) -> float | None:
    kept = [studio for studio in STUDIOS if studio not in erased]

    return statistics.fmean(_measured(said, erased, kept, "degree")) if kept else None


def _of_way(found: Mapping[str, Mapping], name: str) -> list[Mapping]:
    return [one for key, way in found.items() if key.split("/")[0] == name for one in way["sets"]]


def agreement(sets: Sequence[Mapping]) -> dict:
    """Return the rank correlations over sets, and the means of both."""
    remaining = [one["remaining"] for one in sets]
    rest = [one for one in sets if None not in one["kept"]]
    kept = [one["kept"] for one in rest]

    return {
        "remaining": _ranked(remaining),
        "kept": _ranked(kept),
        "seen": {
            "remaining": statistics.fmean(pair[0] for pair in remaining),
            "kept": statistics.fmean(pair[0] for pair in kept) if kept else None,
        },
        "predicted": {
            "remaining": statistics.fmean(one["counted"][0] for one in sets),
            "kept": statistics.fmean(one["counted"][1] for one in rest) if rest else None,
        },
    }


def _ranked(pairs: Sequence[Sequence[float]]) -> float | None:
    first, second = zip(*pairs, strict=True) if pairs else ((), ())
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None  # nothing to rank

    return round(float(spearmanr(first, second)[0]), 3)


def by_degree(studios: Sequence[Sequence]) -> list[dict]:
    """Return how often a studio is seen, of the base's own share, by its predicted degree."""
    found = []
    for low, high in itertools.pairwise(BINS):
        shares = [seen for _, seen, degree in studios if low <= degree < high]
        if shares:
            found.append(
                {"from": low, "to": high, "count": len(shares), "seen": statistics.fmean(shares)}
            )

    return found


def timed_all(arguments: argparse.Namespace) -> dict:
    """Time all sets by two processes, from the start of the sweep to its end."""
    path = arguments.work / "all.db"
    path.unlink(missing_ok=True)
    library = arguments.work / f"lib-defaults-{arguments.seeds[0]}"
    experiment = Experiment(SUITE, library=str(library), device="cpu")
    stages = concept_sets("subsets", STUDIOS)
    began = time.perf_counter()
    sentences = arguments.sentences
    with sweep_by_predictions(
        experiment, stages, path, sentences=sentences, executor=Processes(2)
    ) as store:
        count = len(store.done())

    return {"sets": count, "workers": 2, "seconds": round(time.perf_counter() - began, 1)}


def show(report: Mapping) -> str:
    """Return the tables, as the documentation has them."""
    lines = ["| way | remaining: seen / predicted | rank | kept: seen / predicted | rank |"]
    lines.append("|---|---|---|---|---|")
    for name, row in (*report["ways"].items(), ("all together", report["together"])):
        cells = []
        for side in ("remaining", "kept"):
            rank = "–" if row[side] is None else f"{row[side]:.2f}"
            seen, said = (_percent(row[by][side]) for by in ("seen", "predicted"))
            cells += [f"{seen} / {said}", rank]
        lines.append(f"| {name} | {' | '.join(cells)} |")

    lines += ["", "| degree | studios | seen |", "|---|---|---|"]
    for row in report["by_degree"]:
        lines.append(f"| {row['from']:g} to {row['to']:g} | {row['count']} | {row['seen']:.1%} |")
    spent = report["evaluations"]
    lines += ["", f"evaluations for a set: {spent}"]
    if "all_sets" in report:
        lines.append(f"all sets: {report['all_sets']}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
