"""Write the embedded suite ``typefaces``: prompts with seeds and labels, as CSV.

    python scripts/build_type/suites.py --work build/type

Every typeface with two glyphs, each in one of four kinds of sentence, two of which no erasure is
trained on. A glyph has the same noise whatever it is set in.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from captions import BOTH, UNSEEN, fill
from glyphs import GLYPHS, load_renders

import multierase

FOLDER = Path(multierase.__file__).parent / "assets" / "suites"
FORMS = (BOTH[0], UNSEEN[0], BOTH[2], UNSEEN[1])
COLUMNS = ("case_number", "prompt", "evaluation_seed", "typeface", "glyph")
STRIDE, APART = 5, 19  # glyphs from one typeface to the next, and between a typeface's two


def rows(typefaces: list[str]) -> list[tuple[int, str, int, str, str]]:
    """Return the suite's cases."""
    found = []
    for place, typeface in enumerate(typefaces):
        for turn in range(2):
            seed = (place * STRIDE + turn * APART) % len(GLYPHS)
            form = FORMS[(place + 3 * turn) % len(FORMS)]
            prompt = fill((form,), GLYPHS[seed], typeface)[0]
            found.append((len(found), prompt, seed, typeface, GLYPHS[seed]))

    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()

    with (arguments.out / "typefaces.csv").open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file, lineterminator="\n")
        written.writerows([COLUMNS, *rows(load_renders(arguments.work).typefaces)])


if __name__ == "__main__":
    main()
