"""Write the embedded suites: prompts with seeds and labels, as CSV.

    python scripts/build_base/suites.py

``studios``: every studio with eight subjects, in four kinds of sentence, two of which no erasure is
trained on. ``subjects``: every subject by two studios. A subject has the same noise whoever draws
it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import multierase
from multierase.emoji import STUDIOS, SUBJECTS, fill

FOLDER = Path(multierase.__file__).parent / "assets" / "suites"
TEMPLATES = (
    "{a_subject} by {studio}",
    "an image of {a_subject} by {studio}",
    "{studio} {subject}",
    "{subject} art by {studio}",
)
COLUMNS = ("case_number", "prompt", "evaluation_seed", "studio", "subject")
APART = 4  # places in the list of studios between a subject's two

Pairs = list[tuple[str, str]]


def write(path: Path, pairs: Pairs) -> None:
    """Write a suite's cases, one for each studio and subject."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for number, (studio, subject) in enumerate(pairs):
            seed = SUBJECTS.index(subject)
            template = TEMPLATES[(STUDIOS.index(studio) + seed) % len(TEMPLATES)]
            (prompt,) = fill((template,), studio, subject)
            rows.writerow([number, prompt, seed, studio, subject])


def subjects_by_two() -> Pairs:
    """Return every subject with two studios."""
    pairs = []
    for place, subject in enumerate(SUBJECTS):
        for shift in (0, APART):
            pairs.append((STUDIOS[(place + shift) % len(STUDIOS)], subject))

    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = parser.parse_args().out

    write(out / "studios.csv", list(itertools.product(STUDIOS, SUBJECTS[2::9])))
    write(out / "subjects.csv", subjects_by_two())


if __name__ == "__main__":
    main()
