"""The demonstration: two studios erased one after the other, the first given back bit for bit, seen and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from multierase.base import Base
from multierase.composer import Composer
from multierase.concepts import EMOJI_SUBJECTS, fill
from multierase.evaluation.accuracy import studio_accuracy
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import contact_sheet, generate, save_picture
from multierase.library import Library, replacing
from multierase.training import EraseSettings, erase

FIRST, SECOND = "Twemoji", "Firefox"
UNTOUCHED = ("EmojiOne", "Fluent High Contrast")
SHOWN = ("church", "sunflower")
JUDGED = EMOJI_SUBJECTS[::6]


def states(first: str = FIRST, second: str = SECOND) -> dict[str, tuple[str, ...]]:
    """The rows: what is off in each."""
    return {
        "base": (),
        f"{first} off": (first,),
        "both off": (first, second),
        f"{first} restored": (second,),
        "all restored": (),
    }


def run_demo(base: Base, folder: Path, settings: EraseSettings, *, progress: bool = False) -> dict:
    """Run it and write ``sheet.png``, ``report.json`` and ``lib/``; returns the report."""
    began = time.perf_counter()
    library = Library(folder / "lib", create=True)
    evaluations = {}
    for concept in (FIRST, SECOND):
        increment = erase(base, concept, settings, progress=progress)
        library.save(increment)
        evaluations[concept] = increment.info["unet_evaluations"]
    composer, judge = Composer(base.unet, library), EmojiJudge.load()
    studios = (FIRST, SECOND, *UNTOUCHED)
    prompts = [
        fill(("{a_subject} by {studio}",), studio, subject)[0]
        for studio in studios
        for subject in SHOWN
    ]
    pristine = _weights(base)
    rows, accuracy, weights = [], {}, {}
    for state, off in states().items():
        composer.set(dict.fromkeys(off, 1.0))
        weights[state] = _weights(base)
        rows.append(generate(base, prompts, [7] * len(prompts), progress=False))
        judged = studio_accuracy(base, judge, studios, JUDGED, progress=progress)
        accuracy[state] = {studio: share.studio for studio, share in judged.items()}
    sheet = contact_sheet(
        torch.cat(rows), len(prompts), row_labels=list(states()), column_labels=prompts
    )
    save_picture(sheet, folder / "sheet.png")
    never = Composer(
        base.unet, library
    )  # a second composer: it has never heard of the first studio
    never.erase(SECOND)
    report = {
        "accuracy": accuracy,
        "bit_exact": {
            "restored_equals_never_erased": _equal(weights[f"{FIRST} restored"], _weights(base)),
            "all_restored_equals_base": _equal(weights["all restored"], pristine),
        },
        "unet_evaluations": evaluations,
        "seconds": round(time.perf_counter() - began, 1),
        "judged_pictures": len(JUDGED),
        "settings": asdict(settings),
    }
    never.restore_all()
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    return report


def _weights(base: Base) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in base.unet.named_parameters()}


def _equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
