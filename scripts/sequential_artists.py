"""Erase several artists one after another, then restore one: what a user copies and edits.

    python scripts/sequential_artists.py --base emoji --out sequence/ Twemoji Noto EmojiOne

Each artist becomes one file in ``<out>/lib``; an artist already there is not erased again. The sheet has a row for each
moment: the base, each artist off in turn, and at the end the first one back.
"""

import argparse
from pathlib import Path

import torch

from multierase import Composer, EraseSettings, Library, erase, load_base
from multierase.generate import contact_sheet, generate, save_picture

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("artists", nargs="+")
parser.add_argument("--base", default="emoji")
parser.add_argument("--out", type=Path, default=Path("sequence"))
parser.add_argument("--prompt", default="a church by {artist}")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

base = load_base(arguments.base)
library = Library(arguments.out / "lib", create=True)
composer = Composer(base.unet, library)
prompts = [arguments.prompt.format(artist=artist) for artist in arguments.artists]
seeds = [arguments.seed] * len(prompts)

for artist in arguments.artists:  # from the base itself, with nothing off: so any of them can be restored alone
    if artist not in library:
        library.save(erase(base, artist, EraseSettings(seed=arguments.seed), progress=True))

labels, rows = ["base"], [generate(base, prompts, seeds)]
for artist in arguments.artists:
    composer.erase(artist)
    labels.append(f"{artist} off")
    rows.append(generate(base, prompts, seeds))
composer.restore(arguments.artists[0])
labels.append(f"{arguments.artists[0]} back")
rows.append(generate(base, prompts, seeds))

sheet = contact_sheet(torch.cat(rows), len(prompts), row_labels=labels, column_labels=prompts)
save_picture(sheet, arguments.out / "sheet.png")
print(arguments.out / "sheet.png")
