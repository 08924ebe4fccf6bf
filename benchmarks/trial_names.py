"""Which names does the trial refuse: those that a base draws, or those that it does not know?

    python benchmarks/trial_names.py --bases emoji FOLDER ... --out trial_names.json

A name is refused if in no sentence it moves a base's prediction clearly farther than made-up names
do. For each base, studio and seed, and for names that no base was taught: how many times as far, in
the best sentence of one look. The kind is ``artist``, as on any base without one of its own. Prints
on stderr how many of either are below a threshold in one look, and how many are if a second look,
that of another seed, may overrule the first; and one JSON object on stdout.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from bases.base import Base
from harness import Results, parser, rounded

from multierase.prompts.kind import load_kind
from multierase.training import trial
from multierase.training.trial import Trial

UNKNOWN = ("Van Gogh", "Claude Monet", "Zork Blintu", "Maria Lopez", "Ulf", "Qrst")
THRESHOLDS = (1.0, 1.1, 1.2, 1.3, trial.OVERRULED)


def clearest(base: Base, unknown: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
    """Return by name how many times as far as made-up ones it moves the base, at the most."""
    tried = Trial(base.load(own_list=False), load_kind("artist"), seed)
    found = {}
    for side, names in (("own", base.studios), ("unknown", unknown)):
        found[side] = rounded({name: look(tried, name) for name in names})

    return found


def look(tried: Trial, name: str) -> float:
    """Return the best ratio of one look, without its consequences."""
    first, trial.DRAWN = trial.DRAWN, 0.0
    try:
        return max(tried.of(name).ratios.values())
    finally:
        trial.DRAWN = first


def refused(done: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return by threshold how many names of either side are below it, in one look and in two."""
    counts: dict[str, dict[str, int]] = {}
    for side in ("own", "unknown"):
        looks = looks_of(done, side)
        pairs = [pair for found in looks for pair in itertools.permutations(found, 2)]
        once = [ratio for found in looks for ratio in found]
        counts.setdefault("of", {})[side] = len(once)
        counts.setdefault("pairs", {})[side] = len(pairs)
        for least in THRESHOLDS:
            key = str(least)
            counts.setdefault(key, {})[side] = sum(ratio < least for ratio in once)
            overruled = sum(first < trial.DRAWN and then < least for first, then in pairs)
            counts.setdefault(f"{trial.DRAWN}, then {key}", {})[side] = overruled

    return counts


def looks_of(done: Mapping[str, Any], side: str) -> list[list[float]]:
    """Return for each base and name the ratios of every seed."""
    looks: dict[tuple[str, str], list[float]] = {}
    for key, row in done.items():
        for name, ratio in row[side].items():
            looks.setdefault((key.split("/")[0], name), []).append(ratio)

    return list(looks.values())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bases", nargs="+", default=["emoji"], help="emoji, or folders")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--unknown", nargs="+", default=UNKNOWN, help="names, instead of six")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)  # of names that are hardly told from made-up ones
    results = Results(arguments.out, arguments.shard)
    bases = [Base.of(source) for source in arguments.bases]
    cases = [(base, seed) for base in bases for seed in arguments.seeds]
    for base, seed in arguments.shard.of(cases[:1] if arguments.quick else cases):
        key, asked = f"{base.name}/{seed}", (base, arguments.unknown, seed)
        row = results.get(key, lambda asked=asked: clearest(*asked))
        print(base.name, seed, row, file=sys.stderr, flush=True)
    if not arguments.shard.is_whole:
        return

    counts = refused(results.done)
    print(counts, file=sys.stderr)
    results.finish({"benchmark": "trial_names", "refused": counts, "names": results.done})


if __name__ == "__main__":
    main()
