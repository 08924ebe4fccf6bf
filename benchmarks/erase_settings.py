"""Which settings? Early stop or a fixed length, regularised or not, student or frozen, decoupled or free: one table.

    python benchmarks/erase_settings.py --out benchmarks/results/erase_settings.json

Each variant differs from the defaults in what its name says. For three studios and two seeds: what is left of the
studio and of its pictures' subjects, what the other studios keep relative to the base, and what it cost. Prints a table
on stderr and one JSON object on stdout; resumable, and to be shared between processes with ``--shard``.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace

import torch
from erase_quality import measure, reference, relative
from harness import Results, parser

from multierase.base import load_base
from multierase.evaluation.judges import EmojiJudge
from multierase.training import EraseSettings

STUDIOS = ("Twemoji", "Fluent", "EmojiOne")
FREE = {
    "decouple": False, "known": False, "free_learning_rate": 1e-3, "schedule": "frozen", "steps": 240, "stop_at": -0.9
}  # fmt: skip
VARIANTS = {
    "default": {},
    "no early stop": {"stop_at": None},
    "stop at -0.6": {"stop_at": -0.6},
    "eta 1": {"eta": 1.0, "stop_at": None},
    "half the rate": {"learning_rate": 5e-2},
    "8 trajectories": {"trajectories": 8},
    "keep loss, 30 steps": {"keep_weight": 10.0, "steps": 30},
    "l1": {"regularizer": "l1", "beta": 1e-5},
    "l2": {"regularizer": "l2", "beta": 1e-4},
    "frozen, 240 steps": {"schedule": "frozen", "steps": 240, "learning_rate": 5e-2},
    "student, 240 steps": {"schedule": "student", "steps": 240, "learning_rate": 5e-2},
    "bare name alone": {"known": False},
    "esd-x": {"scope": "esd-x"},
    "plain ESD-x (bare name, free)": {**FREE, "scope": "esd-x"},
    "plain ESD-x-strict (bare name, free)": FREE,
}


def summarise(runs: list[dict], references: list[dict]) -> dict:
    columns = {
        "erased": [run["own_studio"] for run in runs],
        "others_relative": [relative(run, ref) for run, ref in zip(runs, references, strict=True)],
        "subject": [run["own_subject"] for run in runs],
        "steps": [run["steps"] for run in runs],
        "unet_evaluations": [run["unet_evaluations"] for run in runs],
        "erasure_degree": [run["erasure_degree"] for run in runs],
    }
    return {
        name: {"mean": round(statistics.mean(v), 4), "min": round(min(v), 4), "max": round(max(v), 4)}
        for name, v in columns.items()
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=2)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    index, shards = map(int, args.shard.split("/"))
    results = Results(args.out, args.shard)
    for seed in range(args.seeds):
        results.get(f"base/{seed}", lambda seed=seed: reference(base, judge, seed))
    work = [(v, s, seed) for v in VARIANTS for seed in range(args.seeds) for s in STUDIOS]
    for variant, studio, seed in work[index::shards]:
        settings = replace(EraseSettings(seed=seed), **VARIANTS[variant])
        key = f"{variant}/{studio}/{seed}"
        results.get(key, lambda studio=studio, settings=settings: measure(base, judge, studio, settings))
        print(key, json.dumps(results.done[key])[:140], file=sys.stderr, flush=True)
    if shards > 1:
        return
    table = {}
    for variant in VARIANTS:
        keys = [(s, seed) for seed in range(args.seeds) for s in STUDIOS]
        runs = [results.done[f"{variant}/{s}/{seed}"] for s, seed in keys]
        table[variant] = summarise(runs, [results.done[f"base/{seed}"] for _, seed in keys])
        print(f"{variant:40s}" + "  ".join(f"{k} {v['mean']:.3f}" for k, v in table[variant].items()), file=sys.stderr)
    report = {
        "benchmark": "erase_settings", "studios": STUDIOS, "seeds": args.seeds, "variants": VARIANTS, "table": table,
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
