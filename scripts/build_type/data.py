"""Fetch the pinned typefaces, check hashes and licences, and render their glyphs.

    python scripts/build_type/data.py --work build/type --all
    python scripts/build_type/choose.py --work build/type
    python scripts/build_type/data.py --work build/type

With ``--all`` it renders every candidate, for choose.py to choose from; then only those chosen.
Writes ``renders.npz`` (``candidates.npz`` with ``--all``) and a sheet to look at. Needs ``npm`` to
fetch the packages and ``fonttools`` to read which letters a font has. A minute on one core, and
some minutes more for the first download.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont
from glyphs import GLYPHS, RESOLUTION, SIZES, Renders, save_renders
from PIL import Image, ImageDraw, ImageFont
from sources import HERE, Source, fetch, font_of, load_sources
from tqdm import tqdm

CHOSEN = HERE / "chosen.json"
FINER = 4  # drawn so many times larger, then averaged: no hinting, and even greys
REFERENCE = 200  # pixels, of the font in which sizes are measured
USUAL = 46  # pixels: the larger side of a typeface's glyphs, half of them below
LARGEST = 55  # of one glyph; at the largest size there remain two pixels of white on every side


def unfit(data: io.BytesIO) -> str:
    """Return why a font cannot be used, or nothing."""
    known = TTFont(io.BytesIO(data.getvalue())).getBestCmap()
    missing = [glyph for glyph in GLYPHS if ord(glyph) not in known]

    return f"it has no {' '.join(missing)}" if missing else ""


def larger_side(font: ImageFont.FreeTypeFont, glyph: str) -> float:
    left, top, right, bottom = font.getbbox(glyph, anchor="ls")

    return max(right - left, bottom - top)


def draw(data: io.BytesIO, glyph: str, points: float) -> np.ndarray:
    """Draw one glyph in the middle of the picture, uint8 ``(64, 64)``."""
    data.seek(0)
    font = ImageFont.truetype(data, points * FINER)
    side = RESOLUTION * FINER
    left, top, right, bottom = font.getbbox(glyph, anchor="ls")
    canvas = Image.new("L", (side, side), 255)
    place = ((side - right - left) / 2, (side - bottom - top) / 2)
    ImageDraw.Draw(canvas).text(place, glyph, fill=0, font=font, anchor="ls")

    return np.asarray(canvas.reduce(FINER))


def render(data: io.BytesIO) -> np.ndarray:
    """Draw every glyph in every size, uint8 ``(glyph, size, 64, 64)``.

    A typeface has one size, at which half of its glyphs are smaller than ``USUAL``; a glyph that
    would not fit is drawn smaller.
    """
    data.seek(0)
    reference = ImageFont.truetype(data, REFERENCE)
    sides = [larger_side(reference, glyph) for glyph in GLYPHS]
    usual = USUAL / statistics.median(sides)

    drawn = []
    for glyph, side in zip(GLYPHS, sides, strict=True):
        points = REFERENCE * min(usual, LARGEST / side)
        drawn.append([draw(data, glyph, points * size) for size in SIZES])
    return np.array(drawn)


def wanted(every: bool) -> list[Source]:
    """Return all sources, or those that were chosen."""
    sources = load_sources()
    if every:
        return sources

    chosen = json.loads(CHOSEN.read_text(encoding="utf-8"))
    return [source for source in sources if source.name in chosen]


def sheet(renders: Renders, glyphs: str = "AGQRSIO07") -> Image.Image:
    """Lay out some glyphs of every typeface, two typefaces to a row, with their names."""
    places = [GLYPHS.index(glyph) for glyph in glyphs]
    columns, label = 2, 190
    width = label + RESOLUTION * len(places)
    rows = -(-len(renders.typefaces) // columns)
    page = Image.new("L", (width * columns, RESOLUTION * rows), 255)
    pen = ImageDraw.Draw(page)

    for number, name in enumerate(renders.typefaces):
        left, top = width * (number // rows), RESOLUTION * (number % rows)
        pen.text((left + 4, top + 24), name, fill=0, font=ImageFont.load_default(14))
        for column, place in enumerate(places):
            picture = Image.fromarray(renders.images[number, place, 0].numpy())
            page.paste(picture, (left + label + column * RESOLUTION, top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    parser.add_argument("--all", action="store_true", help="every candidate, to choose from")
    args = parser.parse_args()
    folder = args.work / "npm"
    folder.mkdir(parents=True, exist_ok=True)

    images, names = [], []
    for source in tqdm(wanted(args.all), desc="typefaces"):
        fetch(source, folder)
        data = font_of(source, folder)
        if why := unfit(data):
            tqdm.write(f"left out {source.name}: {why}")
            continue
        images.append(render(data))
        names.append(source.name)

    renders = Renders(torch.from_numpy(np.stack(images)), names)
    name = "candidates" if args.all else "renders"
    save_renders(renders, args.work / f"{name}.npz")
    sheet(renders).save(args.work / f"{name}.png")
    print(f"{args.work / name}.npz: {len(names)} typefaces x {len(GLYPHS)} glyphs")


if __name__ == "__main__":
    main()
