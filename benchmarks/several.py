"""Several concepts in one run: how much faster is it, and are the increments the same?

    python benchmarks/several.py --out benchmarks/results/several.json

Five studios, in the scope of keys and values, by ``erase_several`` and by ``erase`` one after
another, in one process, in turn, so that loading the base is in neither. Prints one JSON object on
stdout.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict

from harness import Results, begin, parser, quickened

from multierase import EraseSettings, Increment, erase, erase_several
from multierase.emoji import STUDIOS

ERASED = STUDIOS[:9:2]
SETTINGS = EraseSettings(stop_at=None)


def apart(one: Increment, other: Increment) -> float:
    """Return how far two increments are apart, as a share of the first's norm."""
    return (one - other).norm() / one.norm()


def main() -> None:
    options = parser(__doc__, shards=False, threads=2)
    options.add_argument("--repeats", type=int, default=3)
    arguments = options.parse_args()
    model = begin(arguments, channels_last=False)
    results, quick = Results(arguments.out), arguments.quick

    studios = ERASED[:2] if quick else ERASED
    settings = quickened(SETTINGS) if quick else SETTINGS
    erase_several(model, studios, settings)  # prompts are encoded, once, for either

    ratios, differences = [], []
    for _ in range(1 if quick else arguments.repeats):
        began = time.perf_counter()
        alone = [erase(model, studio, settings) for studio in studios]
        between = time.perf_counter()
        several = erase_several(model, studios, settings)
        ended = time.perf_counter()

        ratios.append((ended - between) / (between - began))
        differences += [apart(*pair) for pair in zip(alone, several, strict=True)]
        print(
            f"{ratios[-1]:.3f} of the time, {max(differences):.1e} apart",
            file=sys.stderr,
            flush=True,
        )

    evaluations = [increment.provenance.cost.evaluations for increment in several]
    results.finish(
        {
            "benchmark": "several",
            "studios": studios,
            "threads": arguments.threads,
            "settings": asdict(settings),
            "time_ratio": {
                "median": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
            },
            "relative_difference_most": max(differences),
            "unet_evaluations": evaluations,
        }
    )


if __name__ == "__main__":
    main()
