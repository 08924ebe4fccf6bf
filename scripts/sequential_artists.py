"""Erase several artists one after another, then restore the first: to be copied and edited.

    python scripts/sequential_artists.py --base emoji --out sequence/ Twemoji Noto EmojiOne

Each artist becomes one file in ``<out>/lib``; an artist already there is not erased again. The
sheet has a row for each stage, always with the same seeds: the base, one artist more erased in each
row, and at the end the first one restored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from multierase import EraseSettings, Workspace
from multierase.pictures import contact_sheet, erased_in_words, save_picture


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artists", nargs="+")
    parser.add_argument("--base", default="emoji")
    parser.add_argument("--out", type=Path, default=Path("sequence"))
    parser.add_argument("--prompt", default="a church by {artist}")
    parser.add_argument("--seed", type=int, default=0)

    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    artists, out = arguments.artists, arguments.out
    workspace = Workspace(out / "lib", arguments.base, create=True)

    # Each is erased from the base itself, with nothing else erased, so that any can be restored.
    missing = [artist for artist in artists if artist not in workspace.library]
    if missing:
        workspace.train(*missing, settings=EraseSettings(seed=arguments.seed), progress=True)

    prompts = [arguments.prompt.format(artist=artist) for artist in artists]
    seeds = [arguments.seed] * len(prompts)
    labels, rows = ["base"], [workspace.generate(prompts, seeds)]
    for artist in artists:
        workspace.erase(artist)
        labels.append(erased_in_words(workspace.erased))
        rows.append(workspace.generate(prompts, seeds))

    workspace.restore(artists[0])
    labels.append(f"{artists[0]} restored")
    rows.append(workspace.generate(prompts, seeds))

    sheet = contact_sheet(torch.cat(rows), len(prompts), row_labels=labels, column_labels=prompts)
    save_picture(sheet, out / "sheet.png")
    print(out / "sheet.png")


if __name__ == "__main__":
    main()
