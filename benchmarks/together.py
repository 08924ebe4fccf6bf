"""Half of the subjects and all studios of `emoji` erased together: what remains, and what is kept?

    python benchmarks/together.py --out benchmarks/results/together.json

36 of 72 subjects and all nine studios, each erased by its own run with the default settings, and
composed: the subjects alone, the studios alone, and all 45 together, jointly and summed. The judge
looks at every subject by studios by chance, in sentences of the base's list and in ones that are in
none, and at every subject without a studio. Prints a table on stderr and one JSON object on stdout;
resumable. Increments are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness import Results, begin, harmonic_mean, parser, quickened, rounded
from seeing import STUDIO, SUBJECT, Observer, Picture, Seen, kept_share, share
from studios import CANDIDATES

from multierase import Composer, EraseSettings, Model, SamplingSettings, Workspace
from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS, SUBJECT_ONLY, SUBJECTS

HALF = tuple(sorted(random.Random(0).sample(SUBJECTS, len(SUBJECTS) // 2)))
SETS = {"subjects": HALF, "studios": STUDIOS, "together": (*HALF, *STUDIOS)}
SOLVES = ("joint", "sum")
TEMPLATES = {"listed": STUDIO_AND_SUBJECT, "unlisted": CANDIDATES[:8]}
PICTURES = 3  # of each subject, in each group of templates


def asked(quick: bool) -> dict[str, list[Picture]]:
    """Draw pictures of each subject by chance: by studios in either group, and without one."""
    chance, pictures = random.Random(1), {}
    subjects = SUBJECTS[:4] if quick else SUBJECTS
    for group, templates in TEMPLATES.items():
        choices = list(itertools.product(templates, STUDIOS))
        pictures[group] = []
        for subject in subjects:
            for template, studio in chance.sample(choices, 1 if quick else PICTURES):
                pictures[group].append(Picture(template, studio, subject))
    pictures["alone"] = [
        Picture(template, STUDIOS[0], subject)
        for template in SUBJECT_ONLY[:2]
        for subject in subjects
    ]

    return pictures


def workspace_of(model: Model, arguments: argparse.Namespace, seed: int) -> Workspace:
    """Return a workspace with every increment of one seed; what is missing is trained."""
    work = arguments.work / ("quick" if arguments.quick else f"seed-{seed}")
    workspace = Workspace(work, model, create=True)
    settings = EraseSettings(seed=seed)
    if arguments.quick:
        settings = quickened(settings)
    names = [*HALF[:2], *STUDIOS[:2]] if arguments.quick else SETS["together"]
    for kind, chosen in (("object", set(HALF)), ("studio", set(STUDIOS))):
        missing = [name for name in names if name in chosen and name not in workspace.library]
        if missing:
            own = replace(settings, kind=kind)
            workspace.train(*missing, settings=own, beside=names, resume=True, progress=True)

    return workspace


def cell_of(
    now: Seen, base: Seen, pictures: Sequence[Picture], erased: Sequence[str], of_studios: bool
) -> dict[str, float]:
    """Return what remains of erased subjects and studios, and what the others keep.

    Args:
        of_studios: whether the pictures were asked of studios.
    """
    gone = [picture for picture in pictures if picture.subject in erased]
    kept = [picture for picture in pictures if picture.subject not in erased]
    cell = {}
    if gone:
        cell["subjects_remaining"] = share(now, gone)[SUBJECT]
    if kept:
        cell["subjects_kept"] = kept_share(now, base, kept, SUBJECT)
    if of_studios:
        gone = [picture for picture in pictures if picture.studio in erased]
        others = [picture for picture in pictures if picture.studio not in erased]
        if gone:
            cell["studios_remaining"] = share(now, gone)[STUDIO]
        if others:
            cell["studios_kept"] = kept_share(now, base, others, STUDIO)

    remaining = [cell[name] for name in cell if name.endswith("remaining")]
    stays = [cell[name] for name in cell if name.endswith("kept")]
    if remaining and stays:
        cell["h"] = harmonic_mean(statistics.mean(remaining), statistics.mean(stays))
    return rounded(cell)


def main() -> None:
    options = parser(__doc__, shards=False)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the erasures")
    options.add_argument(
        "--work", type=Path, default=Path("build/together"), help="folder of the increments"
    )
    arguments = options.parse_args()
    model, results = begin(arguments), Results(arguments.out)
    sampling = SamplingSettings(inference_steps=2 if arguments.quick else 10)
    observer, pictures = Observer(model, sampling), asked(arguments.quick)
    every = [picture for group in pictures.values() for picture in group]
    base = results.get("base", lambda: observer.see(every))

    table: dict[str, Any] = {}
    for seed in arguments.seeds[: 1 if arguments.quick else None]:
        workspace = workspace_of(model, arguments, seed)
        for solve, name in itertools.product(SOLVES, SETS):
            erased = [one for one in SETS[name] if one in workspace.library]
            keep = workspace.keep_list if solve == "joint" else None
            eraser = Composer(model, workspace.library, solve=solve, keep=keep)
            now = results.get(
                f"{seed}/{solve}/{name}", lambda e=eraser, g=erased: observer.see(every, e, g)
            )
            for group, own in pictures.items():
                cell = cell_of(now, base, own, erased, group != "alone")
                table.setdefault(solve, {}).setdefault(name, {}).setdefault(group, {})[seed] = cell
                print(f"{solve:6s}{name:9s}{group:9s}", seed, cell, file=sys.stderr, flush=True)

    results.finish(
        {
            "benchmark": "together",
            "subjects": HALF,
            "sampling": asdict(sampling),
            "templates": TEMPLATES,
            "table": table,
        }
    )


if __name__ == "__main__":
    main()
