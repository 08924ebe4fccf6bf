"""Choose typefaces that differ plainly from each other, glyph by glyph.

    python scripts/build_type/choose.py --work build/type

Two typefaces are apart in shape, by the glyphs in which they are most alike: a fifth of them is
nearer than that, by edges and ink in each cell. And they are apart in style, whatever the glyph:
width of strokes and counters, slant, proportions. The sum of both decides. Families of siblings are
taken on purpose; then, one after another, the typeface that is farthest from all taken. Reads
``candidates.npz``, writes ``chosen.json`` beside this file and prints the nearest pairs. Seconds.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from data import CHOSEN
from glyphs import Renders, load_renders
from torch.nn import functional as F

# One design in some forms: a user may want one of them away and the others to stay.
SIBLINGS = (
    ("Bungee", "Bungee Outline", "Bungee Inline", "Bungee Shade"),
    ("Londrina Solid", "Londrina Outline", "Londrina Shadow"),
    ("Kumar One", "Kumar One Outline"),
    ("Fascinate", "Fascinate Inline"),
    ("Ribeye", "Ribeye Marrow"),
    ("Rubik Mono One", "Rubik Glitch", "Rubik Wet Paint"),
)
# Seen on the sheet, or by the judge: glyphs that cannot be told apart or read at 64 pixels.
ILLEGIBLE = ("Rubik Puddles",)
DIRECTIONS, CELLS = 8, 8
ALIKE = 0.2  # share of the glyphs
WIDTHS = (3, 5, 7, 9, 13)  # pixels, of strokes and counters


def edges(ink: torch.Tensor) -> torch.Tensor:
    """Return ``(n, direction, 64, 64)`` edges of ``(n, 1, 64, 64)`` ink in [0, 1]."""
    padded = F.pad(ink, (1, 1, 1, 1))
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2

    maps = []
    for step in range(DIRECTIONS):
        angle = 2 * math.pi * step / DIRECTIONS
        maps.append(F.relu(math.cos(angle) * across + math.sin(angle) * down))
    return torch.cat(maps, 1)


def shape(ink: torch.Tensor) -> torch.Tensor:
    """Return ``(n, f)``: edges by direction, and ink, in each cell."""
    cells = F.adaptive_avg_pool2d(torch.cat([ink, edges(ink)], 1), CELLS).sqrt()

    return F.normalize(cells.flatten(1), dim=1)


def opened(ink: torch.Tensor, width: int) -> torch.Tensor:
    """Return the ink without strokes that are narrower than ``width`` pixels."""
    thinner = -F.max_pool2d(-ink, width, 1, width // 2)

    return F.max_pool2d(thinner, width, 1, width // 2)


def style(ink: torch.Tensor) -> torch.Tensor:
    """Return ``(n, f)``: what is alike in all glyphs of a typeface."""
    by_direction = edges(ink).mean(dim=(2, 3))
    total = by_direction.sum(1, keepdim=True)
    found = [ink.mean(dim=(1, 2, 3))[:, None], total, by_direction / total.clamp(min=1e-6)]
    for width in WIDTHS:
        found.append(opened(ink, width).mean(dim=(1, 2, 3))[:, None])
        found.append(opened(1 - ink, width).mean(dim=(1, 2, 3))[:, None])

    for side in (2, 3):
        found.append((ink.amax(dim=side).squeeze(1) > 0.5).float().mean(1, keepdim=True))
    return torch.cat(found, 1)


def distances(renders: Renders) -> torch.Tensor:
    """Return ``(typeface, typeface)``: shape and style together, each by its median."""
    count, glyphs = renders.images.shape[:2]
    shapes, styles = torch.zeros(glyphs, count, count), []
    for glyph in range(glyphs):
        ink = 1 - renders.images[:, glyph, 0].float()[:, None] / 255
        own = shape(ink)
        shapes[glyph] = torch.cdist(own, own)
        styles.append(style(ink))

    mean = torch.stack(styles).mean(0)
    mean = (mean - mean.mean(0)) / mean.std(0)
    apart = shapes.quantile(ALIKE, dim=0), torch.cdist(mean, mean)
    return sum(each / each[each > 0].median() for each in apart)


def farthest_first(apart: torch.Tensor, first: list[int], count: int) -> list[int]:
    """Add to ``first`` the one that is farthest from all taken, until there are ``count``."""
    taken = list(first)
    nearest = apart[taken].min(dim=0).values
    while len(taken) < min(count, len(apart)):
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, apart[taken[-1]])

    return taken


def nearest_pairs(
    apart: torch.Tensor, names: list[str], count: int
) -> list[tuple[float, str, str]]:
    """Return the pairs that are most alike, with their distance."""
    pairs = []
    for row in range(len(names)):
        for column in range(row):
            pairs.append((round(apart[row, column].item(), 3), names[row], names[column]))

    return sorted(pairs)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    parser.add_argument("--typefaces", type=int, default=120)
    args = parser.parse_args()

    renders = load_renders(args.work, "candidates")
    legible = [name for name in renders.typefaces if name not in ILLEGIBLE]
    renders = renders.only(legible)
    apart = distances(renders)

    first = []
    for family in SIBLINGS:
        first += [legible.index(name) for name in family if name in legible]
    taken = farthest_first(apart, first, args.typefaces)
    names = sorted(legible[place] for place in taken)
    CHOSEN.write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", "utf-8")

    own = torch.tensor([legible.index(name) for name in names])
    for distance, one, other in nearest_pairs(apart[own][:, own], names, 15):
        print(f"{distance:.3f} {one} / {other}")
    print(f"left out: {', '.join(sorted(set(legible) - set(names)))}")
    print(f"{CHOSEN}: {len(names)} of {len(legible)} typefaces")


if __name__ == "__main__":
    main()
