"""What does an erasure cost, and what does it reach? The published schedules beside the pooled one.

    python benchmarks/erase_cost.py --out benchmarks/results/erase_cost.json

Three studios, three seeds. All erase the same sentences along the same directions, so that nothing but the schedule and
its length differ: the paper's (1,000 steps, each on a latent sampled afresh from the student), the authors' later code
(200 steps, each on a latent of the frozen base), both as they are published, one latent at a time, and the pooled one,
from nothing and from a warm start: the closed form that maps the concept's tokens to their contexts' (UCE, arXiv
2308.14761, eq. 7, within the directions). Each has the best of its learning rates on a fourth studio and seed, by the
harmonic mean of what is erased and what is kept; a run of the paper's takes a third of an hour, so it has the later
code's rate and one seed. Counts, seconds, and the judge's word on the studio, its subjects and the other studios, with
templates that were trained on and others. Prints a table on stderr and one JSON object on stdout; resumable, and to be
shared between processes with ``--shard``. Seconds are only worth comparing where nothing else runs: ``--time 3`` erases
the first studio by the later code and by the defaults of this package, in turn, three times.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from dataclasses import asdict, dataclass, replace

import torch
from harness import Results, parser
from subsets import SUBJECTS, Picture, look, share

from multierase.base import Base, load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, Concept
from multierase.evaluation.baselines import aligned
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings
from multierase.increments import Increment
from multierase.training import EraseSettings, Erasure, descend, erase

STUDIOS, TUNED_ON = ("Noto", "Fluent High Contrast", "EmojiOne"), "Twemoji"
TEMPLATES = (
    "{a_subject} by {studio}", "{studio} {subject}", "an image of {a_subject} by {studio}", "{subject} art by {studio}"
)  # fmt: skip
PUBLISHED = EraseSettings(
    eta=1.0, batch_size=1, sampler_steps=50, sampling_batch=1, stop_at=None, keep_weight=0.0, known=True
)
PAPER = replace(PUBLISHED, schedule="student", steps=1000)
LATER = replace(PUBLISHED, schedule="frozen", steps=200)
POOLED = EraseSettings(stop_at=None)
RATES = (1e-2, 5e-2, 1e-1)
RIDGE = 1e-2  # of the warm start, in units of the tokens' mean variance


@dataclass(frozen=True)
class Method:
    settings: EraseSettings
    rates: tuple[float, ...] = RATES
    seeds: int = 3
    warm: bool = False


METHODS = {
    **{f"pooled, {steps} steps": Method(replace(POOLED, steps=steps)) for steps in (15, 30, 60)},
    "pooled, stop at -1, up to 60 steps": Method(EraseSettings()),
    "pooled, stop at -1, as by default": Method(EraseSettings(), (EraseSettings().learning_rate,)),
    "pooled, keep loss, 30 steps": Method(replace(POOLED, steps=30, keep_weight=10.0)),
    **{f"pooled, warm, {steps} steps": Method(replace(POOLED, steps=steps), warm=True) for steps in (5, 15, 30)},
    "pooled, warm, keep loss, 15 steps": Method(replace(POOLED, steps=15, keep_weight=10.0), warm=True),
    "later code, 200 steps": Method(LATER),
    "paper, 1000 steps": Method(PAPER, (5e-2,), seeds=1),
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


def warm_started(base: Base, studio: str, settings: EraseSettings) -> Increment:
    """The closed form first, then as ``erase``: its coefficients ``A`` minimise ``‖A Bᵀ c − W (g − c)‖²`` over the
    tokens ``c`` of the sentences and ``g`` of their contexts."""
    erasure = Erasure(base, Concept(studio), settings)
    pairs = [aligned(base.text, *pair) for pair in zip(erasure.concept.prompts, erasure.concept.contexts, strict=True)]
    old, new = (torch.cat(tokens) for tokens in zip(*pairs, strict=True))
    inside = old @ erasure.directions.basis
    gram = inside.T @ inside
    system = gram + RIDGE * gram.trace() / len(gram) * torch.eye(len(gram))
    with torch.no_grad():
        for name, variable in erasure.student.variables.items():
            wanted = (new - old) @ erasure.student.frozen[name].float().T
            variable.copy_(torch.linalg.solve(system, inside.T @ wanted).T)
    for step in range(settings.steps):
        descend([erasure], erasure.examples.batches(range(step, step + 1), {}))
    return erasure.increment()


def measure(base: Base, judge: EmojiJudge, studio: str, method: Method, before: dict) -> dict:
    """One erasure; shares of the kept are relative to the base's pictures ``before``."""
    own, others = pictures(studio)
    increment = (warm_started if method.warm else erase)(base, studio, method.settings)
    with Composer(base.unet, {studio: increment}).erased(studio):
        now = judged(base, judge, studio, method.settings.seed)
    (erased, subject), (kept, kept_subject) = share(now, own), share(now, others)
    base_subject, (base_kept, base_kept_subject) = share(before, own)[1], share(before, others)
    found = {
        "erased": erased, "its_subject": subject / base_subject, "kept": kept / base_kept,
        "kept_subject": kept_subject / base_kept_subject,
    }  # fmt: skip
    found["harmonic_mean"] = statistics.harmonic_mean([1 - erased, min(found["kept"], 1)])
    return {**found, **{key: increment.info[key] for key in ("unet_evaluations", "seconds", "erasure_degree")}}


