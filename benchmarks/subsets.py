"""Any set of studios off: how much of the erased is left, how much of the rest is kept, as the set grows?

    python benchmarks/subsets.py --work build/subsets --out benchmarks/results/subsets.json

Nine studios, nine increments trained apart, put together in several ways. For subsets of each size the judge looks at
every studio's pictures, with (a) a template that the erasures were trained on and (b) templates that are in no list.
``--per_size 0`` takes all 512 subsets. Prints a table on stderr and one JSON object on stdout; resumable, and to be
shared between processes with ``--shard``. Increments are kept in ``--work``; ``--train`` makes them and nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from harness import Results, environment

from multierase.base import load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.decoupling import KeepList
from multierase.evaluation.accuracy import studio_accuracy
from multierase.evaluation.judges import EmojiJudge
from multierase.library import Library
from multierase.training import EraseSettings, erase

TEMPLATES = {
    "listed": ("{a_subject} by {studio}",),
    "unlisted": ("drawing of {a_subject}, {studio}", "{studio} icon of {a_subject}"),
}
TRAININGS = {
    "decoupled": {},
    "plain ESD-x-strict": {"decouple": False, "known": False, "free_learning_rate": 1e-3},
    "correlation": {"objective": "correlation"},
}
# Name: which increments, and how they are put together.
METHODS = {
    "decoupled, sum": ("decoupled", {"solve": "sum"}),
    "decoupled, joint": ("decoupled", {"solve": "joint"}),
    "plain ESD-x-strict, sum": ("plain ESD-x-strict", {"solve": "sum"}),
    "plain ESD-x-strict, joint": ("plain ESD-x-strict", {"solve": "joint"}),
    "correlation, sum": ("correlation", {"solve": "sum"}),
}
SUBJECTS = EMOJI_SUBJECTS[5::18]


def library_of(base, training: str, work: Path, studios: Sequence[str] = EMOJI_STUDIOS) -> Library:
    """The increments; those already there are not trained again."""
    library = Library(work / training.replace(" ", "-"), create=True)
    for studio in studios:
        if studio not in library:
            library.save(erase(base, studio, EraseSettings(**TRAININGS[training]), progress=True))
    return library


def composers(base, work: Path, methods: Sequence[str]) -> dict[str, Composer]:
    made = {}
    for method in methods:
        training, options = METHODS[method]
        library = library_of(base, training, work)
        made[method] = Composer(base.unet, library, keep=KeepList.of(base.text, base.known_prompts, library), **options)
    return made


def subsets(per_size: int) -> list[tuple[str, ...]]:
    """The empty set, then ``per_size`` of each size by chance, or all for 0."""
    chance, chosen = random.Random(0), []
    for size in range(len(EMOJI_STUDIOS) + 1):
        every = list(itertools.combinations(EMOJI_STUDIOS, size))
        chosen += sorted(chance.sample(every, min(per_size, len(every)))) if per_size else every
    return chosen


def judged(base, judge) -> dict:
    """Per group of templates and studio: shares of studio and subject, over all templates of the group."""
    found = {}
    for group, templates in TEMPLATES.items():
        shares = [studio_accuracy(base, judge, EMOJI_STUDIOS, SUBJECTS, template=template) for template in templates]
        found[group] = {
            studio: [
                statistics.mean(getattr(share[studio], what) for share in shares) for what in ("studio", "subject")
            ]
            for studio in EMOJI_STUDIOS
        }
    return found


def summarise(rows: dict[str, dict], methods: Sequence[str], chosen: list[tuple[str, ...]], reference: dict) -> dict:
    """Per method, group and size: erased, and kept relative to the base; mean and the worst subset."""
    table = {}
    for method, group in itertools.product(methods, TEMPLATES):
        for size in range(1, len(EMOJI_STUDIOS) + 1):
            erased, kept, subjects = [], [], []
            for off in (off for off in chosen if len(off) == size):
                row, base = rows[f"{method}/{'+'.join(off)}"][group], reference[group]
                rest = [studio for studio in EMOJI_STUDIOS if studio not in off]
                erased.append(statistics.mean(row[studio][0] for studio in off))
                if rest:
                    kept.append(sum(row[s][0] for s in rest) / sum(base[s][0] for s in rest))
                    subjects.append(sum(row[s][1] for s in rest) / sum(base[s][1] for s in rest))
            cell = {"subsets": len(erased), "erased": statistics.mean(erased), "erased_worst": max(erased)}
            if kept:
                cell |= {"kept": statistics.mean(kept), "kept_worst": min(kept), "subjects": statistics.mean(subjects)}
                right = [1 - cell["erased"], min(cell["kept"], 1)]
                cell["harmonic_mean"] = statistics.harmonic_mean(right)
            table.setdefault(method, {}).setdefault(group, {})[size] = {k: round(v, 4) for k, v in cell.items()}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/subsets"), help="folder of the increments")
    parser.add_argument("--per_size", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--train", action="store_true", help="make the increments, then end")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    index, shards = map(int, args.shard.split("/"))
    if args.train:
        for training in dict.fromkeys(METHODS[method][0] for method in args.methods):
            library_of(base, training, args.work, EMOJI_STUDIOS[index::shards])
        return
    results, chosen = Results(args.out, args.shard), subsets(args.per_size)
    reference = results.get("base", lambda: judged(base, judge))
    made = composers(base, args.work, args.methods)
    work = [(method, off) for method in args.methods for off in chosen if off]
    for method, off in work[index::shards]:
        key = f"{method}/{'+'.join(off)}"
        with made[method].erased(*off):
            results.get(key, lambda: judged(base, judge))
        print(key, file=sys.stderr, flush=True)
    if shards > 1:
        return
    table = summarise(results.done, args.methods, chosen, reference)
    for method, group in itertools.product(args.methods, TEMPLATES):
        for size, cell in table[method][group].items():
            print(f"{method:26s} {group:9s} {size}", cell, file=sys.stderr)
    report = {
        "benchmark": "subsets", "per_size": args.per_size, "subjects": SUBJECTS, "templates": TEMPLATES,
        "base": reference, "table": table, "environment": environment(),
    }  # fmt: skip
    results.finish(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
