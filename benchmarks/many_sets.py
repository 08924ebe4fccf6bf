"""Ten thousand sets of 72 subjects, without a picture: what is left, and who is in whose way?

    python benchmarks/many_sets.py --out benchmarks/results/many_sets.json

All subjects of `emoji` are erased apart with the default settings. Each alone, and random sets of
them, of any size, are swept by the certificate's predictions: one unseen sentence about each
subject, and what is to stay. A sentence counts as one that still draws its subject as in
`benchmarks/predictions.py`.

Reported by the number of erased subjects: what remains, what is kept, and the mean degrees of both.
By subject: in how many of the random sets it remains where it is erased, and is lost where it is
not. By pair: how much lower one's mean degree is in the sets in which the other is erased. The
seconds are of two processes, with nothing else running, over all calls: a killed sweep goes on.
Increments and database are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Results, parser, quickened, rounded

from multierase import EraseSettings
from multierase.emoji import SUBJECTS
from multierase.evaluation.concept_sets import Stage, concept_sets
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.predictions import KIND, SEEN, sweep_by_predictions
from multierase.evaluation.store import Store
from multierase.executors.processes import Processes
from multierase.files import write_json
from multierase.many import Site, Task, erase_many
from multierase.prompts.concepts import Concept

WORKERS = 2
SIZES = (1, 2, 25, 30, 35, 40, 45, 73)  # of sets that are reported together, from each to the next
SHOWN = 10  # subjects and pairs


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument(
        "--work", type=Path, default=Path("build/many-sets"), help="folder to go on from"
    )
    options.add_argument("--sets", type=int, default=10_000, help="random ones")
    options.add_argument("--seed", type=int, default=0, help="of the sets")
    options.add_argument("--sentences", type=int, default=1, help="about each subject")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.sets, arguments.work = 3, arguments.work / "quick"
    subjects = sorted(SUBJECTS)[: 3 if arguments.quick else None]

    library = erased_apart(subjects, arguments)
    alone = concept_sets("single", subjects)
    drawn = concept_sets("random", subjects, count=arguments.sets, seed=arguments.seed)
    stages = list(dict.fromkeys([*alone, *drawn]))
    store = swept(library, stages, arguments)
    erased, degrees = measured(store, stages, subjects)
    report = {
        "benchmark": "many_sets",
        "sets": arguments.sets,
        "seed": arguments.seed,
        "sentences": arguments.sentences,
        "evaluations": len(store.cases()),
        "time": spent(arguments.work),
        "by_size": by_size(erased, degrees),
        **by_subject(subjects, erased[len(alone) :], degrees[len(alone) :]),
        "pairs": pairs(subjects, erased[len(alone) :], degrees[len(alone) :]),
    }
    store.close()

    print(show(report), file=sys.stderr)
    Results(arguments.out).finish(report)


def erased_apart(subjects: Sequence[str], arguments: argparse.Namespace) -> Path:
    """Return the folder of all subjects' increments; those already there are not trained again."""
    folder = arguments.work / "lib"
    settings = EraseSettings(kind="object")
    settings = quickened(settings) if arguments.quick else settings
    tasks = [Task(Concept(subject), settings) for subject in subjects]
    for name, _ in erase_many(tasks, Site(str(folder)), Processes(WORKERS), resume=True):
        print(name, file=sys.stderr, flush=True)

    return folder


def swept(library: Path, stages: Sequence[Stage], arguments: argparse.Namespace) -> Store:
    """Sweep all sets that are not in the database yet, and note how long that took."""
    path = arguments.work / f"sets-{arguments.seed}-{arguments.sentences}.db"
    before, began = _done(path), time.perf_counter()
    try:
        store = sweep_by_predictions(
            Experiment("studios", library=str(library), device="cpu"),
            stages,
            path,
            sentences=arguments.sentences,
            executor=Processes(WORKERS),
            progress=True,
        )
    finally:
        count, seconds = _done(path) - before, round(time.perf_counter() - began, 1)
        if count:
            call = arguments.work / f"spent-{time.time_ns()}.json"
            write_json(call, {"sets": count, "seconds": seconds})

    return store


def _done(path: Path) -> int:
    if not path.exists():
        return 0
    with Store.reading(path) as store:
        return len(store.done())


