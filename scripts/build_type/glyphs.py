"""The renders that data.py has made, and which pairs of typeface and glyph no training sees."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

GLYPHS = (*string.ascii_uppercase, *string.digits)
RESOLUTION = 64
SIZES = (1.0, 0.92, 1.08)  # the usual size first
# Typefaces between two that hold a pair out, and glyphs from one held-out pair to the next.
HELD_EVERY, HELD_STRIDE = 2, 5


@dataclass(frozen=True)
class Renders:
    """Every glyph of every typeface.

    Args:
        images: uint8 ``(typeface, glyph, size, 64, 64)``, black on white.
        typefaces: their names.
    """

    images: torch.Tensor
    typefaces: list[str]

    def pictures(
        self, typeface: torch.Tensor, glyph: torch.Tensor, size: torch.Tensor
    ) -> torch.Tensor:
        """Return ``(b, 3, 64, 64)`` in [-1, 1]."""
        grey = self.images[typeface, glyph, size].float() / 127.5 - 1

        return grey[:, None].expand(-1, 3, -1, -1)

    def held_out(self) -> torch.Tensor:
        """Return boolean ``(typeface, glyph)``: pairs that the transformer never sees.

        Every second typeface holds one out. The glyphs go round in strides, so that each is held
        out by as many typefaces as any other.
        """
        held_out = torch.zeros(len(self.typefaces), len(GLYPHS), dtype=torch.bool)
        for count, typeface in enumerate(range(0, len(self.typefaces), HELD_EVERY)):
            held_out[typeface, count * HELD_STRIDE % len(GLYPHS)] = True

        return held_out

    def only(self, names: list[str]) -> Renders:
        """Return the renders of some typefaces, in the order of their names."""
        places = [self.typefaces.index(name) for name in names]

        return Renders(self.images[places], list(names))


def load_renders(work: Path, name: str = "renders") -> Renders:
    """Read what data.py has written."""
    stored = np.load(work / f"{name}.npz")

    return Renders(torch.from_numpy(stored["images"]), [str(one) for one in stored["typefaces"]])


def save_renders(renders: Renders, path: Path) -> None:
    """Write renders and the names of their typefaces."""
    np.savez_compressed(path, images=renders.images.numpy(), typefaces=renders.typefaces)
