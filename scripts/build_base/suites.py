"""Write the embedded suites: prompts with seeds and labels, as CSV.

    python scripts/build_base/suites.py

``studios``: every studio with eight subjects, in four kinds of sentence, two of which no erasure is trained on.
``subjects``: every subject by two studios. A subject has the same noise whoever draws it.
"""

import csv
import itertools
from pathlib import Path

import multierase
from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS, fill

FOLDER = Path(multierase.__file__).parent / "assets" / "suites"
TEMPLATES = (
    "{a_subject} by {studio}", "an image of {a_subject} by {studio}", "{studio} {subject}", "{subject} art by {studio}"
)  # fmt: skip


def write(name: str, pairs: list[tuple[str, str]]) -> None:
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["case_number", "prompt", "evaluation_seed", "studio", "subject"])
        for number, (studio, subject) in enumerate(pairs):
            template = TEMPLATES[(EMOJI_STUDIOS.index(studio) + EMOJI_SUBJECTS.index(subject)) % len(TEMPLATES)]
            seed = EMOJI_SUBJECTS.index(subject)
            rows.writerow([number, fill((template,), studio, subject)[0], seed, studio, subject])


write("studios", list(itertools.product(EMOJI_STUDIOS, EMOJI_SUBJECTS[2::9])))
write(
    "subjects",
    [
        (EMOJI_STUDIOS[(place + shift) % len(EMOJI_STUDIOS)], subject)
        for place, subject in enumerate(EMOJI_SUBJECTS)
        for shift in (0, 4)
    ],
)
