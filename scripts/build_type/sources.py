"""The pinned typefaces: where each comes from, its font and its licence."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from multierase.files import digest_file, replacing

HERE = Path(__file__).parent
SOURCES = HERE / "sources.json"
# The words that every text of this licence has.
LICENCE_SAYS = "SIL Open Font License, Version 1.1"


@dataclass(frozen=True)
class Source:
    """One typeface.

    Args:
        name: as people write it, for example "Press Start 2P".
        package: its name under ``@fontsource/``.
        sha256: of the tarball that the registry serves.
        file: its font in the tarball.
    """

    name: str
    package: str
    version: str
    sha256: str
    file: str
    copyright: str


def load_sources() -> list[Source]:
    """Read what pin.py has written."""
    return [Source(**row) for row in json.loads(SOURCES.read_text(encoding="utf-8"))]


def write_sources(sources: list[Source]) -> None:
    """Write the pinned typefaces, by name."""
    rows = [asdict(source) for source in sorted(sources, key=lambda one: one.name)]
    with replacing(SOURCES) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")


def is_open(licence: str) -> bool:
    """Return whether a licence's text is that of the SIL Open Font License."""
    return LICENCE_SAYS.lower() in " ".join(licence.split()).lower()


def tarball_of(package: str, version: str, folder: Path) -> Path:
    """Return where the package manager puts a tarball."""
    return folder / f"fontsource-{package}-{version}.tgz"


def fetch(source: Source, folder: Path) -> Path:
    """Return the package's tarball in ``folder``; it is downloaded if need be.

    Raises:
        ValueError: if its hash is not the pinned one.
    """
    tarball = tarball_of(source.package, source.version, folder)
    if not tarball.exists():
        name = f"@fontsource/{source.package}@{source.version}"
        command = ["npm", "pack", "--silent", name]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    digest = digest_file(tarball)
    if digest != source.sha256:
        raise ValueError(
            f"{tarball} has sha256 {digest}, expected {source.sha256}; delete it and run again"
        )
    return tarball


def font_of(source: Source, folder: Path) -> io.BytesIO:
    """Return the font file of a typeface, once its licence is seen to be the open one.

    Raises:
        ValueError: if the package's licence text is another.
    """
    with tarfile.open(fetch(source, folder)) as archive:
        text = archive.extractfile("package/LICENSE").read().decode("utf-8", "replace")
        if not is_open(text):
            raise ValueError(f"the licence of {source.name} is not the {LICENCE_SAYS}")

        return io.BytesIO(archive.extractfile(source.file).read())
