"""Any set of studios off: how much of the erased is left, how much of the rest is kept, over all 512 subsets?

    python benchmarks/subsets.py --out benchmarks/results/subsets.json

Nine studios, nine increments trained apart, put together in several ways; UCE's closed form, solved anew for every
subset, as the outside reference. For every subset the judge looks at pictures of erased and of kept studios, with (a)
the templates that the erasures were trained on and (b) templates that are in no list, of training or of keeping, of the
base or of erasures: those of ``CANDIDATES`` on which the base itself is right about 95 % of studios and of subjects
(measured first, and in the results). A subset's prompts are drawn by its number, the same for every method, and set
against the base's own pictures of these very prompts and seeds.

``--per_size`` takes some subsets of each size by chance. Prints a table on stderr and one JSON object on stdout;
resumable, and to be shared between processes with ``--shard``. Increments are kept in ``--work``; ``--train`` makes
them and nothing else.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness import Results, parser, trained

from multierase.base import Base, load_base
from multierase.composer import Composer
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS, STUDIO_AND_SUBJECT, Concept, fill
from multierase.decoupling import KeepList
from multierase.evaluation.baselines import UCE
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings, generate
from multierase.library import Library
from multierase.training import EraseSettings

CANDIDATES = (
    "an image of {a_subject} by {studio}", "{a_subject} in {studio} style", "{subject} in the style of {studio}",
    "{studio} style {subject}", "{a_subject}, {studio}", "the {subject} by {studio}", "{subject} art by {studio}",
    "{subject}, {studio} art", "{a_subject}, by {studio}", "a {studio} picture of {a_subject}",
    "{studio} art of {a_subject}", "a picture of {a_subject} in the style of {studio}", "{studio}: {a_subject}",
    "a picture by {studio} of {a_subject}", "an image in the style of {studio}, {a_subject}",
    "drawing of {a_subject}, {studio}", "{studio} icon of {a_subject}",
)  # fmt: skip
UNDERSTOOD = 0.95  # of studios, and of subjects, by the base
SUBJECTS = EMOJI_SUBJECTS[2::9]  # a slice in which the base was taught every pair of studio and subject
MORE_PICTURES = 40  # the same, of subsets that are looked at again
PICTURES = 10  # at least, of a subset's erased, and of its kept studios, for either group of templates
FAMILIES = (("Fluent", "Fluent Flat", "Fluent High Contrast"), ("EmojiOne", "EmojiOne Mono"))  # share words and hand
OTHER_STUDIOS = {studio: tuple(other for other in EMOJI_STUDIOS if other != studio) for studio in EMOJI_STUDIOS}

# All but ours on latents of their own, as published: the frozen schedule.
FROZEN = {"schedule": "frozen", "steps": 240, "learning_rate": 5e-2, "stop_at": -0.9, "keep_weight": 10.0}
FREE = {**FROZEN, "decouple": False, "known": False, "keep_weight": 0.0}
# All are trained on the same sentences with the same guidance, and stop by the same rule where they can, so that they
# differ in what may change and in the objective alone. "{others}" stands for the other studios' names.
TRAININGS = {
    "decoupled": {},
    "decoupled, keep loss": {"keep_weight": 10.0, "steps": 30},
    "decoupled, half the rate": {"learning_rate": 0.05},
    "decoupled, frozen": FROZEN,
    "ESD-x": {**FREE, "scope": "esd-x", "free_learning_rate": 3e-4},
    "ESD-x-strict": {**FREE, "free_learning_rate": 3e-4},
    "SepME": {
        **FROZEN, "objective": "correlation", "regularizer": "l1", "beta": 1e-6, "stop_at": -0.5, "known": False,
        "keep": "{others}", "keep_weight": 0.0, "learning_rate": 2e-2, "tolerance": 1e-3,
    },
    "ESD in SepME's null space": {
        **FROZEN, "known": False, "keep": "{others}", "keep_weight": 0.0, "learning_rate": 2e-2, "tolerance": 1e-3,
    },
    "correlation, decoupled": {**FROZEN, "objective": "correlation", "stop_at": -0.5},
}  # fmt: skip
# Name: which increments, and how they are put together.
METHODS = {
    "decoupled, sum": ("decoupled", "sum"),
    "decoupled, joint": ("decoupled", "joint"),
    "decoupled, keep loss, joint": ("decoupled, keep loss", "joint"),
    "decoupled, half the rate, joint": ("decoupled, half the rate", "joint"),
    "decoupled, frozen, sum": ("decoupled, frozen", "sum"),
    "decoupled, frozen, joint": ("decoupled, frozen", "joint"),
    "decoupled, project": ("decoupled", "project"),
    "ESD-x, sum": ("ESD-x", "sum"),
    "ESD-x-strict, sum": ("ESD-x-strict", "sum"),
    "ESD-x-strict, joint": ("ESD-x-strict", "joint"),
    "SepME, sum": ("SepME", "sum"),
    "ESD in SepME's null space, sum": ("ESD in SepME's null space", "sum"),
    "correlation, decoupled, sum": ("correlation, decoupled", "sum"),
    "UCE": (None, None),
}


def settings_of(training: str, studio: str) -> EraseSettings:
    options = dict(TRAININGS[training])
    if options.get("keep") == "{others}":
        options["keep"] = OTHER_STUDIOS[studio]
    return EraseSettings(**options)


def library_of(base: Base, training: str, work: Path, studios: Sequence[str] = EMOJI_STUDIOS) -> Library:
    folder = work / training.replace(" ", "-").replace("'", "").replace(",", "")
    concepts = {studio: Concept(studio).with_sentences(base.known_prompts) for studio in studios}
    return trained(base, folder, [(concept, settings_of(training, studio)) for studio, concept in concepts.items()])


def with_keep_list(base: Base, training: str, work: Path) -> tuple[Library, KeepList]:
    library = library_of(base, training, work)
    return library, KeepList.of(base.text, base.known_prompts, library)


def composer(base: Base, method: str, work: Path) -> Composer | UCE:
    training, solve = METHODS[method]
    if training is None:
        return UCE(base, [EMOJI_STUDIOS])
    library, keep = with_keep_list(base, training, work)
    return Composer(base.unet, library, solve=solve, keep=keep)


@dataclass(frozen=True)
class Picture:
    template: str
    studio: str
    subject: str

    def __str__(self):
        return "|".join((self.template, self.studio, self.subject))


def look(
    base: Base,
    judge: EmojiJudge,
    pictures: Sequence[Picture],
    sampling: SamplingSettings,
    subjects: Sequence[str] = SUBJECTS,
    first_seed: int = 0,
) -> dict[str, list]:
    """Per picture whether the judge sees its studio, and its subject. A subject's seed is its place in ``subjects``,
    whoever drew it."""
    prompts = [fill((p.template,), p.studio, p.subject)[0] for p in pictures]
    seen = judge(generate(base, prompts, [first_seed + subjects.index(p.subject) for p in pictures], sampling)).seen
    return {
        str(p): [studio == p.studio, subject == p.subject]
        for p, studio, subject in zip(pictures, seen["studio"], seen["subject"], strict=True)
    }


def share(right: dict[str, list], pictures: Sequence[Picture]) -> list[float]:
    """Of studios and of subjects."""
    return [statistics.mean(column) for column in zip(*(right[str(p)] for p in pictures), strict=True)]


def every(templates: Sequence[str], subjects: Sequence[str] = SUBJECTS) -> list[Picture]:
    return list(itertools.starmap(Picture, itertools.product(templates, EMOJI_STUDIOS, subjects)))


def subsets(per_size: int) -> dict[tuple[str, ...], int]:
    """All subsets that erase any, or ``per_size`` of each size by chance; with their numbers among all."""
    sizes = range(1, len(EMOJI_STUDIOS) + 1)
    every = [off for size in sizes for off in itertools.combinations(EMOJI_STUDIOS, size)]
    chance, chosen = random.Random(0), set(every)
    if per_size:
        of_size = [[off for off in every if len(off) == size] for size in sizes]
        chosen = {off for listed in of_size for off in chance.sample(listed, min(per_size, len(listed)))}
    return {off: number for number, off in enumerate(every) if off in chosen}


def drawn(
    off: Sequence[str], number: int, templates: Sequence[str], pictures: int = PICTURES
) -> dict[str, list[Picture]]:
    """A subset's pictures of its erased and of its kept studios."""
    chance, found = random.Random(f"{number}/{templates}"), {}
    for side, studios in (("erased", off), ("kept", [s for s in EMOJI_STUDIOS if s not in off])):
        each = max(2, math.ceil(pictures / len(studios))) if studios else 0
        choices = list(itertools.product(templates, SUBJECTS))
        found[side] = [Picture(t, studio, s) for studio in studios for t, s in chance.sample(choices, each)]
    return found


