"""What does an erasure cost, and what does it reach? Published schedules beside the pooled one.

    python benchmarks/erase_cost.py --out benchmarks/results/erase_cost.json

Three studios, three seeds. All erase the same sentences along the same directions, so that nothing
but the schedule and its length differ: the paper's (1,000 steps, each on a latent sampled afresh
from the student) and the authors' later code (200 steps, each on a latent of the frozen base), both
as they are published, one latent at a time; and the pooled one, from nothing and from a warm start:
the closed form that maps the concept's tokens to their contexts' (UCE, arXiv 2308.14761, eq. 7,
within the directions).

Each has the best of its learning rates on a fourth studio, by the harmonic mean of what is gone and
what is kept. A run of the paper's takes a third of an hour, so it has the later code's rate and one
seed. Counts, seconds, and the judge's word on the studio, its subjects and the other studios, with
templates that were trained on and others.

Prints a table on stderr and one JSON object on stdout; resumable, and to be shared between
processes with ``--shard``. Seconds can only be compared where nothing else runs: ``--time 3``
erases the first studio by the later code and by the defaults of this package, in turn, three times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from harness import Results, begin, harmonic_mean, mean_and_extremes, parser, quickened
from seeing import STUDIO, SUBJECT, Observer, Picture, Seen, every, kept_share, share
from studios import TAUGHT

from multierase import Composer, EraseSettings, Model, SamplingSettings, erase
from multierase.emoji import STUDIOS

ERASED, TUNED_ON = ("Noto", "Fluent High Contrast", "EmojiOne"), "Twemoji"
TEMPLATES = (
    "{a_subject} by {studio}",
    "{studio} {subject}",
    "an image of {a_subject} by {studio}",
    "{subject} art by {studio}",
)
PUBLISHED = EraseSettings(
    eta=1.0,
    batch_size=1,
    sampler_steps=50,
    sampling_batch=1,
    stop_at=None,
    start_at=1.0,
    keep_weight=0.0,
    known=True,
)
PAPER = replace(PUBLISHED, schedule="student", steps=1000)
LATER = replace(PUBLISHED, schedule="frozen", steps=200)
POOLED = EraseSettings(trajectories=16, prompts_per_point=1, start_at=1.0, stop_at=None)
WARM = replace(POOLED, start_at=0.0)
KEEP_LOSS = replace(POOLED, keep_weight=10.0)
RATES = (1e-2, 5e-2, 1e-1)


@dataclass(frozen=True)
class Way:
    """A way to erase.

    Args:
        rates: learning rates to choose from.
        seeds: the most seeds.
    """

    settings: EraseSettings
    rates: tuple[float | None, ...] = RATES
    seeds: int = 3

    def at(self, rate: float | None, seed: int, quick: bool) -> EraseSettings:
        """Return the settings of one run."""
        settings = replace(self.settings, learning_rate=rate, seed=seed)

        return quickened(settings) if quick else settings


METHODS = {
    "pooled, 15 steps": Way(replace(POOLED, steps=15)),
    "pooled, 30 steps": Way(replace(POOLED, steps=30)),
    "pooled, 60 steps": Way(replace(POOLED, steps=60)),
    "pooled, stop at -1, up to 60 steps": Way(replace(POOLED, steps=60, stop_at=-1.0)),
    "as by default": Way(EraseSettings(), (None,)),
    "pooled, keep loss, 30 steps": Way(replace(KEEP_LOSS, steps=30)),
    "pooled, warm, 5 steps": Way(replace(WARM, steps=5)),
    "pooled, warm, 15 steps": Way(replace(WARM, steps=15)),
    "pooled, warm, 30 steps": Way(replace(WARM, steps=30)),
    "pooled, warm, keep loss, 15 steps": Way(replace(KEEP_LOSS, start_at=0.0, steps=15)),
    "later code, 200 steps": Way(LATER),
    "paper, 1000 steps": Way(PAPER, (5e-2,), seeds=1),
}


class Costs:
    """The benchmark's erasures, each measured once."""

    def __init__(self, arguments: argparse.Namespace, model: Model):
        self.arguments, self.model, self.quick = arguments, model, arguments.quick
        self.observer = Observer(model, SamplingSettings(inference_steps=10))
        self.results = Results(arguments.out, arguments.shard)
        self.subjects = TAUGHT[:2] if self.quick else TAUGHT
        self.studios = ERASED[:1] if self.quick else ERASED
        self.seeds = 1 if self.quick else arguments.seeds

    def pictures(self, studio: str) -> tuple[list[Picture], list[Picture]]:
        """Return those of the erased studio, and of the others."""
        own = every(TEMPLATES, self.subjects, [studio])
        others = [other for other in STUDIOS if other != studio]

        return own, every(TEMPLATES[::2], self.subjects[::2], others)

    def judged(self, studio: str, seed: int, composer: Composer | None = None) -> Seen:
        """Judge the pictures of one erasure, or of the base."""
        own, others = self.pictures(studio)
        erased = () if composer is None else (studio,)

        return self.observer.see(
            [*own, *others],
            composer,
            erased,
            subjects=TAUGHT,
            first_seed=300 + 100 * seed,
        )

    def run(self, name: str, rate: float, studio: str, seed: int) -> dict | None:
        """Return what one erasure reaches; ``None`` for a report in which it is not yet there."""
        way, key = METHODS[name], f"{name}/{rate}/{studio}/{seed}"
        if self.arguments.report:
            return self.results.done.get(key)

        before = self.results.get(f"base/{studio}/{seed}", lambda: self.judged(studio, seed))
        settings = way.at(rate, seed, self.quick)
        return self.results.get(key, lambda: self.measure(studio, settings, before))

    def measure(self, studio: str, settings: EraseSettings, before: Seen) -> dict:
        """Erase a studio, and judge; shares of what is kept are relative to ``before``."""
        increment = erase(self.model, studio, settings)
        composer = Composer(self.model, {studio: increment})
        now = self.judged(studio, settings.seed, composer)

        own, others = self.pictures(studio)
        remaining, kept = share(now, own)[STUDIO], kept_share(now, before, others)
        return {
            "erased": remaining,
            "its_subject": kept_share(now, before, own, SUBJECT),
            "kept": kept,
            "kept_subject": kept_share(now, before, others, SUBJECT),
            "harmonic_mean": harmonic_mean(remaining, kept),
            "unet_evaluations": increment.provenance.cost.evaluations,
            "seconds": increment.provenance.cost.seconds,
            "erasure_degree": increment.provenance.stop.degree,
        }

    def tune(self, name: str) -> tuple[float, dict[float, float]]:
        """Return the best learning rate on a studio that is not reported, and what each reached."""
        way = METHODS[name]
        if len(way.rates) == 1:
            return way.rates[0], {}

        reached = {}
        for rate in way.rates:
            run = self.run(name, rate, TUNED_ON, self.arguments.seeds)
            if run is not None:
                reached[rate] = run["harmonic_mean"]
        return max(reached, key=reached.get, default=way.rates[0]), reached

    def row(self, name: str, rate: float) -> dict | None:
        """Return a method's row of the table; ``None`` if nothing of it is measured."""
        runs = []
        for seed in range(min(self.seeds, METHODS[name].seeds)):
            for studio in self.studios:
                run = self.run(name, rate, studio, seed)
                if run is not None:
                    runs.append(run)
        if not runs:
            return None

        columns = {key: mean_and_extremes([run[key] for run in runs]) for key in runs[0]}
        return {"learning_rate": rate, "runs": len(runs), **columns}

    def time(self, rounds: int) -> None:
        """Time the later code and the defaults, in turn."""
        for seed in range(rounds):
            found = self.results.get(f"time/{seed}", lambda seed=seed: self._timed(seed))
            print(found, file=sys.stderr, flush=True)

    def _timed(self, seed: int) -> dict[str, float]:
        seconds = {}
        for name, settings in (("later code", LATER), ("default", EraseSettings())):
            own = replace(settings, seed=seed)
            own = quickened(own) if self.quick else own
            increment = erase(self.model, ERASED[0], own)
            seconds[name] = increment.provenance.cost.seconds

        ratio = seconds["later code"] / seconds["default"]
        return {**seconds, "ratio": round(ratio, 1)}


