"""Fetch the nine studios' emoji, check them against pinned hashes, and render them.

    python scripts/build_base/data.py --work build/

Writes ``build/renders.npz``: ``images``, uint8 ``(studio, subject, 64, 64, 3)`` on white, and both
lists of names. Needs ``npm`` to fetch the packages and ``resvg-py`` to render them; takes about ten
seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from multierase.emoji import SUBJECTS

RESOLUTION = 64
SMALLER = 54
ICON = 60  # two pixels of white on every side: room for the shifts


@dataclass(frozen=True)
class Source:
    package: str
    version: str
    sha256: str  # of the tarball that the registry serves


STUDIOS = {
    "Noto": Source(
        "noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"
    ),
    "Blobmoji": Source(
        "noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "Twemoji": Source(
        "twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "Fluent": Source(
        "fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "Fluent Flat": Source(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "Fluent High Contrast": Source(
        "fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    "Firefox": Source(
        "fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "EmojiOne": Source(
        "emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "EmojiOne Mono": Source(
        "emojione-monotone",
        "1.2.1",
        "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    ),
}


def fetch(source: Source, folder: Path) -> Path:
    """Return the package's tarball in ``folder``; it is downloaded if need be.

    Raises:
        ValueError: if its hash is not ours.
    """
    tarball = folder / f"iconify-json-{source.package}-{source.version}.tgz"
    if not tarball.exists():
        name = f"@iconify-json/{source.package}@{source.version}"
        subprocess.run(
            ["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True
        )
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"{tarball} has sha256 {digest}, expected {source.sha256}; delete it and run again"
        )
    return tarball


def icons(tarball: Path) -> dict:
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile("package/icons.json"))


def render(package: dict, name: str, size: int = ICON) -> np.ndarray:
    """One icon, ``size`` pixels wide or high, as uint8 ``(64, 64, 3)``, centred on white."""
    icon = package["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, package.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{size}" height="{size}" '
        f'color="black">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    canvas = Image.new("RGBA", (RESOLUTION, RESOLUTION), "white")
    canvas.alpha_composite(
        drawn, ((RESOLUTION - drawn.width) // 2, (RESOLUTION - drawn.height) // 2)
    )
    return np.asarray(canvas.convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build"))
    work = parser.parse_args().work
    (work / "npm").mkdir(parents=True, exist_ok=True)
    packages = [icons(fetch(source, work / "npm")) for source in STUDIOS.values()]
    # The judge learns hands from more subjects than the base draws, so that it knows a hand, and
    # not what it remembers.
    common = set.intersection(*(set(package["icons"]) for package in packages))
    others = sorted(common - set(SUBJECTS))
    images = np.stack(
        [[render(package, name) for name in [*SUBJECTS, *others]] for package in packages]
    )
    # The same drawings at a size that nothing is trained on: the judge must know a drawing, not its
    # pixels.
    smaller = np.stack(
        [[render(package, name, SMALLER) for name in SUBJECTS] for package in packages]
    )
    np.savez_compressed(
        work / "renders.npz",
        images=images,
        smaller=smaller,
        studios=list(STUDIOS),
        subjects=SUBJECTS,
        other_subjects=others,
    )
    studios, subjects = images.shape[:2]
    print(f"{work / 'renders.npz'}: {studios} studios x {subjects} subjects, {len(others)} more")


if __name__ == "__main__":
    main()
