"""Studios that share words and hand: one of a family off, do its siblings stay? Which joint solve keeps them best?

    python benchmarks/siblings.py --out benchmarks/results/siblings.json

Every subset of the two families that leaves a sibling on, with the increments of ``subsets.py``: what is left of the
erased, what is kept of the siblings relative to the base, by the judge, with templates that were trained on and others,
and several seeds of noise. Also what the worst single subject of a sibling keeps: a studio is not kept if it has lost
one of its subjects. Prints a table on stderr and one JSON object on stdout; resumable, and to be shared between
processes with ``--shard``.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from harness import Results, parser
from subsets import FAMILIES, SUBJECTS, Picture, look, with_keep_list

from multierase.base import load_base
from multierase.composer import Composer
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings

TEMPLATES = {
    "listed": ("{a_subject} by {studio}", "{studio} {subject}"),
    "unlisted": ("an image of {a_subject} by {studio}", "{subject} art by {studio}"),
}
VARIANTS = {
    "sum": {"solve": "sum"},
    "joint, ridge 0.001": {"ridge": 0.001},
    "joint, ridge 0.01": {"ridge": 0.01},
    "joint, ridge 0.03": {"ridge": 0.03},
    "joint, ridge 0.1": {"ridge": 0.1},
    "joint, keep weight 1, ridge 0.001": {"keep_weight": 1.0, "ridge": 0.001},
    "joint, keep weight 1, ridge 0.03": {"keep_weight": 1.0, "ridge": 0.03},
    "joint, keep weight 1, ridge 0.1": {"keep_weight": 1.0, "ridge": 0.1},
    "joint, keep weight 1, ridge 0.3": {"keep_weight": 1.0, "ridge": 0.3},
}
OFF = [off for family in FAMILIES for n in range(1, len(family)) for off in itertools.combinations(family, n)]


def family_of(off: tuple[str, ...]) -> tuple[str, ...]:
    return next(family for family in FAMILIES if set(off) <= set(family))


def pictures(off: tuple[str, ...], group: str) -> list[Picture]:
    return list(itertools.starmap(Picture, itertools.product(TEMPLATES[group], family_of(off), SUBJECTS)))


def summarise(now: dict[tuple, dict], reference: dict[tuple, dict], group: str) -> dict[str, float]:
    """Over subsets and seeds; ``now`` and ``reference`` by subset and seed."""
    erased, kept, base, by_subject = [], [], [], {}
    for (off, seed), right in now.items():
        for picture in pictures(off, group):
            value, before = right[str(picture)][0], reference[off, seed][str(picture)][0]
            if picture.studio in off:
                erased.append(value)
                continue
            kept.append(value)
            base.append(before)
            by_subject.setdefault((off, picture.studio, picture.subject), []).append((value, before))
    shares = {key: sum(v for v, _ in pairs) / max(sum(b for _, b in pairs), 1) for key, pairs in by_subject.items()}
    least = min(shares, key=shares.get)
    return {
        "erased": round(statistics.mean(erased), 4),
        "kept": round(statistics.mean(kept) / statistics.mean(base), 4),
        "kept_least": round(shares[least], 4),
        "least": f"{least[2]} by {least[1]}, {' and '.join(least[0])} off",
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, default=Path("build/subsets"), help="folder of the increments")
    arguments.add_argument("--seeds", type=int, default=3)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    base.unet.to(memory_format=torch.channels_last)
    library, keep = with_keep_list(base, "decoupled", args.work)
    results, sampling = Results(args.out, args.shard), SamplingSettings(inference_steps=10)
    index, shards = map(int, args.shard.split("/"))
    cases = list(itertools.product(OFF, range(args.seeds)))

    def seen(name: str, off: tuple[str, ...], seed: int) -> dict:
        wanted = [picture for group in TEMPLATES for picture in pictures(off, group)]
        return results.get(
            f"{name}/{'+'.join(off)}/{seed}",
            lambda: look(base, judge, wanted, sampling, first_seed=500 + 100 * seed),
        )

    table, found = {}, {}
    for name, options in {"base": None, **VARIANTS}.items():
        made = Composer(base.unet, library, **{"keep": keep, **(options or {})})
        for off, seed in cases[index::shards]:
            with made.erased(*(off if options is not None else ())):
                found.setdefault(name, {})[off, seed] = seen(name, off, seed)
        if shards == 1 and options is not None:
            table[name] = {group: summarise(found[name], found["base"], group) for group in TEMPLATES}
            print(f"{name:36s}", table[name], file=sys.stderr, flush=True)
    if shards > 1:
        return
    results.finish(
        {
            "benchmark": "siblings", "templates": TEMPLATES, "subjects": SUBJECTS, "seeds": args.seeds,
            "sampling": asdict(sampling), "table": table,
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
