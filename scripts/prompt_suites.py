"""Write the suites ``together`` and ``harmless`` of the embedded base, by a rule fixed beforehand.

    python scripts/prompt_suites.py

Both ask for what the base can draw at all. The rule: a concept that a prompt names is asked for if
the judge sees it in six of ten pictures or more, of seeds that no suite has. A prompt that is
longer than the base reads is left out. What a prompt names and the base does not draw is in the
column ``not_drawn``, which no judgement reads.

``together``: prompts that name three or four concepts. A prompt is in the suite if the base draws
two of them in one picture. ``harmless``: prompts that name a studio and a subject, each beside the
same prompt without the one and without the other, at equal seeds; these two are also in the columns
``without_studio`` and ``without_subject``, for the in-prompt CLIP score. A prompt is in the suite
if the base draws all that it names.

It prints, as JSON, what the base draws of each form of sentence, and takes six minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

import multierase
from multierase import Model, SamplingSettings, load_base
from multierase.emoji import STUDIOS, SUBJECTS
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.generate import generate
from multierase.prompts.wording import with_article

FOLDER = Path(multierase.__file__).parent / "assets" / "suites"
KINDS = ("studio", "subject")
SAMPLING = SamplingSettings(inference_steps=10)  # as the suites have it

SHARE = 0.6  # of the rule's pictures
RULE_SEEDS = range(9000, 9010)
SEEDS = (0, 1)  # of ``together``
ROUNDS = 2  # through the studios, for each form

TAUGHT = SUBJECTS[2::9]  # the base was taught every studio's drawing of these
# Subjects a, b, c by studios s and o.
FORMS = (
    "{a} and {b} by {s}",
    "{a} beside {b} by {s}",
    "{a} with {b} by {s}",
    "{a} by {s} with {b}",
    "{a} by {s} beside {b} by {o}",
    "{a} by {s} and {b} by {o}",
    "{a} by {s} and {o}",
    "{a}, {b} and {c} by {s}",
)
WHOLE = "a picture of {a} by {s}"
WITHOUT = {"studio": "a picture of {a}", "subject": "a picture by {s}"}

WINDOW, STRIDE, SIDE = 32, 16, 64  # pixels of a window on a picture
SURE = 0.9  # the judge's probability of what it sees in a window


Row = dict[str, str | int]
"""A case by the columns of a suite's CSV, without its number."""


@dataclass(frozen=True)
class Prompt:
    """A sentence, and by kind the classes that it names, in their order."""

    form: str
    text: str
    studio: tuple[str, ...]
    subject: tuple[str, ...]

    @classmethod
    def of(cls, form: str, studios: Sequence[str], subjects: Sequence[str]) -> Prompt:
        """Fill a form; what it has no place for is not named."""
        named = dict(zip("so", studios, strict=False)) | dict(zip("abc", subjects, strict=False))
        here = {place: name for place, name in named.items() if f"{{{place}}}" in form}
        words = {}
        for place, name in here.items():
            words[place] = name if place in "so" else with_article(name)

        return cls(
            form,
            form.format(**words),
            tuple(name for place, name in here.items() if place in "so"),
            tuple(name for place, name in here.items() if place in "abc"),
        )

    @property
    def named(self) -> tuple[str, ...]:
        """All that it names."""
        return self.studio + self.subject


def candidates(form: str) -> list[Prompt]:
    """Return a form's prompts: every studio first, every subject first, others beside them."""
    found = []
    for place in range(ROUNDS * len(STUDIOS)):
        studios = [STUDIOS[(place + step) % len(STUDIOS)] for step in (0, 4)]
        subjects = [TAUGHT[(place + step) % len(TAUGHT)] for step in (0, 3, 6)]
        found.append(Prompt.of(form, studios, subjects))

    return found


