"""What does an erasure cost, and what does it reach? The published schedules beside the pooled one.

    python benchmarks/erase_cost.py --out benchmarks/results/erase_cost.json

Three studios, three seeds. All erase the same sentences along the same directions, so that nothing but the schedule and
its length differ: the paper's (1,000 steps, each on a latent sampled afresh from the student), the authors' later code
(200 steps, each on a latent of the frozen base), both as they are published, one latent at a time, and the pooled one.
The later code's is there with free keys and values too, as its authors train them. Each has the best of three learning
rates on a fourth studio and seed, by the harmonic mean of what is erased and what is kept. Counts, seconds, and the
judge's word on the studio, its subjects and the other studios, with templates that were trained on and others. Prints a
table on stderr and one JSON object on stdout; resumable, and to be shared between processes with ``--shard``.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from dataclasses import asdict, replace

import torch
from harness import Results, parser
from subsets import SUBJECTS, Picture, look, share

from multierase.base import Base, load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings
from multierase.training import EraseSettings, erase

STUDIOS, TUNED_ON = ("Noto", "Fluent High Contrast", "EmojiOne"), "Twemoji"
TEMPLATES = (
    "{a_subject} by {studio}", "{studio} {subject}", "an image of {a_subject} by {studio}", "{subject} art by {studio}"
)  # fmt: skip
PUBLISHED = EraseSettings(
    eta=1.0, batch_size=1, sampler_steps=50, sampling_batch=1, stop_at=None, keep_weight=0.0, known=True
)
PAPER = replace(PUBLISHED, schedule="student", steps=1000)
LATER = replace(PUBLISHED, schedule="frozen", steps=200)
POOLED = EraseSettings(schedule="pooled", keep_weight=0.0, stop_at=None)
RATES = (1e-2, 5e-2, 1e-1)
FREE_RATES = (3e-4, 1e-3, 3e-3)
METHODS: dict[str, tuple[EraseSettings, tuple[float, ...]]] = {
    **{f"pooled, {steps} steps": (replace(POOLED, steps=steps), RATES) for steps in (15, 30, 60, 75, 90)},
    **{f"later code, {steps} steps": (replace(LATER, steps=steps), RATES) for steps in (50, 100, 200)},
    "later code, free, 200 steps": (replace(LATER, decouple=False), FREE_RATES),
    "paper, 1000 steps": (PAPER, RATES),
}
SAMPLING = SamplingSettings(inference_steps=10)


def pictures(studio: str) -> tuple[list[Picture], list[Picture]]:
    """Of the erased studio, and of the others."""
    own = list(itertools.starmap(Picture, itertools.product(TEMPLATES, [studio], SUBJECTS)))
    others = [other for other in EMOJI_STUDIOS if other != studio]
    return own, list(itertools.starmap(Picture, itertools.product(TEMPLATES[::2], others, SUBJECTS[::2])))


def judged(base: Base, judge: EmojiJudge, studio: str, seed: int) -> dict:
    own, others = pictures(studio)
    return look(base, judge, [*own, *others], SAMPLING, first_seed=300 + 100 * seed)


def measure(base: Base, judge: EmojiJudge, studio: str, settings: EraseSettings, before: dict) -> dict:
    """One erasure; shares of the kept are relative to the base's pictures ``before``."""
    own, others = pictures(studio)
    increment = erase(base, studio, settings)
    with Composer(base.unet, {studio: increment}).erased(studio):
        now = judged(base, judge, studio, settings.seed)
    (erased, subject), (kept, kept_subject) = share(now, own), share(now, others)
    base_subject, (base_kept, base_kept_subject) = share(before, own)[1], share(before, others)
    found = {
        "erased": erased, "its_subject": subject / base_subject, "kept": kept / base_kept,
        "kept_subject": kept_subject / base_kept_subject,
    }  # fmt: skip
    found["harmonic_mean"] = statistics.harmonic_mean([1 - erased, min(found["kept"], 1)])
    return {**found, **{key: increment.info[key] for key in ("unet_evaluations", "seconds", "erasure_degree")}}


def with_rate(settings: EraseSettings, rate: float, seed: int) -> EraseSettings:
    name = "learning_rate" if settings.decouple else "free_learning_rate"
    return replace(settings, seed=seed, **{name: rate})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument(
        "--report", action="store_true", help="say what has been measured so far, keep what is there"
    )
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    index, shards = map(int, args.shard.split("/"))
    results = Results(args.out, args.shard)

    def one(name: str, settings: EraseSettings, rate: float, studio: str, seed: int) -> dict:
        before = results.get(f"base/{studio}/{seed}", lambda: judged(base, judge, studio, seed))
        settings = with_rate(settings, rate, seed)
        return results.get(f"{name}/{rate}/{studio}/{seed}", lambda: measure(base, judge, studio, settings, before))

    table, tuning = {}, {}
    for name in args.methods[index::shards]:
        settings, rates = METHODS[name]
        tried = {rate: one(name, settings, rate, TUNED_ON, args.seeds) for rate in rates}
        best = max(tried, key=lambda rate: tried[rate]["harmonic_mean"])
        tuning[name] = {rate: round(run["harmonic_mean"], 4) for rate, run in tried.items()}
        runs = [one(name, settings, best, *case) for case in itertools.product(STUDIOS, range(args.seeds))]
        row = {key: [run[key] for run in runs] for key in runs[0]}
        table[name] = {"learning_rate": best} | {
            key: {"mean": round(statistics.mean(v), 4), "min": round(min(v), 4), "max": round(max(v), 4)}
            for key, v in row.items()
        }
        print(f"{name:28s}", table[name], file=sys.stderr, flush=True)
    if shards > 1:
        return
    report = {
        "benchmark": "erase_cost", "studios": STUDIOS, "seeds": args.seeds, "templates": TEMPLATES,
        "settings": {name: asdict(METHODS[name][0]) for name in table}, "tuned_on": TUNED_ON, "tuning": tuning,
        "table": table,
    }  # fmt: skip
    results.finish(report, keep=args.report)


if __name__ == "__main__":
    main()