def report_of(costs: Costs, table: Mapping[str, dict], tuning: Mapping[str, dict]) -> dict:
    """Return the benchmark's results."""
    times = [found for key, found in costs.results.done.items() if key.startswith("time/")]

    return {
        "benchmark": "erase_cost",
        "studios": costs.studios,
        "seeds": costs.seeds,
        "templates": TEMPLATES,
        "settings": {name: asdict(METHODS[name].settings) for name in table},
        "tuned_on": TUNED_ON,
        "tuning": tuning,
        "table": table,
        "time": times,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument(
        "--time", type=int, default=0, help="rounds, on a quiet machine; nothing else is done"
    )
    options.add_argument(
        "--report", action="store_true", help="report what has been measured; measure no more"
    )
    arguments = options.parse_args()
    costs = Costs(arguments, begin(arguments, channels_last=False))
    if arguments.time:
        costs.time(arguments.time)
        return

    table, tuning = {}, {}
    for name in arguments.shard.of(arguments.methods):
        best, reached = costs.tune(name)
        if reached:
            tuning[name] = {rate: round(value, 4) for rate, value in reached.items()}
        row = costs.row(name, best)
        if row is not None:
            table[name] = row
            print(f"{name:28s}", row, file=sys.stderr, flush=True)
    if arguments.shard.is_whole:
        costs.results.finish(report_of(costs, table, tuning), keep=arguments.report)


if __name__ == "__main__":
    main()