def with_rate(method: Method, rate: float, seed: int) -> Method:
    name = "learning_rate" if method.settings.decouple else "free_learning_rate"
    return replace(method, settings=replace(method.settings, seed=seed, **{name: rate}))


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def timed(base: Base, seed: int) -> dict:
    """Seconds of the later code, of the defaults, and their ratio."""
    later = erase(base, STUDIOS[0], replace(LATER, seed=seed)).info
    ours = erase(base, STUDIOS[0], EraseSettings(seed=seed)).info
    ratio = later["seconds"] / ours["seconds"]
    return {"later code": later["seconds"], "default": ours["seconds"], "ratio": round(ratio, 1)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--time", type=int, default=0, help="rounds, on a quiet machine; nothing else is done")
    arguments.add_argument(
        "--report", action="store_true", help="say what has been measured so far, keep what is there"
    )
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    index, shards = map(int, args.shard.split("/"))
    results = Results(args.out, args.shard)

    for round_ in range(args.time):
        print(results.get(f"time/{round_}", lambda seed=round_: timed(base, seed)), file=sys.stderr, flush=True)
    if args.time:
        return

    def one(name: str, rate: float, studio: str, seed: int) -> dict | None:
        key, method = f"{name}/{rate}/{studio}/{seed}", with_rate(METHODS[name], rate, seed)
        if args.report:
            return results.done.get(key)
        before = results.get(f"base/{studio}/{seed}", lambda: judged(base, judge, studio, seed))
        return results.get(key, lambda: measure(base, judge, studio, method, before))

    table, tuning = {}, {}
    for name in args.methods[index::shards]:
        method, best = METHODS[name], METHODS[name].rates[0]
        if len(method.rates) > 1:
            tried = {rate: run for rate in method.rates if (run := one(name, rate, TUNED_ON, args.seeds))}
            best = max(tried, key=lambda rate: tried[rate]["harmonic_mean"])
            tuning[name] = {rate: round(run["harmonic_mean"], 4) for rate, run in tried.items()}
        cases = itertools.product(range(min(args.seeds, method.seeds)), STUDIOS)
        runs = [run for seed, studio in cases if (run := one(name, best, studio, seed))]
        if not runs:
            continue
        table[name] = {"learning_rate": best, "runs": len(runs)} | {
            key: spread([run[key] for run in runs]) for key in runs[0]
        }
        print(f"{name:28s}", table[name], file=sys.stderr, flush=True)
    if shards > 1:
        return
    report = {
        "benchmark": "erase_cost", "studios": STUDIOS, "seeds": args.seeds, "templates": TEMPLATES,
        "settings": {name: asdict(METHODS[name].settings) for name in table}, "tuned_on": TUNED_ON, "tuning": tuning,
        "table": table, "time": [found for key, found in results.done.items() if key.startswith("time/")],
    }  # fmt: skip
    results.finish(report, keep=args.report)


if __name__ == "__main__":
    main()
