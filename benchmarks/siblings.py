"""Studios that share words and hand: with one of a family erased, do its siblings stay?

    python benchmarks/siblings.py --out benchmarks/results/siblings.json

Which joint solve keeps them best? Every subset of the two families that leaves a sibling, with the
increments of ``subsets.py``: what remains of the erased, what is kept of the siblings relative to
the base, by the judge, with templates that were trained on and others, and several seeds of noise.
Also what the worst single subject of a sibling keeps: a studio is not kept if it has lost one of
its subjects. Prints a table on stderr and one JSON object on stdout; resumable, and to be shared
between processes with ``--shard``.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness import Results, begin, parser
from seeing import STUDIO, Observer, Picture, Seen, every
from studios import FAMILIES, TAUGHT, with_keep_list

from multierase import Composer, SamplingSettings

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

Erased = tuple[str, ...]
Case = tuple[Erased, int]
"""A subset, and a seed."""


def cases_of(seeds: int) -> list[Case]:
    """Return every subset that leaves a sibling, with each seed."""
    subsets: list[Erased] = []
    for family in FAMILIES:
        for size in range(1, len(family)):
            subsets += itertools.combinations(family, size)

    return list(itertools.product(subsets, range(seeds)))


def family_of(erased: Erased) -> tuple[str, ...]:
    return next(family for family in FAMILIES if set(erased) <= set(family))


def pictures(erased: Erased, group: str, subjects: Sequence[str]) -> list[Picture]:
    """Return a picture of each of the family's studios, by template and subject."""
    return every(TEMPLATES[group], subjects, family_of(erased))


def summarise(
    now: Mapping[Case, Seen], base: Mapping[Case, Seen], group: str, subjects: Sequence[str]
) -> dict[str, float | str]:
    """Return a variant's cell of the table, over subsets and seeds."""
    remaining, kept, kept_by_base = [], [], []
    by_subject: dict[tuple, list[tuple[bool, bool]]] = {}
    for (erased, seed), seen in now.items():
        for picture in pictures(erased, group, subjects):
            value, before = seen[str(picture)][STUDIO], base[erased, seed][str(picture)][STUDIO]
            if picture.studio in erased:
                remaining.append(value)
                continue
            kept.append(value)
            kept_by_base.append(before)
            key = (erased, picture.studio, picture.subject)
            by_subject.setdefault(key, []).append((value, before))

    shares = {}
    for key, pairs in by_subject.items():
        seen_now, seen_before = (sum(column) for column in zip(*pairs, strict=True))
        shares[key] = seen_now / max(seen_before, 1)
    least = min(shares, key=shares.get)
    erased, studio, subject = least

    return {
        "erased": round(statistics.mean(remaining), 4),
        "kept": round(statistics.mean(kept) / statistics.mean(kept_by_base), 4),
        "kept_least": round(shares[least], 4),
        "least": f"{subject} by {studio}, {' and '.join(erased)} erased",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--work", type=Path, default=Path("build/subsets"), help="folder of the increments"
    )
    options.add_argument("--seeds", type=int, default=3)
    arguments = options.parse_args()
    model, quick = begin(arguments), arguments.quick
    library, keep = with_keep_list(model, "decoupled", arguments.work, quick=quick)

    subjects = TAUGHT[:1] if quick else TAUGHT
    cases = cases_of(1 if quick else arguments.seeds)
    cases = arguments.shard.of(cases[:2] if quick else cases)
    sampling = SamplingSettings(inference_steps=10)
    observer, results = Observer(model, sampling), Results(arguments.out, arguments.shard)

    def seen(name: str, composer: Composer | None) -> dict[Case, Seen]:
        """Judge every case by a variant, or by the base without a composer."""
        found = {}
        for erased, seed in cases:
            asked = [p for group in TEMPLATES for p in pictures(erased, group, subjects)]
            found[erased, seed] = results.get(
                f"{name}/{'+'.join(erased)}/{seed}",
                lambda asked=asked, erased=erased, seed=seed: observer.see(
                    asked,
                    composer,
                    () if composer is None else erased,
                    subjects=TAUGHT,
                    first_seed=500 + 100 * seed,
                ),
            )
        return found

    base, table = seen("base", None), {}
    for name, options_of_solve in VARIANTS.items():
        now = seen(name, Composer(model, library, keep=keep, **options_of_solve))
        if arguments.shard.is_whole:
            table[name] = {group: summarise(now, base, group, subjects) for group in TEMPLATES}
            print(f"{name:36s}", table[name], file=sys.stderr, flush=True)
    if not arguments.shard.is_whole:
        return

    results.finish(
        {
            "benchmark": "siblings",
            "templates": TEMPLATES,
            "subjects": subjects,
            "seeds": arguments.seeds,
            "sampling": asdict(sampling),
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