def spent(work: Path) -> dict:
    """Return sets and seconds of all calls."""
    calls = [json.loads(path.read_text()) for path in sorted(work.glob("spent-*.json"))]
    seconds = round(sum(call["seconds"] for call in calls), 1)

    return {"workers": WORKERS, "sets": sum(call["sets"] for call in calls), "seconds": seconds}


def measured(
    store: Store, stages: Sequence[Stage], subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return by set and subject whether it is erased, and the mean degree of its sentences."""
    columns: dict[int, int] = {}
    for case in store.cases():
        if KIND in case.labels:
            columns[case.number] = subjects.index(case.labels[KIND])
    asked = np.bincount(list(columns.values()), minlength=len(subjects))
    erased = np.array([np.isin(subjects, names) for _, names in stages])
    degrees = np.zeros(erased.shape)
    for row, (_, names) in enumerate(stages):
        pictures = store.outcome(names).pictures
        for number, column in columns.items():
            degrees[row, column] += pictures[number].measures["degree"] / asked[column]

    return erased, degrees


def by_size(erased: np.ndarray, degrees: np.ndarray) -> list[dict]:
    """Return what sets of about one size do."""
    sizes, found = erased.sum(1), []
    for low, high in itertools.pairwise(SIZES):
        rows = (sizes >= low) & (sizes < high)
        gone, stay = degrees[rows][erased[rows]], degrees[rows][~erased[rows]]
        if rows.any():
            found.append(
                {"from": low, "to": high - 1, "sets": int(rows.sum())}
                | rounded(
                    {
                        "remaining": float(np.mean(gone > SEEN)),
                        "kept": float(np.mean(stay > SEEN)) if len(stay) else 1.0,
                        "degree_erased": float(gone.mean()),
                        "degree_kept": float(stay.mean()) if len(stay) else 1.0,
                    }
                )
            )

    return found


def by_subject(subjects: Sequence[str], erased: np.ndarray, degrees: np.ndarray) -> dict:
    """Return in what share of the sets each subject remains, and is lost, the most first."""
    remain, lost = {}, {}
    for column, subject in enumerate(subjects):
        gone, stay = degrees[erased[:, column], column], degrees[~erased[:, column], column]
        remain[subject] = float(np.mean(gone > SEEN)) if len(gone) else 0.0
        lost[subject] = float(np.mean(stay <= SEEN)) if len(stay) else 0.0

    return {"remain": _first(remain), "lost": _first(lost)}


def pairs(subjects: Sequence[str], erased: np.ndarray, degrees: np.ndarray) -> list[dict]:
    """Return the pairs in which one's erasure lowers the other's degree the most."""
    found = {}
    for kept, moved in enumerate(subjects):
        stays = ~erased[:, kept]
        for gone, other in enumerate(subjects):
            with_it, without = (stays & erased[:, gone]), (stays & ~erased[:, gone])
            if gone != kept and with_it.any() and without.any():
                lower = degrees[without, kept].mean() - degrees[with_it, kept].mean()
                found[other, moved] = float(lower)

    most = sorted(found.items(), key=lambda item: -item[1])[:SHOWN]
    return [
        {"erased": other, "kept": moved, "lower": round(lower, 4)} for (other, moved), lower in most
    ]


def _first(shares: dict[str, float]) -> dict[str, float]:
    return rounded(dict(sorted(shares.items(), key=lambda item: -item[1])))


def show(report: dict) -> str:
    """Return the tables, as the documentation has them."""
    lines = ["| erased | sets | remaining | kept | degree of the erased | of the kept |"]
    lines.append("|---|---|---|---|---|---|")
    for row in report["by_size"]:
        shares = f"{row['remaining']:.1%} | {row['kept']:.1%}"
        means = f"{row['degree_erased']:.2f} | {row['degree_kept']:.2f}"
        sizes = f"{row['from']} to {row['to']}" if row["from"] < row["to"] else row["from"]
        lines.append(f"| {sizes} | {row['sets']} | {shares} | {means} |")
    for what in ("remain", "lost"):
        most = list(report[what].items())[:SHOWN]
        lines += ["", f"{what}: " + ", ".join(f"{name} {share:.1%}" for name, share in most)]
    lines += ["", "lower by: " + "; ".join(_pair(pair) for pair in report["pairs"])]
    lines += ["", f"evaluations for a set: {report['evaluations']}; {report['time']}"]

    return "\n".join(lines)


def _pair(pair: dict) -> str:
    return f"{pair['erased']} erased, {pair['kept']} {pair['lower']:.2f}"


if __name__ == "__main__":
    main()
