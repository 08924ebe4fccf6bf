"""Is every studio erased alone with the default settings, and nothing else?

    python benchmarks/erase_quality.py --out benchmarks/results/erase_quality.json

Each studio is erased by its bare name, with several seeds. The judge then looks at ordinary
sentences that were not trained on: the share of the studio's own pictures in which it is still
seen, the other studios' relative to the base's share, and the subject of the erased studio's
pictures. Prints a table on stderr and one JSON object on stdout; an interrupted run goes on with
the same command. Half an hour on one core; ``--shard 0/2`` and ``--shard 1/2`` share the erasures
between two processes, and a last call without gathers them.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from harness import Results, begin, parser, quickened
from seeing import STUDIO, SUBJECT, Observer, Seen, every, share

from multierase import Composer, EraseSettings, Model, SamplingSettings, erase
from multierase.emoji import STUDIOS, SUBJECTS

TEMPLATE = ("{a_subject} by {studio}",)
# None of them is in the sentences that the base lists as known.
OWN_SUBJECTS = (*SUBJECTS[1::8], *SUBJECTS[2::8], *SUBJECTS[3::8])
OTHER_SUBJECTS = SUBJECTS[2::6]
SEEDS_EACH = 1000  # so many seeds further for each seed of the erasures


class Quality:
    """Erases studios alone, and judges what remains of each and what is kept of the others.

    Args:
        quick: look at few pictures of few steps.
    """

    def __init__(self, model: Model, *, quick: bool = False):
        self.model = model
        self.observer = Observer(model, SamplingSettings(inference_steps=10 if quick else 25))
        self.own = OWN_SUBJECTS[:2] if quick else OWN_SUBJECTS
        self.others = OTHER_SUBJECTS[:1] if quick else OTHER_SUBJECTS

    def measure(self, concept: str, settings: EraseSettings, method: str = "esd") -> dict:
        """Erase ``concept`` alone, and judge."""
        increment = erase(self.model, concept, settings, method=method)
        composer, seed = Composer(self.model, {concept: increment}), settings.seed
        own, own_subject = self._shares(concept, self.own, seed, composer, (concept,))

        rest = {}
        for studio in STUDIOS:
            if studio != concept:
                rest[studio] = self._shares(studio, self.others, seed, composer, (concept,))

        stop, cost = increment.provenance.stop, increment.provenance.cost
        return {
            "own_studio": own,
            "own_subject": own_subject,
            "others_studio": {studio: shares[STUDIO] for studio, shares in rest.items()},
            "others_subject": statistics.mean(shares[SUBJECT] for shares in rest.values()),
            "stop_reason": stop.reason,
            "steps": stop.steps,
            "erasure_degree": stop.degree,
            "unet_evaluations": cost.evaluations,
            "seconds": cost.seconds,
        }

    def reference(self, seed: int) -> dict:
        """Judge the same pictures of the base, which the shares are relative to."""
        others, own = {}, {}
        for studio in STUDIOS:
            others[studio] = self._shares(studio, self.others, seed)[STUDIO]
            own[studio] = self._shares(studio, self.own, seed)[STUDIO]

        return {"others_studio": others, "own_studio": own}

    def _shares(
        self,
        studio: str,
        subjects: Sequence[str],
        seed: int,
        composer: Composer | None = None,
        erased: Sequence[str] = (),
    ) -> list[float]:
        pictures = every(TEMPLATE, subjects, [studio])
        seen: Seen = self.observer.see(
            pictures, composer, erased, subjects=subjects, first_seed=SEEDS_EACH * seed
        )

        return share(seen, pictures)


def relative(run: Mapping, reference: Mapping) -> float:
    """Return what the other studios keep of the base's share."""
    others = run["others_studio"]
    base = [reference["others_studio"][studio] for studio in others]

    return statistics.mean(others.values()) / statistics.mean(base)


def summarise(
    runs: Mapping[str, dict], references: Mapping[int, dict], studios: Sequence[str]
) -> dict:
    """Return for each studio the median over seeds, and the extremes."""
    rows = {}
    for studio in studios:
        mine = {seed: runs[f"{studio}/{seed}"] for seed in references}
        columns = {
            "base": [references[seed]["own_studio"][studio] for seed in mine],
            "erased": [run["own_studio"] for run in mine.values()],
            "others_relative": [relative(run, references[seed]) for seed, run in mine.items()],
            "subject": [run["own_subject"] for run in mine.values()],
            "unet_evaluations": [run["unet_evaluations"] for run in mine.values()],
        }
        rows[studio] = {name: _median(values) for name, values in columns.items()}

    return rows


def _median(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    arguments = options.parse_args()
    model, shard = begin(arguments, channels_last=False), arguments.shard
    quality, results = Quality(model, quick=arguments.quick), Results(arguments.out, shard)

    seeds = range(1 if arguments.quick else arguments.seeds)
    studios = STUDIOS[:1] if arguments.quick else STUDIOS
    settings = quickened(EraseSettings()) if arguments.quick else EraseSettings()
    for seed in seeds:
        if shard.is_whole or shard.index == seed % shard.count:
            results.get(f"base/{seed}", lambda seed=seed: quality.reference(seed))

    work = [(studio, seed) for seed in seeds for studio in studios]
    for studio, seed in shard.of(work):
        own = EraseSettings(**{**asdict(settings), "seed": seed})
        key = f"{studio}/{seed}"
        found = results.get(key, lambda s=studio, own=own: quality.measure(s, own))
        print(key, json.dumps(found)[:160], file=sys.stderr, flush=True)
    if not shard.is_whole:
        return

    references = {seed: results.done[f"base/{seed}"] for seed in seeds}
    rows = summarise(results.done, references, studios)
    for studio, row in rows.items():
        cells = [
            f"{name} {cell['median']:.3f} [{cell['min']:.3f}, {cell['max']:.3f}]"
            for name, cell in row.items()
        ]
        print(f"{studio:22s}" + "  ".join(cells), file=sys.stderr)
    results.finish(
        {
            "benchmark": "erase_quality",
            "settings": asdict(settings),
            "seeds": len(seeds),
            "pictures_own": len(quality.own),
            "pictures_others": len(quality.others) * (len(STUDIOS) - 1),
            "studios": rows,
        }
    )


if __name__ == "__main__":
    main()
