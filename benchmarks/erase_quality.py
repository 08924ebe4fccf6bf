"""Is every studio erased alone with the default settings, and nothing else?

    python benchmarks/erase_quality.py --out benchmarks/results/erase_quality.json

Each studio is erased by its bare name, with several seeds. The judge then looks at ordinary sentences that were not
trained on: the share of the studio's own pictures still in its hand, of the other studios' pictures relative to the
base's share, and the subject of the erased studio's pictures. Prints a table on stderr and one JSON object on stdout;
go on after an interruption with the same command. Half an hour on one core; ``--shard 0/2`` and ``--shard 1/2`` share
the erasures between two processes, and a last call without gathers them.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict

import torch
from harness import Results, parser

from multierase.base import load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.evaluation.accuracy import studio_accuracy
from multierase.evaluation.judges import EmojiJudge
from multierase.training import EraseSettings, erase

OWN_SUBJECTS = [
    *EMOJI_SUBJECTS[1::8],
    *EMOJI_SUBJECTS[2::8],
    *EMOJI_SUBJECTS[3::8],
]  # none of them in the sentences that the base lists as known
OTHER_SUBJECTS = EMOJI_SUBJECTS[2::6]


def measure(base, judge, concept: str, settings: EraseSettings) -> dict:
    """Erase ``concept`` alone and judge what is left of it and of the others."""
    increment = erase(base, concept, settings)
    composer = Composer(base.unet, {concept: increment})
    with composer.erased(concept):
        own = studio_accuracy(base, judge, [concept], OWN_SUBJECTS, seed=settings.seed)[concept]
        others = [studio for studio in EMOJI_STUDIOS if studio != concept]
        rest = studio_accuracy(base, judge, others, OTHER_SUBJECTS, seed=settings.seed)
    keys = ("stop_reason", "steps", "erasure_degree", "unet_evaluations", "seconds")
    return {
        "own_studio": own.studio,
        "own_subject": own.subject,
        "others_studio": {studio: share.studio for studio, share in rest.items()},
        "others_subject": statistics.mean(share.subject for share in rest.values()),
        **{key: increment.info[key] for key in keys},
    }


def reference(base, judge, seed: int) -> dict:
    """The same pictures on the base: what the shares are relative to."""
    shares = studio_accuracy(base, judge, list(EMOJI_STUDIOS), OTHER_SUBJECTS, seed=seed)
    own = studio_accuracy(base, judge, list(EMOJI_STUDIOS), OWN_SUBJECTS, seed=seed)
    return {
        "others_studio": {studio: share.studio for studio, share in shares.items()},
        "own_studio": {studio: share.studio for studio, share in own.items()},
    }


def relative(run: dict, reference: dict) -> float:
    """What the other studios keep of the base's share."""
    others = run["others_studio"]
    return statistics.mean(others.values()) / statistics.mean(reference["others_studio"][s] for s in others)


def summarise(runs: dict[str, dict], references: dict[str, dict], seeds: int) -> dict:
    """Per studio the median over seeds, and the worst."""
    rows = {}
    for studio in EMOJI_STUDIOS:
        mine = [runs[f"{studio}/{seed}"] for seed in range(seeds)]
        columns = {
            "base": [references[str(seed)]["own_studio"][studio] for seed in range(seeds)],
            "erased": [run["own_studio"] for run in mine],
            "others_relative": [relative(run, references[str(seed)]) for seed, run in enumerate(mine)],
            "subject": [run["own_subject"] for run in mine],
            "unet_evaluations": [run["unet_evaluations"] for run in mine],
        }
        rows[studio] = {
            name: {
                "median": round(statistics.median(values), 4),
                "min": round(min(values), 4),
                "max": round(max(values), 4),
            }
            for name, values in columns.items()
        }
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    index, shards = map(int, args.shard.split("/"))
    results = Results(args.out, args.shard)
    work = [f"{studio}/{seed}" for seed in range(args.seeds) for studio in EMOJI_STUDIOS]
    for seed in range(args.seeds):
        if index == seed % shards or shards == 1:
            results.get(f"base/{seed}", lambda seed=seed: reference(base, judge, seed))
    for key in work[index::shards]:
        studio, seed = key.split("/")
        results.get(key, lambda studio=studio, seed=seed: measure(base, judge, studio, EraseSettings(seed=int(seed))))
        print(key, json.dumps(results.done[key])[:160], file=sys.stderr, flush=True)
    if shards > 1:
        return
    runs = {key: results.done[key] for key in work}
    references = {str(seed): results.done[f"base/{seed}"] for seed in range(args.seeds)}
    rows = summarise(runs, references, args.seeds)
    for studio, row in rows.items():
        print(
            f"{studio:22s}"
            + "  ".join(f"{k} {v['median']:.3f} [{v['min']:.3f}, {v['max']:.3f}]" for k, v in row.items()),
            file=sys.stderr,
        )
    report = {
        "benchmark": "erase_quality", "settings": asdict(EraseSettings()), "seeds": args.seeds,
        "pictures_own": len(OWN_SUBJECTS), "pictures_others": len(OTHER_SUBJECTS) * (len(EMOJI_STUDIOS) - 1),
        "studios": rows,
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
