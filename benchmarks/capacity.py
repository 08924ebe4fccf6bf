"""Up to 40 of 72 subjects erased, each by its own increment: what remains, and what is kept?

    python benchmarks/capacity.py --out benchmarks/results/capacity.json

Concepts grow past the rank of the text embedding. The subjects go in one order by chance. For each
number of them and each solve, the judge looks at every subject drawn by studios by chance, with (a)
templates that the erasures were trained on and (b) ones that they were not (those of
``subsets.py``), beside the base's pictures of the same prompts and seeds. Prints a table on stderr
and one JSON object on stdout; resumable. Increments are kept in ``--work``; ``--train`` makes them
and nothing else, in ``--shard``s.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness import Results, begin, harmonic_mean, parser, quickened, rounded, trained
from projecting import Projecting
from seeing import STUDIO, SUBJECT, Observer, Picture, Seen, kept_share, share
from studios import CANDIDATES

from multierase import Composer, Concept, EraseSettings, KeepList, Library, Model, SamplingSettings
from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS, SUBJECT_ONLY, SUBJECTS, fill
from multierase.evaluation.erasers import Eraser

ORDER = tuple(random.Random(0).sample(SUBJECTS, 40))
COUNTS = (1, 2, 4, 8, 16, 24, 32, 40)
SOLVES = ("sum", "joint", "project")
# A subject's degree falls slowly, long after the pictures are without it.
SETTINGS = EraseSettings(
    schedule="frozen",
    steps=240,
    start_at=1.0,
    learning_rate=5e-2,
    keep_weight=10.0,
    stop_at=-0.6,
)
TEMPLATES = {"listed": STUDIO_AND_SUBJECT, "unlisted": CANDIDATES[:8]}
PICTURES = 3  # of each subject, for either group of templates


def concept_of(subject: str) -> Concept:
    """Return a subject in a sentence with every studio.

    The base's own list has studios with a quarter of the subjects.
    """
    templates = itertools.cycle(STUDIO_AND_SUBJECT)
    sentences = {subject: "", **dict.fromkeys(fill(SUBJECT_ONLY, "", subject), "")}
    for studio in STUDIOS:
        (sentence,) = fill((next(templates),), studio, subject)
        sentences[sentence] = studio

    return Concept(subject, tuple(sentences), tuple(sentences.values()))


def drawn(subjects: Sequence[str], count: int) -> dict[str, list[Picture]]:
    """Draw pictures of each subject by chance, for either group of templates."""
    chance, pictures = random.Random(1), {}
    for group, templates in TEMPLATES.items():
        choices = list(itertools.product(templates, STUDIOS))
        pictures[group] = []
        for name in subjects:
            for template, studio in chance.sample(choices, count):
                pictures[group].append(Picture(template, studio, name))

    return pictures


def eraser_of(model: Model, library: Library, solve: str, keep: KeepList) -> Eraser:
    """Return what erases by a solve."""
    if solve == "project":
        return Projecting(model, library, keep=keep)

    return Composer(model, library, solve=solve, keep=keep)


def cell_of(
    now: Seen, base: Seen, pictures: Sequence[Picture], gone: Sequence[str]
) -> dict[str, float]:
    """Return what remains of the erased subjects, and what the others keep of the base's."""
    erased = [picture for picture in pictures if picture.subject in gone]
    kept = [picture for picture in pictures if picture.subject not in gone]
    cell = {
        "erased": share(now, erased)[SUBJECT],
        "kept": kept_share(now, base, kept, SUBJECT),
        "kept_studios": kept_share(now, base, kept, STUDIO),
    }
    cell["harmonic_mean"] = harmonic_mean(cell["erased"], cell["kept"])

    return rounded(cell)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--work", type=Path, default=Path("build/capacity"), help="folder of the increments"
    )
    options.add_argument("--train", action="store_true", help="make the increments, then end")
    arguments = options.parse_args()
    model, quick = begin(arguments), arguments.quick

    order = ORDER[:2] if quick else ORDER
    counts = [count for count in COUNTS if count <= len(order)]
    settings = quickened(SETTINGS) if quick else SETTINGS
    work = arguments.work / "quick" if quick else arguments.work
    wanted = [(concept_of(name), settings) for name in arguments.shard.of(order)]
    library = trained(model, work, wanted)
    if arguments.train or not arguments.shard.is_whole:
        return

    results, sampling = Results(arguments.out), SamplingSettings(inference_steps=10)
    observer = Observer(model, sampling)
    listed = [*order, *SUBJECTS[:4]] if quick else SUBJECTS
    pictures = drawn(listed, 1 if quick else PICTURES)
    asked = [picture for group in pictures.values() for picture in group]
    base = results.get("base", lambda: observer.see(asked))
    keep = KeepList.cached(library.folder, model, model.known_prompts, library)

    table: dict[str, dict] = {}
    for solve in SOLVES:
        eraser = eraser_of(model, library, solve, keep)
        table[solve] = {group: {} for group in pictures}
        for count in counts:
            gone = order[:count]
            now = results.get(
                f"{solve}/{count}", lambda e=eraser, g=gone: observer.see(asked, e, g)
            )
            for group, own in pictures.items():
                cell = table[solve][group][count] = cell_of(now, base, own, gone)
                print(f"{solve:8s} {group:9s} {count:3d}", cell, file=sys.stderr, flush=True)

    costs = [library.header(name).provenance.cost.evaluations for name in order]
    results.finish(
        {
            "benchmark": "capacity",
            "order": order,
            "settings": asdict(settings),
            "sampling": asdict(sampling),
            "templates": TEMPLATES,
            "pictures": PICTURES,
            "table": table,
            "unet_evaluations": round(statistics.mean(costs)),
        }
    )


if __name__ == "__main__":
    main()
