"""Pin the packages of candidates.txt: version, hash, font file, name and copyright of each.

    python scripts/build_type/pin.py --work build/type

Writes ``sources.json`` beside this file, which data.py reads. Only to be run when a candidate is
added: what is pinned already stays as it is. Two seconds for each new package, over the network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from pathlib import Path

from sources import (
    HERE,
    LICENCE_SAYS,
    SOURCES,
    Source,
    is_open,
    load_sources,
    tarball_of,
    write_sources,
)
from tqdm import tqdm

from multierase.files import digest_file

CANDIDATES = HERE / "candidates.txt"
REGULAR = 400
# What a weight is called after a family's name, where it was asked for.
CALLED = {100: "Thin", 700: "Bold", 900: "Black"}


def candidates() -> list[tuple[str, int]]:
    """Return package and wanted weight of each candidate, regular by default."""
    wanted = {}
    for line in CANDIDATES.read_text().splitlines():
        words = line.split()
        if words and words[0] != "#":
            wanted[words[0]] = int(words[1]) if len(words) > 1 else REGULAR

    return list(wanted.items())


def newest(package: str, folder: Path) -> tuple[str, Path]:
    """Download the newest version of a package; return its version and its tarball."""
    done = subprocess.run(
        ["npm", "pack", "--json", f"@fontsource/{package}"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    (about,) = json.loads(done.stdout)

    return about["version"], tarball_of(package, about["version"], folder)


def nearest(weights: list[int], wanted: int) -> int:
    """Return the weight that is nearest to the wanted one, the lighter of two."""
    return min(weights, key=lambda weight: (abs(weight - wanted), weight))


def pin(package: str, wanted: int, folder: Path) -> Source:
    """Pin one package.

    Raises:
        ValueError: if its licence is not the SIL Open Font License.
    """
    version, tarball = newest(package, folder)
    with tarfile.open(tarball) as archive:
        about = json.load(archive.extractfile("package/metadata.json"))
        licence = archive.extractfile("package/LICENSE").read().decode("utf-8", "replace")
        files = archive.getnames()
    if not is_open(licence):
        raise ValueError(f"{package} is not under the {LICENCE_SAYS}")

    weight = nearest(about["weights"], wanted)
    file = f"package/files/{package}-latin-{weight}-normal.woff"
    if file not in files:
        raise ValueError(f"{package} has no {file}")

    return Source(
        name=about["family"] if wanted == REGULAR else f"{about['family']} {CALLED[weight]}",
        package=package,
        version=version,
        sha256=digest_file(tarball),
        file=file,
        copyright=licence.strip().splitlines()[0].strip(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/type"))
    folder = parser.parse_args().work / "npm"
    folder.mkdir(parents=True, exist_ok=True)

    pinned = {source.package: source for source in load_sources()} if SOURCES.exists() else {}
    for package, wanted in tqdm(candidates(), desc="pinning"):
        if package in pinned:
            continue
        try:
            pinned[package] = pin(package, wanted, folder)
        except (subprocess.CalledProcessError, ValueError, KeyError) as error:
            tqdm.write(f"left out {package}: {error}")
            continue
        write_sources(list(pinned.values()))

    print(f"{SOURCES}: {len(pinned)} typefaces")


if __name__ == "__main__":
    main()