def summarise(
    rows: dict[str, dict], method: str, templates: Sequence[str], chosen: dict, reference: dict
) -> dict[str | int, dict]:
    """By size, and over all: erased and, relative to the base's own pictures of the same prompts, kept."""
    table, by_studio = {}, {studio: ([], []) for studio in EMOJI_STUDIOS}
    columns = ("erased", "erased_subjects", "kept", "kept_subjects")
    cells = {size: {column: [] for column in columns} for size in range(1, len(EMOJI_STUDIOS) + 1)}
    for off, number in chosen.items():
        right, pictures, cell = rows[f"{method}/{'+'.join(off)}"], drawn(off, number, templates), cells[len(off)]
        for side, column in (("erased", 0), ("erased", 1), ("kept", 0), ("kept", 1)):
            if pictures[side]:
                now, base = share(right, pictures[side])[column], share(reference, pictures[side])[column]
                value = now if (side, column) == ("erased", 0) else now / base
                cell[side + "_subjects" * column].append(value)
        for p in pictures["kept"]:
            by_studio[p.studio][0].append(right[str(p)][0])
            by_studio[p.studio][1].append(reference[str(p)][0])
    whole = {column: [v for cell in cells.values() for v in cell[column]] for column in columns}
    for size, cell in [*((size, cell) for size, cell in cells.items() if cell["erased"]), ("all", whole)]:
        worst = {"erased": max}
        found = {"subsets": len(cell["erased"])}
        for column in filter(cell.get, columns):
            found[column] = statistics.mean(cell[column])
            found[f"{column}_worst"] = worst.get(column, min)(cell[column])
        if cell["kept"]:
            found["harmonic_mean"] = statistics.harmonic_mean([1 - found["erased"], min(found["kept"], 1)])
        table[size] = {key: round(value, 4) for key, value in found.items()}
    # What a studio has while others are off is what it gets back when it is restored: the composer's state is a set.
    kept = {studio: statistics.mean(now) / statistics.mean(base) for studio, (now, base) in by_studio.items() if now}
    table["all"]["restored_least"] = round(min(kept.values()), 4)
    return table


