"""What names a base: an embedded one, a folder, a single file or a hub id. No torch is needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from multierase.files import whole_path

# By name what an embedded base is loaded with, unless it is told otherwise. `type` was taught to
# draw alike with any number of rows in T5's place, and one costs a fourth of diffusers' 256.
EMBEDDED: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {"emoji": {}, "type": {"t5_length": 1}}
)
INDEX = "model_index.json"


def embedded_folder(name: str) -> Path:
    """Return where an embedded base is; the package is installed as files."""
    return Path(str(resources.files("multierase") / "assets" / name))


def whole_source(source: str) -> str:
    """Return what names the same base in another working directory; names and hub ids stay."""
    return source if source in EMBEDDED else whole_path(source)


def is_path(source: str) -> bool:
    """Tell a path from a hub id, which is ``owner/name``."""
    # A folder on this disk comes first: a typing error must not be looked up on a hub.
    if (Path(source).expanduser() / INDEX).is_file():
        return True

    return bool(Path(source).suffix) or source.startswith((".", "/", "~")) or source.count("/") != 1
