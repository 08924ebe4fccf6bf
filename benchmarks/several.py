"""Several concepts in one run: how much time does it take beside a run for each, and are the increments the same?

    python benchmarks/several.py --out benchmarks/results/several.json

Five studios, in the scope of keys and values, by ``erase_several`` and by ``erase`` one after another, in one process,
in turn, so that loading the base is in neither. Prints one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from harness import Results

from multierase.base import load_base
from multierase.concepts import EMOJI_STUDIOS
from multierase.increments import Increment
from multierase.training import EraseSettings, erase, erase_several

STUDIOS = EMOJI_STUDIOS[:9:2]
SETTINGS = EraseSettings(stop_at=None)


def apart(one: Increment, other: Increment) -> float:
    return (one - other).norm() / one.norm()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, results = load_base("emoji", device="cpu"), Results(args.out, "0/1")
    erase_several(base, STUDIOS, SETTINGS)  # prompts are encoded, once, for either
    ratios, differences = [], []
    for _ in range(args.repeats):
        began = time.perf_counter()
        alone = [erase(base, studio, SETTINGS) for studio in STUDIOS]
        between = time.perf_counter()
        several = erase_several(base, STUDIOS, SETTINGS)
        ratios.append((time.perf_counter() - between) / (between - began))
        differences += [apart(a, b) for a, b in zip(alone, several, strict=True)]
        print(f"{ratios[-1]:.3f} of the time, {max(differences):.1e} apart", file=sys.stderr, flush=True)
    report = {
        "benchmark": "several", "studios": STUDIOS, "threads": args.threads, "settings": asdict(SETTINGS),
        "time_ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "relative_difference_most": max(differences),
        "unet_evaluations": [increment.info["unet_evaluations"] for increment in several],
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
