"""Which settings? Early stop, regularizer, schedule, separated or free: one table.

    python benchmarks/erase_settings.py --out benchmarks/results/erase_settings.json

Each variant differs from the defaults in what its name says. For three studios and two seeds: what
remains of the studio, what its pictures keep of their subjects, what the other studios keep
relative to the base, and what it cost. Prints a table on stderr and one JSON object on stdout;
resumable, and to be shared between processes with ``--shard``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from erase_quality import Quality, relative
from harness import Results, begin, mean_and_extremes, parser, quickened

from multierase import EraseSettings

STUDIOS = ("Twemoji", "Fluent", "EmojiOne")
FREE = {
    "decouple": False,
    "known": False,
    "free_learning_rate": 1e-3,
    "schedule": "frozen",
    "steps": 240,
    "stop_at": -0.9,
}
VARIANTS = {
    "default": {},
    "the start alone": {"steps": 1, "learning_rate": 1e-9},
    "start at 0": {"start_at": 0.0},
    "start at -2": {"start_at": -2.0},
    "from the base": {"start_at": 1.0, "steps": 70},
    "from the base, a prompt a point": {"start_at": 1.0, "prompts_per_point": 1, "steps": 70},
    "a prompt a point": {"prompts_per_point": 1},
    "eta 1": {"eta": 1.0},
    "keep loss": {"keep_weight": 10.0},
    "l1": {"regularizer": "l1", "beta": 1e-5},
    "l2": {"regularizer": "l2", "beta": 1e-4},
    "frozen, 240 steps": {"schedule": "frozen", "steps": 240},
    "student, 240 steps": {"schedule": "student", "steps": 240},
    "bare name alone": {"known": False},
    "esd-x": {"scope": "esd-x"},
    "full": {"scope": "full"},
    "full, rank 16": {"scope": "full", "rank": 16},
    "full, rank 4": {"scope": "full", "rank": 4},
    "plain ESD-x (bare name, free)": {**FREE, "scope": "esd-x"},
    "plain ESD-x-strict (bare name, free)": FREE,
}


def summarise(runs: Sequence[dict], references: Sequence[dict]) -> dict:
    """Return a variant's row of the table."""
    kept = [relative(run, base) for run, base in zip(runs, references, strict=True)]
    columns = {
        "erased": [run["own_studio"] for run in runs],
        "others_relative": kept,
        "subject": [run["own_subject"] for run in runs],
        "steps": [run["steps"] for run in runs],
        "unet_evaluations": [run["unet_evaluations"] for run in runs],
        "erasure_degree": [run["erasure_degree"] for run in runs],
    }

    return {name: mean_and_extremes(values) for name, values in columns.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = options.parse_args()
    model = begin(arguments, channels_last=False)
    quality = Quality(model, quick=arguments.quick)
    results = Results(arguments.out, arguments.shard)

    seeds = range(1 if arguments.quick else arguments.seeds)
    cases = [(studio, seed) for seed in seeds for studio in STUDIOS]
    cases = cases[:1] if arguments.quick else cases
    for seed in seeds:
        results.get(f"base/{seed}", lambda seed=seed: quality.reference(seed))

    work = [(variant, *case) for variant in arguments.variants for case in cases]
    for variant, studio, seed in arguments.shard.of(work):
        settings = replace(EraseSettings(seed=seed), **VARIANTS[variant])
        settings = quickened(settings) if arguments.quick else settings
        key = f"{variant}/{studio}/{seed}"
        found = results.get(key, lambda s=studio, own=settings: quality.measure(s, own))
        print(key, json.dumps(found)[:140], file=sys.stderr, flush=True)
    if not arguments.shard.is_whole:
        return

    table = {}
    for variant in arguments.variants:
        runs = [results.done[f"{variant}/{studio}/{seed}"] for studio, seed in cases]
        table[variant] = summarise(runs, [results.done[f"base/{seed}"] for _, seed in cases])
        cells = [f"{name} {cell['mean']:.3f}" for name, cell in table[variant].items()]
        print(f"{variant:40s}" + "  ".join(cells), file=sys.stderr)
    results.finish(
        {
            "benchmark": "erase_settings",
            "studios": STUDIOS,
            "seeds": len(seeds),
            "variants": VARIANTS,
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