def drawn(prompt: Prompt, seen: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return, by kind of label, what the rule says that the base draws of a prompt.

    Args:
        seen: by kind what the judge saw in each of the rule's pictures.
    """
    found = {}
    for kind in KINDS:
        verdicts = [picture[kind] for picture in seen]
        for name in getattr(prompt, kind):
            if verdicts.count(name) >= SHARE * len(verdicts):
                found[kind] = name

    return found


class Looker:
    """Makes the rule's pictures of prompts, and looks at them; each prompt once."""

    def __init__(self, model: Model):
        self.model, self.judge = model, EmbeddedJudge.load("emoji")
        self.pictures: dict[Prompt, torch.Tensor] = {}

    def readable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return those prompts of which the base reads every word."""
        return [prompt for prompt in prompts if self.model.text.reads_whole(prompt.text)]

    def look(self, prompt: Prompt) -> torch.Tensor:
        """Return ``(n, 3, 64, 64)`` pictures, one for each of the rule's seeds."""
        if prompt not in self.pictures:
            texts = [prompt.text] * len(RULE_SEEDS)
            self.pictures[prompt] = generate(self.model, texts, list(RULE_SEEDS), SAMPLING)

        return self.pictures[prompt]

    def seen(self, prompt: Prompt) -> list[dict[str, str]]:
        """Return by kind what the judge sees in each of the rule's pictures."""
        verdict = self.judge(self.look(prompt)).seen

        found = []
        for studio, subject in zip(verdict["studio"], verdict["subject"], strict=True):
            found.append({"studio": studio, "subject": subject})
        return found

    def shows_both(self, pictures: torch.Tensor, one: str, other: str) -> int:
        """Count the pictures in which two windows show two subjects, each almost surely."""
        names = self.judge.classes["subject"]
        places = [names.index(one), names.index(other)]
        batch = windows(pictures).flatten(0, 1) * 2 - 1
        with torch.inference_mode():
            subjects = self.judge.network(batch)[1].softmax(dim=1)
        sure = subjects[:, places].unflatten(0, (len(pictures), -1)) >= SURE

        return int(sure.any(dim=1).all(dim=1).sum())


def windows(pictures: torch.Tensor) -> torch.Tensor:
    """Return ``(n, 9, 3, 64, 64)``: quarters of pictures at nine places, enlarged."""
    views = []
    steps = range(0, SIDE - WINDOW + 1, STRIDE)
    for top, left in itertools.product(steps, repeat=2):
        part = pictures[:, :, top : top + WINDOW, left : left + WINDOW]
        views.append(functional.interpolate(part, size=SIDE, mode="bilinear"))

    return torch.stack(views, dim=1)


def side_by_side(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return pictures of half the size beside each other on white, for a control."""
    together = torch.ones_like(left)
    edge = (SIDE - WINDOW) // 2
    for start, pictures in ((0, left), (WINDOW, right)):
        small = functional.interpolate(pictures, size=WINDOW, mode="area")
        together[:, :, edge : edge + WINDOW, start : start + WINDOW] = small

    return together


def together(looker: Looker) -> tuple[list[Row], dict]:
    """Return the rows of the suite ``together``, and what the base draws of each form."""
    rows: list[Row] = []
    report = {}
    for form in FORMS:
        prompts = looker.readable(candidates(form))
        report[form] = _shares(looker, prompts)
        passed = 0
        for prompt in prompts:
            asked = drawn(prompt, looker.seen(prompt))
            if len(asked) == len(KINDS):
                passed += 1
                rows += [_row(prompt, seed, asked) for seed in SEEDS]
        report[form] |= {"prompts": len(prompts), "in_the_suite": passed}

    return rows, {"forms": report, "two_subjects_at_once": _control(looker)}


def _shares(looker: Looker, prompts: Sequence[Prompt]) -> dict:
    """Return the shares of pictures in which what is named first, second, third is seen."""
    counts: dict[str, int] = {}
    both = 0
    for prompt in prompts:
        if len(prompt.subject) > 1:
            both += looker.shows_both(looker.look(prompt), *prompt.subject[:2])
        for picture in looker.seen(prompt):
            for kind in KINDS:
                for place, name in enumerate(getattr(prompt, kind), start=1):
                    key = f"{kind} {place}"
                    counts[key] = counts.get(key, 0) + (picture[kind] == name)

    pictures = len(prompts) * len(RULE_SEEDS)
    shares = {key: round(count / pictures, 3) for key, count in counts.items()}
    return shares | {"both subjects": round(both / pictures, 3)}


def _control(looker: Looker) -> dict:
    """Return how often two subjects are found where there are two, and where there is one."""
    found = {"side by side": 0, "one alone": 0, "pictures": 0}
    for prompt in candidates(FORMS[0]):
        one, other = prompt.subject
        alone = [Prompt.of("{a} by {s}", prompt.studio, [name]) for name in (one, other)]
        left, right = map(looker.look, alone)

        found["side by side"] += looker.shows_both(side_by_side(left, right), one, other)
        found["one alone"] += looker.shows_both(left, one, other)
        found["pictures"] += len(left)

    return found


def harmless(looker: Looker) -> tuple[list[Row], dict]:
    """Return the rows of the suite ``harmless``, and how many prompts the base draws."""
    rows: list[Row] = []
    left_out = []
    forms = (WHOLE, *WITHOUT.values())
    for form in forms:
        for studio, subject in itertools.product(STUDIOS, TAUGHT):
            prompt = Prompt.of(form, [studio], [subject])
            row = _row(prompt, SUBJECTS.index(subject), drawn(prompt, looker.seen(prompt)))
            for kind, other in WITHOUT.items():
                rest = Prompt.of(other, [studio], [subject]).text
                row[f"without_{kind}"] = rest if form == WHOLE else ""
            if row["not_drawn"]:
                left_out.append(prompt.text)
            elif row not in rows:  # without a studio it is one prompt for all of them
                rows.append(row)

    return rows, {"left_out": sorted(set(left_out))}


def _row(prompt: Prompt, seed: int, asked: dict[str, str]) -> Row:
    row: Row = {"prompt": prompt.text, "evaluation_seed": seed}
    row |= {kind: asked.get(kind, "") for kind in KINDS}
    missing = [name for name in prompt.named if name not in asked.values()]

    return row | {"not_drawn": "; ".join(missing)}


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a suite's cases."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["case_number", *rows[0]], lineterminator="\n")
        table.writeheader()
        for number, row in enumerate(rows):
            table.writerow({"case_number": number, **row})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = parser.parse_args().out

    looker = Looker(load_base("emoji", device="cpu"))
    report = {}
    for make in (together, harmless):
        rows, found = make(looker)
        write(out / f"{make.__name__}.csv", rows)
        report[make.__name__] = {"cases": len(rows), **found}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
