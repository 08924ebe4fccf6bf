"""Up to 40 of 72 subjects off, by separate increments: how much is erased and kept, as the concepts grow past the rank?

    python benchmarks/capacity.py --out benchmarks/results/capacity.json

The subjects go in one order by chance. For each number off and each solve, the judge looks at every subject drawn by
studios by chance, with (a) templates that the erasures were trained on and (b) ones that they were not (those of
``subsets.py``), beside the base's pictures of the same prompts and seeds. Prints a table on stderr and one JSON object
on stdout; resumable. Increments are kept in ``--work``; ``--train`` makes them and nothing else, in ``--shard``s.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from harness import Results, trained
from subsets import CANDIDATES, Picture, look, share

from multierase.base import load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS, STUDIO_AND_SUBJECT, SUBJECT_ONLY, Concept, fill
from multierase.decoupling import KeepList
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings
from multierase.training import EraseSettings

ORDER = tuple(random.Random(0).sample(EMOJI_SUBJECTS, 40))
COUNTS = (1, 2, 4, 8, 16, 24, 32, 40)
SOLVES = ("sum", "joint", "project")
# A subject's degree falls slowly, long after the pictures are without it.
SETTINGS = EraseSettings(schedule="frozen", steps=240, learning_rate=5e-2, keep_weight=10.0, stop_at=-0.6)
TEMPLATES = {"listed": STUDIO_AND_SUBJECT, "unlisted": CANDIDATES[:8]}
PICTURES = 3  # of each subject, for either group of templates


def subject(name: str) -> Concept:
    """A subject in a sentence with every studio. The base's own list has studios with a quarter of the subjects."""
    templates = itertools.cycle(STUDIO_AND_SUBJECT)
    sentences = {name: ""} | dict.fromkeys(fill(SUBJECT_ONLY, "", name), "")
    sentences |= {fill((next(templates),), studio, name)[0]: studio for studio in EMOJI_STUDIOS}
    return Concept(name, tuple(sentences), tuple(sentences.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/capacity"), help="folder of the increments")
    parser.add_argument("--train", action="store_true", help="make the increments, then end")
    parser.add_argument("--shard", default="0/1", help="of --train")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    base.unet.to(memory_format=torch.channels_last)
    index, shards = map(int, args.shard.split("/"))
    library = trained(base, args.work, [(subject(name), SETTINGS) for name in ORDER[index::shards]])
    if args.train:
        return
    results, sampling = Results(args.out, "0/1"), SamplingSettings(inference_steps=10)
    chance = random.Random(1)
    pictures = {
        group: [
            Picture(template, studio, name)
            for name in EMOJI_SUBJECTS
            for template, studio in chance.sample(list(itertools.product(templates, EMOJI_STUDIOS)), PICTURES)
        ]
        for group, templates in TEMPLATES.items()
    }
    wanted = [picture for group in pictures.values() for picture in group]
    reference = results.get("base", lambda: look(base, judge, wanted, sampling, EMOJI_SUBJECTS))
    keep = KeepList.of(base.text, base.known_prompts, library)
    table: dict[str, dict] = {}
    for solve, count in itertools.product(SOLVES, COUNTS):
        off = ORDER[:count]
        with Composer(base.unet, library, solve=solve, keep=keep).erased(*off):
            right = results.get(f"{solve}/{count}", lambda: look(base, judge, wanted, sampling, EMOJI_SUBJECTS))
        for group, listed in pictures.items():
            erased = [p for p in listed if p.subject in off]
            kept = [p for p in listed if p.subject not in off]
            (kept_studio, kept_subject), (base_studio, base_subject) = share(right, kept), share(reference, kept)
            cell = {
                "erased": share(right, erased)[1],
                "kept": kept_subject / base_subject,
                "kept_studios": kept_studio / base_studio,
            }
            cell["harmonic_mean"] = statistics.harmonic_mean([1 - cell["erased"], min(cell["kept"], 1)])
            cell = {name: round(value, 4) for name, value in cell.items()}
            table.setdefault(solve, {}).setdefault(group, {})[count] = cell
            print(f"{solve:8s} {group:9s} {count:3d}", cell, file=sys.stderr, flush=True)
    report = {
        "benchmark": "capacity", "order": ORDER, "settings": asdict(SETTINGS), "sampling": asdict(sampling),
        "templates": TEMPLATES, "pictures": PICTURES, "table": table,
        "unet_evaluations": round(statistics.mean(library[name].info["unet_evaluations"] for name in ORDER)),
    }  # fmt: skip
    results.finish(report)


if __name__ == "__main__":
    main()
