"""What becomes of the words that a dictionary leaves out?

    python benchmarks/dictionary_share.py --out benchmarks/results/dictionary_share.json

Three studios are erased together by the default settings, beside a dictionary that has a random
share of its words; the sentences that train the studios are the same for every share. The other
studios' pictures are judged, those of listed subjects and of unlisted ones apart: whether they
still show the studio, and the subject. With a share of 0 the kind's captions and names alone are
kept, as by a list that was written by hand.

``--bases`` names them as for ``any_base.py``. Shares may be divided between processes with
``--shard``; a last call without it reports. Prints a table on stderr and one JSON object on stdout.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from bases.base import Base
from harness import Results, parser, quickened
from seeing import every

from multierase import EraseSettings, Model, SamplingSettings, Workspace
from multierase.generate import generate
from multierase.prompts.kind import Kind
from multierase.separation import dictionary, vocabulary
from multierase.training.defaults import kind_of

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
ERASED = (0, 4, 6)  # places in a base's list of studios
SUBJECTS = 48  # judged, or all that there are
SAMPLING = SamplingSettings(inference_steps=12, guidance_scale=3.0)

Judged = Mapping[str, Sequence[bool]]
"""By ``studio|subject`` whether the studio is seen, and the subject."""


def a_share(share: float, seed: int) -> Callable[[Model, Kind], list[str]]:
    """Return what gives a random share of a dictionary's words, in their order."""
    words_of = vocabulary.words_of

    def words(model: Model, kind: Kind) -> list[str]:
        whole = words_of(model, kind)
        chosen = frozenset(random.Random(seed).sample(whole, round(share * len(whole))))
        return [word for word in whole if word in chosen]

    return words


def judged(base: Base, model: Model, quick: bool) -> Judged:
    """Judge one picture of each studio and subject."""
    stride = max(1, len(base.subjects) // (4 if quick else SUBJECTS))
    subjects = base.subjects[::stride]
    pictures = every(base.forms[:1], subjects, list(base.studios))
    # A subject's seed is its place, so that all are compared by the same noise.
    seeds = [subjects.index(picture.subject) for picture in pictures]
    sampling = SamplingSettings(inference_steps=2) if quick else SAMPLING
    seen = base.judge(generate(model, [one.prompt for one in pictures], seeds, sampling)).seen

    found = {}
    for picture, studio, subject in zip(pictures, seen["studio"], seen["subject"], strict=True):
        right = studio == base.studios[picture.studio], subject == picture.subject
        found[f"{picture.studio}|{picture.subject}"] = right
    return found


def erased_beside(base: Base, share: float, seed: int, quick: bool) -> dict[str, Any]:
    """Erase three studios beside a share of the dictionary, and judge what is drawn then."""
    model, studios = base.load(own_list=False), list(base.studios)
    erased = [studios[place] for place in ERASED]
    settings = EraseSettings(seed=seed)
    few = a_share(share, seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        # The training's own sentences are about all words, whatever the share.
        mock.patch.object(vocabulary, "words_of", few),
        mock.patch.object(dictionary, "words_of", few),
    ):
        workspace = Workspace(folder, model)
        settings = quickened(settings) if quick else settings
        workspace.train(*erased, settings=settings, progress=True)
        words = dictionary.words_of(model, kind_of(model, settings.kind))
        workspace.set(dict.fromkeys(erased, 1.0))
        pictures = judged(base, model, quick)

    return {"erased": erased, "words": words, "pictures": pictures}


def row(base: Judged, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what remains, and which shares of the base's right pictures are still right."""
    words = {word.lower() for word in found["words"]}
    sides: dict[str, list[tuple[Sequence[bool], Sequence[bool]]]] = {}
    for key, after in found["pictures"].items():
        studio, subject = key.split("|")
        if studio in found["erased"]:
            side = "erased"
        else:
            side = "listed" if words.issuperset(subject.lower().split()) else "unlisted"
        sides.setdefault(side, []).append((base[key], after))

    shares: dict[str, Any] = {"words": len(words)}
    erased = sides.pop("erased")
    shares["remaining"] = round(statistics.mean(after[0] for _, after in erased), 4)
    for side, pairs in sides.items():
        kept: dict[str, float] = {"pictures": len(pairs)}
        for place, what in enumerate(("studio", "subject")):
            still = [after[place] for before, after in pairs if before[place]] or [False]
            kept[what] = round(statistics.mean(still), 4)
        shares[side] = kept

    return shares


def show(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print a table on stderr."""
    for base, rows in table.items():
        print(f"{base}: words, remaining, then kept studio and subject", file=sys.stderr)
        for share, found in rows.items():
            line = f"  {share:>9} {found['words']:5} {found['remaining']:6.1%}"
            for side in ("unlisted", "listed"):
                if side in found:
                    studio, subject = (found[side][what] for what in ("studio", "subject"))
                    line += f"   {side} {studio:6.1%} {subject:6.1%}"
            print(line, file=sys.stderr)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bases", nargs="+", default=["emoji"], help="emoji, or folders")
    options.add_argument("--seeds", nargs="+", type=int, default=[0], help="of words and training")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    quick, shard = arguments.quick, arguments.shard
    results = Results(arguments.out, shard)

    table: dict[str, dict[str, dict]] = {}
    for base in map(Base.of, arguments.bases):
        before = results.get(base.name, lambda b=base: judged(b, b.load(own_list=True), quick))
        shares = SHARES[::4] if quick else SHARES
        pieces = list(itertools.product(shares, arguments.seeds))
        for share, seed in shard.of(pieces):
            key = f"{base.name}, {share:g}, {seed}"
            found = results.get(key, lambda b=base, s=share, d=seed: erased_beside(b, s, d, quick))
            table.setdefault(base.name, {})[f"{share:g}, {seed}"] = row(before, found)

    show(table)
    if shard.is_whole:
        results.finish({"benchmark": "dictionary_share", "table": table})


if __name__ == "__main__":
    main()