def siblings(
    rows: dict[str, dict], method: str, templates: Sequence[str], chosen: dict, reference: dict
) -> dict[str, dict]:
    """What each studio with siblings keeps of the base's, while one of them is off and while none is."""
    found = {}
    for studio in itertools.chain(*FAMILIES):
        (family,) = (family for family in FAMILIES if studio in family)
        sides = {"sibling off": ([], []), "no sibling off": ([], [])}
        for off, number in chosen.items():
            now, base = sides["sibling off" if set(off) & set(family) else "no sibling off"]
            for picture in drawn(off, number, templates)["kept"]:
                if picture.studio == studio:
                    now.append(rows[f"{method}/{'+'.join(off)}"][str(picture)][0])
                    base.append(reference[str(picture)][0])
        found[studio] = {
            side: round(statistics.mean(now) / statistics.mean(base), 4) for side, (now, base) in sides.items() if now
        }
    return found


def judge_again(
    base: Base,
    judge: EmojiJudge,
    results: Results,
    method: str,
    made: Composer | UCE,
    done: dict,
    groups: dict,
    sampling: SamplingSettings,
) -> dict[str, dict[str, dict]]:
    """The subsets that were worse than the targets for single subsets, 10 % erased or 90 % kept, with more pictures of
    other noise: which of them are so, and which had ten unlucky pictures."""
    found: dict[str, dict[str, dict]] = {group: {} for group in groups}
    for (group, templates), (off, number) in itertools.product(groups.items(), done.items()):
        name = "+".join(off)
        sides = drawn(off, number, templates)
        right, reference = results.done[f"{method}/{name}"], results.done["base"]
        erased = share(right, sides["erased"])[0]
        kept = share(right, sides["kept"])[0] / share(reference, sides["kept"])[0] if sides["kept"] else 1
        if erased <= 0.1 and kept >= 0.9:
            continue
        more = drawn(off, number, templates, MORE_PICTURES)
        wanted = [*more["erased"], *more["kept"]]
        options = {"sampling": sampling, "first_seed": 1000 + 100 * number}
        before = results.get(f"again/base/{group}/{name}", lambda w=wanted, o=options: look(base, judge, w, **o))
        with made.erased(*off):
            now = results.get(f"again/{method}/{group}/{name}", lambda w=wanted, o=options: look(base, judge, w, **o))
        cell = {"erased": erased, "kept": kept, "erased_again": share(now, more["erased"])[0]}
        if more["kept"]:
            cell["kept_again"] = share(now, more["kept"])[0] / share(before, more["kept"])[0]
        found[group][name] = {key: round(value, 4) for key, value in cell.items()}
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, default=Path("build/subsets"), help="folder of the increments")
    arguments.add_argument("--per_size", type=int, default=0, help="subsets of each size; 0 for all")
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--inference_steps", type=int, default=10)
    arguments.add_argument("--train", action="store_true", help="make the increments, then end")
    arguments.add_argument("--again", nargs="*", choices=METHODS, default=[], help="look at the worst subsets again")
    arguments.add_argument("--report", action="store_true", help="say what has been measured so far, measure no more")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    base, judge = load_base("emoji", device="cpu"), EmojiJudge.load()
    base.unet.to(memory_format=torch.channels_last)  # a fifth faster here
    index, shards = map(int, args.shard.split("/"))
    if args.train:
        for training in dict.fromkeys(METHODS[method][0] for method in args.methods):
            if training:
                library_of(base, training, args.work, EMOJI_STUDIOS[index::shards])
        return
    sampling = SamplingSettings(inference_steps=args.inference_steps)
    results, chosen = Results(args.out, args.shard), subsets(args.per_size)
    reference = results.get("base", lambda: look(base, judge, every(CANDIDATES + STUDIO_AND_SUBJECT), sampling))
    shares = {template: share(reference, every([template])) for template in CANDIDATES}
    groups = {"listed": STUDIO_AND_SUBJECT, "unlisted": [t for t in CANDIDATES if min(shares[t]) >= UNDERSTOOD]}
    for method in [] if args.report else args.methods:
        made = composer(base, method, args.work)
        for off, number in list(chosen.items())[index::shards]:
            wanted = [
                p for templates in groups.values() for side in drawn(off, number, templates).values() for p in side
            ]
            with made.erased(*off):
                results.get(f"{method}/{'+'.join(off)}", lambda w=wanted: look(base, judge, w, sampling))
        print(method, file=sys.stderr, flush=True)
    if shards > 1:
        return
    table = {}
    for method in args.methods:
        done = {off: number for off, number in chosen.items() if f"{method}/{'+'.join(off)}" in results.done}
        if done:
            table[method] = {g: summarise(results.done, method, t, done, reference) for g, t in groups.items()}
            for group, templates in groups.items():
                table[method][group]["siblings"] = siblings(results.done, method, templates, done, reference)
        if done and method in args.again:
            made = composer(base, method, args.work)
            for group, found in judge_again(base, judge, results, method, made, done, groups, sampling).items():
                table[method][group]["again"] = found
    for method, group in itertools.product(table, groups):
        for size, cell in table[method][group].items():
            print(f"{method:32s} {group:9s} {size!s:8s}", cell, file=sys.stderr)
    report = {
        "benchmark": "subsets", "per_size": args.per_size, "sampling": asdict(sampling), "subjects": SUBJECTS,
        "base_on_candidates": {t: [round(v, 3) for v in s] for t, s in shares.items()},
        "templates": groups, "trainings": TRAININGS, "table": table,
    }  # fmt: skip
    results.finish(report, keep=args.report)


if __name__ == "__main__":
    main()
